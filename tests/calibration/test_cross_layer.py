"""Levelling between convolutions changes nothing in float, and evens out what one scale has to represent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from segrd_edge.calibration.cross_layer import between_convolutions, level_pairs
from segrd_edge.calibration.drift import Drift, measure_drift
from segrd_edge.calibration.graph import expose, read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import observe, to_ranges
from segrd_edge.calibration.session import run_engine, run_graph

INNER = "block.conv1.relu.out"
PAIRS = ["deploy.normalise.out", INNER, "down.conv1.relu.out"]


@pytest.fixture(scope="module")
def uneven(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with channels between two convolutions shrunk by 1 to 100, and the weights behind made up for it."""
    graph = read_graph(model)
    nodes = {node.name: node for node in graph.nodes}
    shrink = np.logspace(0, -2, 16, dtype=np.float32)
    for index in (1, 2):
        constant = nodes["block.conv1"].inputs[index]
        constant.values = constant.values * shrink.reshape(-1, *[1] * (constant.values.ndim - 1))
    weight = nodes["block.conv2"].inputs[1]
    weight.values = weight.values / shrink.reshape(1, -1, 1, 1)
    return write_graph(graph)


def levelled(model: onnx.ModelProto, images: list[np.ndarray]) -> onnx.ModelProto:
    plan = Plan.of(model)
    names = between_convolutions(model, plan)
    return level_pairs(model, plan, observe(model, [], images, by_channel=names, also=names).channel_largest)


def spread(values: npt.NDArray[np.float32]) -> float:
    """Largest over smallest channel."""
    return float(values.max() / values.min())


def test_pairs_are_joined_by_a_relu_or_nothing_and_have_no_other_reader(model: onnx.ModelProto) -> None:
    """Not down.conv1 of a residual sum that the skip reads too, not across MaxPool, Resize or Concat."""
    assert between_convolutions(model, Plan.of(model)) == PAIRS
    assert between_convolutions(model, Plan.of(model).only("head.")) == []
    graph = read_graph(model)
    relu = next(node for node in graph.nodes if node.name == "block.conv1.relu")
    relu.outputs[0].outputs[0].inputs[0] = relu.inputs[0]  # block.conv2 reads block.conv1 itself
    assert between_convolutions(write_graph(graph), Plan.of(model)) == [PAIRS[0], "block.conv1.out", PAIRS[2]]


def test_the_function_stays(uneven: onnx.ModelProto, images: list[np.ndarray]) -> None:
    after = levelled(uneven, images)
    for before, got in zip(
        run_engine("onnxruntime", uneven, images), run_engine("onnxruntime", after, images), strict=True
    ):
        np.testing.assert_allclose(got.anomaly_map, before.anomaly_map, atol=2e-6)
    assert Plan.of(after).quantised == Plan.of(uneven).quantised


def test_channels_are_evened_out(uneven: onnx.ModelProto, images: list[np.ndarray]) -> None:
    """Every channel's largest activation and largest weight behind it end in the same proportion."""
    plain, even = (largest(graph, images) for graph in (uneven, levelled(uneven, images)))
    assert spread(even[0]) < spread(plain[0]) / 5
    assert spread(even[1]) < spread(plain[1]) / 5
    np.testing.assert_allclose(even[1] / even[0], (even[1] / even[0]).mean(), rtol=1e-4)


def test_int8_is_closer_to_float(uneven: onnx.ModelProto, images: list[np.ndarray]) -> None:
    before, after = (block_drift(graph, uneven, images) for graph in (uneven, levelled(uneven, images)))
    assert after.score_mean < before.score_mean / 2


def largest(model: onnx.ModelProto, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Per channel between the block's convolutions: largest activation, largest weight that reads it."""
    values = np.concatenate([run[0] for run in run_graph(expose(model, [INNER]), [INNER], images)])
    conv = next(node for node in read_graph(model).nodes if node.name == "block.conv2")
    return values.max(axis=(0, 2, 3)), np.abs(conv.inputs[1].values).max(axis=(0, 2, 3))


def block_drift(model: onnx.ModelProto, reference: onnx.ModelProto, images: list[np.ndarray]) -> Drift:
    plan = Plan.of(model).only("block.conv2")
    ranges = to_ranges(observe(model, tensors_to_calibrate(model, plan), images).histograms, "max")
    wanted = list(run_engine("onnxruntime", reference, images))
    return measure_drift(wanted, list(run_engine("onnxruntime", quantise(model, ranges, plan), images)))
