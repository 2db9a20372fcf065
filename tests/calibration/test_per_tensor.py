"""A graph in which one way to a range is clearly the best of each of two tensors that hold the same values.

image ─ planes ─┬─ lift_a 3→16 ─ Relu ─ t_a ─ a 16→16 ─ −1 ─ Relu ──┐      only rare large values get through
                └─ lift_b 3→16 ─ Relu ─ t_b ─ b 16→16 ─ Min(·, LOW) ┴ Add ─ mean over channels ─ anomaly_map
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest

from segrd_edge.calibration.drift import Scale
from segrd_edge.calibration.graph import write_graph
from segrd_edge.calibration.per_tensor import Switched, choose_ranges, relative_error
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import DEFAULT_METHOD, Observed, Ranges, observe, to_ranges
from segrd_edge.calibration.session import run_engine
from segrd_edge.engines import EngineOutput

from .conftest import Builder

SIZE_HW = (32, 48)
SCALE = 10 / 255  # grey level → activation
LOW = 8 * SCALE  # what ordinary pixels stay below
PERCENTILE = 99.9  # one bright pixel in 1536 is rarer
PLAN = Plan(("a", "b"), {})

Images = list[npt.NDArray[np.uint8]]


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    b, (h, w) = Builder(), SIZE_HW
    image = gs.Variable("image", np.uint8, (1, h, w, 3))
    pixels = b.op("planes", "Transpose", b.op("cast", "Cast", image, to=1), perm=[0, 3, 1, 2])
    lift = np.zeros((16, 3, 1, 1), np.float32)
    lift[np.arange(16), np.arange(16) % 3] = SCALE
    through = np.eye(16, dtype=np.float32)[:, :, None, None]
    sides = {}
    for side in ("a", "b"):
        lifted = b.op(f"lift_{side}", "Conv", pixels, lift, np.zeros(16, np.float32))
        sides[side] = b.op(side, "Conv", b.op(f"t_{side}", "Relu", lifted), through, np.zeros(16, np.float32))
    large = b.op("large", "Relu", b.op("less", "Sub", sides["a"], np.array(1, np.float32)))
    small = b.op("small", "Min", sides["b"], np.array(LOW, np.float32))
    mean = b.op("mean", "ReduceMean", b.op("sum", "Add", large, small), np.array([1], np.int64), keepdims=0)
    anomaly_map = b.op("shrink", "Mul", mean, np.array(0.1, np.float32))
    flat = b.op("flat", "Reshape", anomaly_map, np.array([1, -1], np.int64))
    top, positions = gs.Variable("top", np.float32), gs.Variable("positions", np.int64)
    count = gs.Constant("k", np.array([20], np.int64))
    b.graph.nodes.append(gs.Node("TopK", "topk", {}, [flat, count], [top, positions]))
    score = b.op("score", "ReduceMean", top, np.array([1], np.int64), keepdims=0)
    anomaly_map.name, score.name = "anomaly_map", "score"
    b.graph.inputs, b.graph.outputs = [image], [score, anomaly_map]
    return write_graph(b.graph)


@pytest.fixture(scope="module")
def frames() -> Images:
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 9, (*SIZE_HW, 3)).astype(np.uint8) for _ in range(6)]
    for image in images:
        image[rng.integers(SIZE_HW[0]), rng.integers(SIZE_HW[1])] = 255
    return images


@pytest.fixture(scope="module")
def observed(graph: onnx.ModelProto, frames: Images) -> Observed:
    return observe(graph, tensors_to_calibrate(graph, PLAN), frames)


def anomaly_map_of(image: npt.NDArray[np.uint8], reach_a: float | None) -> npt.NDArray[np.float64]:
    """The graph's map in numpy, t_a rounded to INT8 that reaches to `reach_a`."""
    planes = image.astype(np.float64)[..., np.arange(16) % 3] * SCALE
    a = planes
    if reach_a is not None:
        step = reach_a / 127
        a = np.clip(np.rint(planes / step), -128, 127) * step
    return 0.1 * (np.maximum(a - 1, 0) + np.minimum(planes, LOW)).mean(axis=-1)


@pytest.mark.parametrize("reach", [10.0, 3.0, 0.2])
def test_a_switch_rounds_one_tensor_and_leaves_the_rest(graph: onnx.ModelProto, frames: Images, reach: float) -> None:
    switched = Switched(graph, PLAN)
    assert switched.tensors == ["t_a.out", "t_b.out"]
    rounded = switched.run(frames[0], "t_a.out", reach)
    np.testing.assert_allclose(rounded.anomaly_map, anomaly_map_of(frames[0], reach), atol=1e-5)
    assert rounded.score == pytest.approx(np.sort(rounded.anomaly_map, axis=None)[-20:].mean())
    other = switched.run(frames[0], "t_b.out", 10.0)
    assert np.abs(other.anomaly_map - anomaly_map_of(frames[0], None)).max() > 1e-4


def test_each_tensor_gets_the_method_that_serves_the_output(
    graph: onnx.ModelProto, frames: Images, observed: Observed
) -> None:
    ranges = choose_ranges(graph, PLAN, observed.histograms, PERCENTILE, frames, observed.outputs, Scale())
    assert ranges.method == "per-tensor"
    assert ranges.chosen["t_a.out"] == "max"
    assert ranges.chosen["t_b.out"] != "max"
    assert ranges.largest["t_a.out"] == pytest.approx(10)
    assert ranges.largest["t_b.out"] < 2 * LOW

    def error(ranges: Ranges) -> float:
        outputs = list(run_engine("onnxruntime", quantise(graph, ranges, PLAN), frames))
        return relative_error(observed.outputs, outputs, Scale())

    fixed = [to_ranges(observed.histograms, m, PERCENTILE) for m in ("max", "percentile", "entropy", "mse")]
    assert error(ranges) < 0.1 * min(error(other) for other in fixed)


def test_tensors_that_do_not_matter_keep_the_default(
    graph: onnx.ModelProto, frames: Images, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, float]] = []
    run = Switched.run

    def spied(switched: Switched, image: npt.NDArray[np.uint8], name: str, largest: float) -> EngineOutput:
        tried.append((name, largest))
        return run(switched, image, name, largest)

    monkeypatch.setattr(Switched, "run", spied)
    ranges = choose_ranges(graph, PLAN, observed.histograms, PERCENTILE, frames, observed.outputs, Scale())
    # Clipping takes all of what t_a gives; what it does to t_b is less than a tenth of that, and is not looked into.
    assert ranges.chosen["t_b.out"] == DEFAULT_METHOD
    assert len({largest for name, largest in tried if name == "t_b.out"}) == 1
    assert len({largest for name, largest in tried if name == "t_a.out"}) > 1


def test_a_tensor_of_zeros_and_one_outside_the_plan(graph: onnx.ModelProto, observed: Observed) -> None:
    dark = [np.zeros((*SIZE_HW, 3), np.uint8)] * 3
    zeros = observe(graph, ["t_a.out", "t_b.out", "lift_a.out"], dark)
    ranges = choose_ranges(graph, PLAN, zeros.histograms, PERCENTILE, dark, zeros.outputs, Scale())
    assert ranges.largest == {"t_a.out": 0, "t_b.out": 0, "lift_a.out": 0}
    assert set(ranges.chosen.values()) == {DEFAULT_METHOD}


def test_progress_is_told(graph: onnx.ModelProto, frames: Images, observed: Observed) -> None:
    told: dict[str, list[str]] = {}

    def track(items: Sequence[str], description: str) -> Sequence[str]:
        told[description] = list(items)
        return items

    choose_ranges(graph, PLAN, observed.histograms, PERCENTILE, frames, observed.outputs, Scale(), track=track)
    assert told == {"rounding each tensor alone": ["t_a.out", "t_b.out"], "trying other ranges": ["t_a.out"]}


def test_the_relative_error_is_pooled_and_on_the_scale() -> None:
    def output(score: float, *pixels: float) -> EngineOutput:
        return EngineOutput(score, np.array([pixels], np.float32))

    before = [output(0.5, 0.5, 0.1), output(0.1, 0.1, 0.1)]
    after = [output(0.7, 0.5, 0.1), output(0.1, 0.3, 0.1)]
    assert relative_error(before, after, Scale()) == pytest.approx(0.04 / 0.26 + 0.04 / 0.28)
    assert relative_error(before, after, Scale(floor=0.1, span=0.4)) == pytest.approx(0.04 / 0.16 + 0.04 / 0.16)
    assert relative_error(before, before, Scale()) == 0
