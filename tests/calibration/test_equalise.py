"""Equalisation changes nothing in float, and lets one INT8 scale serve branches of different magnitude."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from segrd_edge.calibration.drift import Drift, measure_drift
from segrd_edge.calibration.equalise import concatenations, equalise
from segrd_edge.calibration.graph import expose, read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges, observe, to_ranges
from segrd_edge.calibration.session import run_engine, run_graph

BRANCH = 0.02  # of the model's second branch, whose weights make up for it


@pytest.fixture(scope="module")
def unequal(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with one branch of its concatenation 50 times smaller and the weights that read it 50 times larger."""
    graph = read_graph(model)
    concat = next(node for node in graph.nodes if node.op == "Concat")
    small = gs.Variable("small", np.float32, concat.inputs[1].shape)
    factor = gs.Constant("factor", np.array(BRANCH, np.float32))
    graph.nodes.append(gs.Node("Mul", "shrink", inputs=[concat.inputs[1], factor], outputs=[small]))
    concat.inputs[1] = small
    fuse = next(node for node in graph.nodes if node.name == "head.fuse")
    weight = fuse.inputs[1].values.copy()
    weight[:, 16:] /= BRANCH
    fuse.inputs[1] = gs.Constant("head.fuse.weight", weight)
    return write_graph(graph)


def levelled(model: onnx.ModelProto, images: list[np.ndarray]) -> tuple[onnx.ModelProto, dict[str, float]]:
    plan = Plan.of(model)
    names = concatenations(model, plan)
    return equalise(model, plan, observe(model, names, images, by_channel=names).channel_largest)


def head_drift(model: onnx.ModelProto, ranges: Ranges, reference: onnx.ModelProto, images: list[np.ndarray]) -> Drift:
    int8 = quantise(model, ranges, Plan.of(model).only("head."))
    wanted, got = (list(run_engine("onnxruntime", graph, images)) for graph in (reference, int8))
    return measure_drift(wanted, got)


def observed_ranges(model: onnx.ModelProto, images: list[np.ndarray]) -> Ranges:
    return to_ranges(observe(model, tensors_to_calibrate(model, Plan.of(model)), images).histograms, "max")


def test_only_concatenations_that_convolutions_alone_read(model: onnx.ModelProto) -> None:
    assert concatenations(model, Plan.of(model)) == ["concat.out"]
    assert concatenations(model, Plan.of(model).only("block.")) == []


def test_the_function_stays(unequal: onnx.ModelProto, images: list[np.ndarray]) -> None:
    equalised, _ = levelled(unequal, images)
    for before, after in zip(
        run_engine("onnxruntime", unequal, images), run_engine("onnxruntime", equalised, images), strict=True
    ):
        np.testing.assert_allclose(after.anomaly_map, before.anomaly_map, atol=2e-6)
    assert Plan.of(equalised).quantised == Plan.of(unequal).quantised


def test_activation_and_weight_meet_in_the_middle(unequal: onnx.ModelProto, images: list[np.ndarray]) -> None:
    """Every channel's largest activation and largest weight end in the same proportion."""
    equalised, largest = levelled(unequal, images)
    name = "concat.out.equalised"
    values = np.concatenate([run[0] for run in run_graph(expose(equalised, [name]), [name], images)])
    activation = np.abs(values).max(axis=(0, 2, 3))
    fuse = next(node for node in read_graph(equalised).nodes if node.name == "head.fuse")
    weight = np.abs(fuse.inputs[1].values).max(axis=(0, 2, 3))
    np.testing.assert_allclose(weight / activation, (weight / activation).mean(), rtol=1e-4)
    assert largest[name] == pytest.approx(activation.max(), rel=1e-6)


def test_int8_is_closer_to_float(unequal: onnx.ModelProto, images: list[np.ndarray]) -> None:
    equalised, largest = levelled(unequal, images)
    plain = observed_ranges(unequal, images)
    before = head_drift(unequal, plain, unequal, images)
    levelled_ranges = Ranges({**plain.largest, **largest}, plain.method)
    after = head_drift(equalised, levelled_ranges, unequal, images)
    assert after.score_mean < before.score_mean / 3


def test_a_dead_channel_is_left_alone(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    plan = Plan.of(model)
    largest = observe(model, ["concat.out"], images, by_channel=["concat.out"]).channel_largest["concat.out"].copy()
    largest[3] = 0
    equalised, _ = equalise(model, plan, {"concat.out": largest})
    factors = next(n for n in read_graph(equalised).nodes if n.name == "concat.out.equalise").inputs[1].values
    assert factors.reshape(-1)[3] == 1
    assert np.isfinite(factors).all()
