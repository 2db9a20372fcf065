"""Weights rounded so that their errors make up for each other: less error behind every convolution, the same rules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest

from segrd_edge.calibration import weight_rounding
from segrd_edge.calibration.graph import OPSET, expose, read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import draft, quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges, observe, to_ranges
from segrd_edge.calibration.rules.conv_weight import quantise_weight
from segrd_edge.calibration.session import run_graph
from segrd_edge.calibration.weight_rounding import round_weights


def smooth(count: int = 16, side: int = 24) -> list[npt.NDArray[np.uint8]]:
    """Images whose neighbouring pixels are alike, as photographs are."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, side // 4, side // 4, 3))
    return [np.kron(image, np.ones((4, 4, 1))).astype(np.uint8) for image in coarse]


def conv(weight: npt.NDArray[np.float32], **attributes: object) -> onnx.ModelProto:
    """One convolution of an image, with score and map as a deploy graph has them."""
    graph = gs.Graph(opset=OPSET)
    image = gs.Variable("image", np.uint8, (1, 24, 24, 3))
    graph.inputs = [image]
    pixels, planes, out = (gs.Variable(name, np.float32) for name in ("pixels", "planes", "out"))
    graph.nodes = [
        gs.Node("Cast", "pixels", {"to": onnx.TensorProto.FLOAT}, [image], [pixels]),
        gs.Node("Transpose", "planes", {"perm": [0, 3, 1, 2]}, [pixels], [planes]),
        gs.Node("Conv", "conv", attributes, [planes, gs.Constant("weight", weight)], [out]),
    ]
    graph.outputs = [out]
    return write_graph(graph)


def power(weight: npt.NDArray[np.float32], values: npt.NDArray[np.int8], model: onnx.ModelProto) -> float:
    """Of the error that the rounding of the weights alone makes in the output, of all images."""
    _, scale = quantise_weight(weight)
    total = 0.0
    graph = read_graph(model)
    (node,) = (node for node in graph.nodes if node.op == "Conv")
    rounded = values * scale.reshape(-1, 1, 1, 1)
    node.inputs[1] = gs.Constant("difference", (weight - rounded).astype(np.float32))
    for (error,) in run_graph(write_graph(graph), ["out"], smooth()):
        total += float(np.square(error.astype(np.float64)).sum())
    return total


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "pads": [0, 1, 2, 0], "strides": [2, 1]},
        {"kernel_shape": [3, 3], "dilations": [2, 3]},
    ],
)
def test_errors_of_the_output_shrink(attributes: dict[str, list[int]]) -> None:
    weight = np.random.default_rng(1).normal(size=(16, 3, 3, 3)).astype(np.float32)
    model = conv(weight, **attributes)
    rounded = round_weights(model, ["conv"], smooth())["conv"]
    nearest, _ = quantise_weight(weight)
    assert rounded.shape == weight.shape
    assert rounded.dtype == np.int8
    assert np.abs(rounded).max() == 127  # the scales are those of the float weights
    assert power(weight, rounded, model) < 0.5 * power(weight, nearest, model)


def test_what_a_convolution_reads_is_in_the_order_of_its_weight() -> None:
    """The outputs at the sampled places are the product of the weight and the samples."""
    weight = np.random.default_rng(1).normal(size=(16, 3, 3, 5)).astype(np.float32)
    attributes = {"kernel_shape": [3, 5], "pads": [1, 0, 0, 2], "strides": [2, 3], "dilations": [3, 2]}
    model = conv(weight, **attributes)
    (node,) = (node for node in read_graph(model).nodes if node.op == "Conv")
    window = weight_rounding._Window.of(node)
    ((planes, out),) = run_graph(expose(model, ["planes"]), ["planes", "out"], smooth(1))
    read = window.samples(planes, np.random.default_rng(0))
    places = np.random.default_rng(0).choice(out[0, 0].size, read.shape[1], replace=False)
    wanted = out[0].reshape(16, -1)[:, places]
    np.testing.assert_allclose(weight.reshape(16, -1) @ read, wanted, rtol=1e-4, atol=1e-2)


def test_no_channel_is_worse_than_with_nearest_steps() -> None:
    """Channel by channel, one that is nearly nothing but its largest weight among them."""
    weight = np.random.default_rng(2).normal(size=(16, 3, 3, 3)).astype(np.float32)
    weight[3] *= 1e-4
    weight[3, 0, 0, 0] = 1.0
    weight[5] = 0.0
    model = conv(weight, kernel_shape=[3, 3])
    rounded = round_weights(model, ["conv"], smooth())["conv"]
    nearest, _ = quantise_weight(weight)
    assert not rounded[5].any()
    for channel in range(16):
        one = np.zeros_like(weight)
        one[channel] = weight[channel]
        kept, before = (np.where(one != 0, values, 0).astype(np.int8) for values in (rounded, nearest))
        assert power(one, kept, model) <= 1.1 * power(one, before, model)  # of all places, not those sampled


def test_a_weight_that_is_shared_keeps_the_nearest_steps() -> None:
    """What makes up for errors behind one input does not behind another, and the file has but one initialiser."""
    graph = read_graph(conv(np.ones((16, 3, 3, 3), np.float32), kernel_shape=[3, 3]))
    (node,) = (node for node in graph.nodes if node.op == "Conv")
    twice = gs.Variable("twice", np.float32)
    graph.nodes.append(gs.Node("Conv", "again", node.attrs, node.inputs, [twice]))
    graph.outputs = [*graph.outputs, twice]
    assert round_weights(write_graph(graph), ["conv", "again"], smooth()) == {}


def test_kernels_with_many_columns_are_rounded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(1).normal(size=(16, 3, 3, 3)).astype(np.float32)
    model = conv(weight, kernel_shape=[3, 3])
    whole = round_weights(model, ["conv"], smooth())["conv"]
    monkeypatch.setattr(weight_rounding, "COLUMNS", 10)  # of 27, so three parts of one channel each
    parts = round_weights(model, ["conv"], smooth())["conv"]
    nearest, _ = quantise_weight(weight)
    assert power(weight, whole, model) < power(weight, parts, model) < power(weight, nearest, model)


def test_a_convolution_is_rounded_alike_whichever_others_are(
    model: onnx.ModelProto, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, with all others, or in a pass over the frames of its own, for which there is memory."""
    names = Plan.of(model).quantised
    at_once = round_weights(model, names, images)
    assert set(at_once) == set(names)
    alone = {name: round_weights(model, [name], images)[name] for name in names}
    monkeypatch.setattr(weight_rounding, "_BYTES", 1)
    one_by_one = round_weights(model, names[::-1], images)
    for name, values in at_once.items():
        np.testing.assert_array_equal(values, alone[name], name)
        np.testing.assert_array_equal(values, one_by_one[name], name)


def test_the_graph_has_them_and_keeps_to_the_rules(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    plan = Plan.of(model)
    observed = observe(model, tensors_to_calibrate(model, plan), images)
    plain = to_ranges(observed.histograms, "max", 99.99)
    weights = round_weights(model, plan.quantised, images)
    ranges = Ranges(plain.largest, plain.method, reach=plain.largest, weights=weights)
    for graph in (
        quantise(model, ranges, plan),
        draft(model, ranges, plan.in_two_terms(dict.fromkeys(plan.quantised, ""))),
    ):
        found = {node.name: node.inputs[1].inputs[0] for node in read_graph(graph).nodes if node.name in weights}
        for name, values in weights.items():
            np.testing.assert_array_equal(found[name].inputs[0].values, values)
            _, scale = quantise_weight(next(n.inputs[1].values for n in read_graph(model).nodes if n.name == name))
            np.testing.assert_array_equal(found[name].inputs[1].values, scale)
