"""Which graphs a target gets, what they take and give, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest

from segrd_edge import engines
from segrd_edge.calibration.budget import Budget
from segrd_edge.calibration.drift import measure_drift
from segrd_edge.calibration.fine_tuning import Tuned
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.graph import read_graph, write_graph
from segrd_edge.calibration.session import run_engine
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.errors import ExportError
from segrd_edge.export import graphs as station
from segrd_edge.export.fp16_plan import largest_activations
from segrd_edge.export.golden import differences, golden_outputs
from segrd_edge.export.graphs import build_graphs
from segrd_edge.export.target import CPU, Target
from segrd_edge.preprocess import Preprocess
from segrd_edge.selftest import golden_frame

from ..calibration.conftest import build_small

SIZE_HW = (32, 64)
FRAME_HW = (80, 100)
PREPROCESS = Preprocess(SIZE_HW, fit="letterbox")
Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build_small(SIZE_HW)


@pytest.fixture(scope="module")
def images() -> list[Image]:
    rng = np.random.default_rng(3)
    smooth = [np.kron(rng.integers(0, 256, (4, 8, 3)), np.ones((8, 8, 1))) for _ in range(4)]
    return [np.clip(s + rng.normal(0, 8, s.shape), 0, 255).astype(np.uint8) for s in smooth]


@pytest.fixture(scope="module")
def frames(images: list[Image]) -> Callable[[], Sequence[CalibrationFrame]]:
    return lambda: [CalibrationFrame(image, Path("photo.png"), "0" * 64, "good") for image in images]


def ports(graph: onnx.ModelProto) -> dict[str, list[int]]:
    tensors = (*graph.graph.input, *graph.graph.output)
    return {t.name: [d.dim_value for d in t.type.tensor_type.shape.dim] for t in tensors}


@pytest.mark.parametrize(
    ("int8", "target", "precisions"),
    [
        (False, CPU, ["fp32"]),
        (True, CPU, ["fp32", "int8"]),
        (False, Target("tensorrt"), ["fp32", "fp16"]),
        (True, Target("tensorrt-rtx"), ["fp32", "int8", "fp16", "mixed"]),
    ],
)
def test_precisions(model: onnx.ModelProto, frames: Any, int8: bool, target: Target, precisions: list[str]) -> None:
    lines: list[str] = []
    graphs, calibration = build_graphs(model, PREPROCESS, target, frames, int8=int8, said=lines.append)
    assert list(graphs) == precisions
    assert (calibration is not None) == int8
    assert [line.split(":")[0] for line in lines if "at once" in line] == [p for p in precisions if p not in _CPU]
    for precision, graph in graphs.items():
        assert (graph.batch, graph.frame_hw) == (1, None)
        assert graph.engine == ("auto" if precision in _CPU else "onnxruntime")
        assert bool(graph.kept_fp32) == (precision not in _CPU)
        assert (graph.drift is None) == (precision == "fp32")


_CPU = ("fp32", "int8")


@pytest.mark.parametrize(("limit", "safe"), [(1.0, True), (0.0, False)])
def test_whether_int8_is_safe_is_said_of_each_graph_that_has_it(
    limit: float, safe: bool, model: onnx.ModelProto, frames: Any
) -> None:
    lines: list[str] = []
    budget = Budget(score_shift=limit, map_cosine=0, pairs_turned=1)
    graphs, _ = build_graphs(
        model,
        PREPROCESS,
        Target("tensorrt"),
        frames,
        int8=True,
        settings=Int8Settings(budget=budget),
        said=lines.append,
    )
    assert {precision: graph.is_safe for precision, graph in graphs.items()} == {
        "fp32": None, "int8": safe, "fp16": None, "mixed": safe,
    }  # fmt: skip
    assert lines[-1].startswith("mixed: ")
    assert lines[-1].endswith("so TensorRT takes fp16") == (not safe)


def test_a_fine_tuned_graph_is_calibrated_in_every_way_and_its_blocks_are_not_measured_again(
    model: onnx.ModelProto, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, str, int]] = []
    calibrate = station.calibrate

    def watched(*args: Any, settings: Int8Settings, **options: Any) -> Any:
        found = calibrate(*args, settings=settings, **options)
        asked.append((settings.each_block, found.ranges.method, len(found.prepared.method_trials)))
        return found

    monkeypatch.setattr(station, "calibrate", watched)
    monkeypatch.setattr(station, "nearer", lambda plain, tuned, *spent: tuned)
    settings = Int8Settings(scope="all", each_block=True)
    tune = lambda int8_graph: Tuned(model, 1.0, 1)  # noqa: E731
    _, calibration = build_graphs(model, PREPROCESS, CPU, frames, int8=True, settings=settings, tune=tune)
    assert calibration is not None
    method = asked[0][1]  # the fine-tune was done with its scales
    assert asked == [(True, method, 2), (False, method, 0)]
    assert set(calibration.by_method) == {"percentile", "max", "entropy", "mse"}


def test_processors_need_no_calibration_frames_without_int8(model: onnx.ModelProto) -> None:
    build_graphs(model, PREPROCESS, CPU, lambda: pytest.fail("frames were made"), int8=False)


def test_only_the_graphs_for_tensorrt_take_frames_and_a_batch(model: onnx.ModelProto, frames: Any) -> None:
    target = Target("tensorrt", FRAME_HW, 3)
    graphs, _ = build_graphs(model, PREPROCESS, target, frames, int8=True)
    one = {"image": [1, *SIZE_HW, 3], "score": [1], "anomaly_map": [1, *SIZE_HW]}
    three = {"frame": [3, *FRAME_HW, 3], "score": [3], "anomaly_map": [3, *SIZE_HW]}
    assert [ports(graph.model) for graph in graphs.values()] == [one, one, three, three]
    assert [ports(graph.judged) for graph in graphs.values()] == [one] * 4
    assert [(graph.batch, graph.frame_hw) for graph in graphs.values()] == [(1, None)] * 2 + [(3, FRAME_HW)] * 2
    alone, judged = read_graph(graphs["mixed"].alone), read_graph(graphs["mixed"].judged)
    quantisers = [[n.name for n in graph.nodes if n.op == "QuantizeLinear"] for graph in (alone, judged)]
    assert quantisers[0] == quantisers[1] != []


def test_one_pass_gives_scales_and_ranges(
    model: onnx.ModelProto, frames: Any, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(station, "observe", lambda *_, **__: pytest.fail("observed again"))
    graphs, calibration = build_graphs(model, PREPROCESS, Target("tensorrt"), frames, int8=True)
    assert calibration is not None
    wanted = largest_activations(model, images)
    assert {name: calibration.prepared.largest[name] for name in wanted} == wanted
    assert calibration.prepared.largest.keys() - wanted.keys() == {"concat.out.equalised"}
    assert "scope" in calibration.decision
    reasons = graphs["mixed"].kept_fp32
    assert reasons["deploy.normalise"] == "pre- or postprocessing"
    assert reasons["head.out"].startswith("gives or follows raw")


def test_a_range_that_the_float_graph_did_not_ask_for_is_observed(
    model: onnx.ModelProto, frames: Any, images: list[Image]
) -> None:
    """A weight beyond float16 keeps its node in float32 whatever the range; as INT8 it is beyond nothing."""
    graph = read_graph(model)
    nodes = {node.name: node for node in graph.nodes}
    nodes["up"].inputs[1].values[0, 0, 0, 0] = 1e5
    nodes["head.fuse"].inputs[1].values[:, 0] = 0  # the loud channel goes nowhere
    loud = write_graph(graph)
    graphs, _ = build_graphs(
        loud, PREPROCESS, Target("tensorrt"), frames, int8=True, settings=Int8Settings(scope="all")
    )
    assert graphs["fp16"].kept_fp32["up"].startswith("up.weight reaches 1e+05")
    assert graphs["mixed"].kept_fp32["up"].startswith("up.out reaches ")


def test_drift_is_that_of_the_rounding_graph(model: onnx.ModelProto, frames: Any, images: list[Image]) -> None:
    graphs, _ = build_graphs(model, PREPROCESS, Target("tensorrt"), frames, int8=False)
    reference, outputs = (list(run_engine("onnxruntime", graph, images)) for graph in (model, graphs["fp16"].judged))
    assert graphs["fp16"].drift is not None
    wanted = measure_drift(reference, outputs).to_dict()
    assert graphs["fp16"].drift.to_dict() == pytest.approx(wanted, abs=1e-4)
    assert 0 < graphs["fp16"].drift.map_max < 5e-3


def test_golden_outputs_are_those_of_the_graphs_as_they_are_shipped(
    model: onnx.ModelProto, frames: Any, images: list[Image]
) -> None:
    graphs, _ = build_graphs(model, PREPROCESS, Target("tensorrt", FRAME_HW, 3), frames, int8=True)
    golden = golden_outputs(graphs, images[:2], PREPROCESS)
    assert set(golden) == {"images", *(f"{kind}_{p}" for kind in ("score", "map") for p in graphs)}
    np.testing.assert_array_equal(golden["images"], images[:2])
    for precision, graph in graphs.items():
        assert golden[f"score_{precision}"].shape == (2,)
        assert golden[f"map_{precision}"].shape == (2, *SIZE_HW)
        engine = engines.create("onnxruntime", graph.model.SerializeToString())
        items = [golden_frame(i, PREPROCESS, FRAME_HW) if engine.takes_frames else i for i in images[:2]]
        for number, item in enumerate(items):
            for output in engine.run_batch([item] * engine.batch):
                assert output.score == pytest.approx(golden[f"score_{precision}"][number], abs=1e-3)
                np.testing.assert_allclose(output.anomaly_map, golden[f"map_{precision}"][number], atol=5e-3)


def test_differences_are_between_graphs_that_see_the_same_pixels(
    model: onnx.ModelProto, frames: Any, images: list[Image]
) -> None:
    graphs, _ = build_graphs(model, PREPROCESS, Target("tensorrt", FRAME_HW), frames, int8=True)
    golden = golden_outputs(graphs, images[:2], PREPROCESS)
    found = differences(graphs, golden, "fp16", PREPROCESS)
    blurred = np.abs(golden["map_fp16"] - golden["map_fp32"]).max()  # by enlarging and shrinking
    assert 0 < found["score"] < found["map"] < 5e-3 < blurred
    plain = differences(graphs, golden, "int8", PREPROCESS)
    assert plain["score"] == np.abs(golden["score_int8"] - golden["score_fp32"]).max()


def test_items_that_see_each_other_are_not_shipped(model: onnx.ModelProto, frames: Any, images: list[Image]) -> None:
    """Every shape of this graph follows the batch, and yet each item is normalised by the largest of all."""
    graphs, _ = build_graphs(model, PREPROCESS, Target("tensorrt", None, 2), frames, int8=False)
    mixing = read_graph(graphs["fp16"].model)
    anomaly_map = mixing.outputs[1]
    producer = anomaly_map.inputs[0]
    own, largest = gs.Variable("own", np.float32), gs.Variable("largest", np.float32)
    axes = gs.Constant("axes", np.array([0]))
    producer.outputs = [own]
    mixing.nodes.append(gs.Node("ReduceMax", "largest", {}, [own, axes], [largest]))
    mixing.nodes.append(gs.Node("Div", "divide", {}, [own, largest], [anomaly_map]))
    broken = replace(graphs["fp16"], model=write_graph(mixing))
    with pytest.raises(ExportError, match=r"golden image \d gives another fp16 result in a batch than alone"):
        golden_outputs({"fp16": broken}, images, PREPROCESS)
