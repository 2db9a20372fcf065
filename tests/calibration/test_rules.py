"""Every rule by itself: what it sees before, what it leaves behind, and what that does to the numbers.

Of `two_terms` the numbers are in test_quantise, and what its `check` and that of `conv_weight` refuse is in test_check.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from segrd_edge.calibration.graph import expose, read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges
from segrd_edge.calibration.rules import (
    channels,
    constant_weight,
    conv_input,
    conv_weight,
    grouped,
    residual_skip,
    vector,
)
from segrd_edge.calibration.rules.site import Site

from .conftest import Builder


def conv(weight_shape: tuple[int, ...], map_hw: tuple[int, int] = (8, 8), group: int = 1) -> gs.Node:
    weight = gs.Constant("w", np.ones(weight_shape, np.float32))
    output = gs.Variable("y", np.float32, (1, weight_shape[0], *map_hw))
    return gs.Node("Conv", "c", {"group": group}, [gs.Variable("x", np.float32), weight], [output])


@pytest.mark.parametrize(
    ("outputs", "inputs", "reason"),
    [
        (64, 64, None),
        (16, 16, None),
        (64, 3, None),  # the stem
        (64, 1, None),
        (20, 3, "3 input channels"),  # a stem whose outputs are no multiple of 8
        (3, 3, "3 input channels"),  # normalisation
        (64, 8, "8 input channels"),
        (1, 256, "1 output channels"),
    ],
)
def test_channels(outputs: int, inputs: int, reason: str | None) -> None:
    found = channels.check(conv((outputs, inputs, 3, 3)))
    assert found is None if reason is None else reason in str(found)


def test_grouped() -> None:
    assert grouped.check(conv((16, 1, 3, 3), group=16)) == "grouped convolution (16 groups)"
    assert grouped.check(conv((16, 16, 3, 3))) is None


def test_vector() -> None:
    assert vector.check(conv((16, 16, 1, 1), (1, 1))) is not None
    assert vector.check(conv((16, 16, 1, 1), (1, 2))) is None


def test_constant_weight() -> None:
    node, other = conv((16, 16, 3, 3)), conv((16, 16, 3, 3))
    assert constant_weight.check(node) is None
    other.inputs[1] = node.inputs[1]
    assert "shared by 2 nodes" in str(constant_weight.check(node))
    other.inputs[1] = gs.Variable("computed", np.float32)
    assert "computed" in str(constant_weight.check(other))


def test_conv_weight_is_within_half_a_step_per_channel() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([1, 10, 1e-3, 0, 1, 1e-20])
    weight = (rng.normal(0, 1, (6, 4, 3, 3)) * sizes[:, None, None, None]).astype(np.float32)
    values, scale = conv_weight.quantise_weight(weight)
    assert values.dtype == np.int8
    assert scale.dtype == np.float32
    assert scale.shape == (6,)
    step = scale[:, None, None, None]
    assert np.all(np.abs(values * step - weight) <= step / 2 * 1.0001)
    # all of the range, never -128
    assert np.all(np.abs(values.reshape(6, -1)).max(axis=1) == [127, 127, 127, 0, 127, 0])
    assert np.all(scale > 0)


def test_conv_weight_rewrite_keeps_name_and_bias(model: onnx.ModelProto) -> None:
    graph = read_graph(model)
    node = next(node for node in graph.nodes if node.name == "block.conv1")
    before, bias = node.inputs[1].values, node.inputs[2]
    dequantise = conv_weight.rewrite(node)
    stored, scale, zero = dequantise.inputs
    assert stored.name == "block.conv1.weight"
    assert stored.values.dtype == np.int8
    assert dequantise.attrs["axis"] == 0
    assert not zero.values.any()
    assert node.inputs[1] is dequantise.outputs[0]
    assert node.inputs[2] is bias
    assert np.allclose(stored.values * scale.values[:, None, None, None], before, atol=scale.values.max() / 2)


@pytest.mark.parametrize(
    ("op", "axis", "reason"),
    [
        ("Conv", 0, None),
        ("ConvTranspose", 1, None),
        ("Conv", 1, "weights need one scale per output channel, on axis 0"),
        ("ConvTranspose", 0, "weights need one scale per output channel, on axis 1"),
    ],
)
def test_conv_weight_wants_scales_of_the_output_channels(op: str, axis: int, reason: str | None) -> None:
    node = conv((16, 32, 3, 3))
    dequantise = conv_weight.rewrite(node)
    node.op, dequantise.attrs["axis"] = op, axis
    dequantise.inputs[1] = gs.Constant("scale", np.ones((16, 32)[axis], np.float32))
    assert conv_weight.check(dequantise) == reason


def test_conv_input_is_the_activation_of_every_planned_convolution(model: onnx.ModelProto) -> None:
    sites = conv_input.sites(read_graph(model), frozenset({"down.conv1", "down.skip"}))
    assert [(site.node.name, site.index) for site in sites] == [("down.conv1", 0), ("down.skip", 0)]
    assert len({site.tensor.name for site in sites}) == 1  # one tensor, so one pair


def test_conv_input_refuses_constants_and_what_is_half_quantised() -> None:
    node = conv((16, 16, 3, 3))
    assert conv_input.check(node) is None
    dequantise = conv_weight.rewrite(node)
    assert conv_input.check(node) == "its weight is quantised, the other one is not"
    node.inputs = [dequantise.outputs[0], gs.Constant("w2", np.ones((16, 16, 3, 3), np.float32))]
    assert conv_input.check(node) == "its input is quantised, the other one is not"
    node.inputs[0] = gs.Constant("x", np.ones((1, 16, 8, 8), np.float32))
    assert conv_input.check(node) == "its input x is a constant"


def test_a_convolution_with_a_quantised_input_alone_stays_float() -> None:
    b = Builder()
    x = network_input()
    grid = [np.array(0.1, np.float32), np.array(0, np.int8)]
    levels = b.op("quantise", "QuantizeLinear", x, *grid)
    levels.dtype = np.int8
    model = finished(b, x, b.conv("conv", b.op("dequantise", "DequantizeLinear", levels, *grid), 16, 16))
    assert Plan.of(model).left_float == {"conv": "its input is quantised, the other one is not"}


SHAPE = (1, 16, 8, 8)
LARGEST = 6.0  # no activation below is larger; INT8 has the step LARGEST / 127
STEP = np.float32(LARGEST / 127)


def network_input() -> gs.Variable:
    return gs.Variable("x", np.float32, SHAPE)


def finished(b: Builder, x: gs.Variable, output: gs.Variable) -> onnx.ModelProto:
    b.graph.inputs, b.graph.outputs = [x], [output]
    return write_graph(b.graph)


def in_int8(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    return quantise(model, Ranges(dict.fromkeys(tensors_to_calibrate(model, plan), LARGEST), "max"), plan)


def run(model: onnx.ModelProto, x: np.ndarray) -> list[Any]:
    """All outputs, of the graph as it is written."""
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), plain, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_conv_input_moves_the_result_by_half_a_step_of_each_input(kernel: int, stride: int) -> None:
    """The weights are on INT8's grid already, so that nothing but the input is rounded."""
    b = Builder()
    x = network_input()
    output = b.conv("conv", x, 16, 16, kernel, stride)
    weight = b.rng.integers(-127, 128, (16, 16, kernel, kernel)).astype(np.float32) / 128
    weight[:, 0, 0, 0] = 127 / 128
    b.graph.nodes[0].inputs[1].values = weight
    before = finished(b, x, output)
    given = b.rng.uniform(-1, 1, SHAPE).astype(np.float32)
    (wanted,), (got,) = run(before, given), run(in_int8(before, Plan.of(before)), given)
    moved = np.abs(got - wanted).max(axis=(0, 2, 3))
    bound = np.abs(weight).sum(axis=(1, 2, 3)) * STEP / 2
    assert np.all(moved <= bound * 1.0001)
    assert np.all(moved > 0.03 * bound)  # the errors of up to 144 inputs average out
    (rounded,) = run(before, np.rint(given / STEP) * STEP)
    assert np.abs(got - rounded).max() < 1e-5


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("has_conv", [False, True])
def test_residual_skip_moves_the_sum_by_half_a_step_of_the_skip(index: int, has_conv: bool) -> None:
    """Against the same INT8 graph with its skip in float."""
    b = Builder()
    x = network_input()
    longer = b.conv("conv2", b.relu(b.conv("conv1", x, 16, 16)), 16, 16)
    skip = b.conv("skip", x, 16, 16, 1) if has_conv else b.relu(x)
    model = finished(b, x, b.op("add", "Add", *((skip, longer) if index == 0 else (longer, skip))))
    plan = Plan.of(model)
    (site,) = residual_skip.sites(read_graph(model), frozenset(plan.quantised))
    assert (site.index, site.tensor.name) == (index, skip.name)
    given = b.rng.uniform(-1, 1, SHAPE).astype(np.float32)
    wanted, skipped = run(expose(in_int8(model, plan.with_float_skips()), [skip.name]), given)
    (got,) = run(in_int8(model, plan), given)
    moved = got - wanted
    assert np.abs(moved).max() <= STEP / 2 * 1.0001
    assert np.abs(moved).max() > 0.4 * STEP
    assert np.abs(moved - (np.rint(skipped / STEP) * STEP - skipped)).max() < 1e-5


def skips(model: onnx.ModelProto, *quantised: str) -> dict[str, str]:
    sites = residual_skip.sites(read_graph(model), frozenset(quantised or Plan.of(model).quantised))
    return {site.node.name: site.tensor.name for site in sites}


def test_residual_skip_is_the_identity_or_the_shorter_path(model: onnx.ModelProto) -> None:
    # head.add sums two float tensors of different shape and is no residual
    assert skips(model) == {"block.add": "pool.out", "down.add": "down.skip.out"}


def test_residual_skip_follows_the_plan(model: onnx.ModelProto) -> None:
    assert skips(model, "up") == {}
    assert skips(model, "down.conv2") == {"down.add": "down.skip.out"}
    assert skips(model, "down.skip") == {"down.add": "down.conv2.out"}


def test_residual_skip_is_either_of_two_equal_paths() -> None:
    b = Builder()
    x = network_input()
    left, right = b.conv("left", x, 16, 16), b.relu(x)
    graph = read_graph(finished(b, x, b.op("add", "Add", left, b.conv("right", right, 16, 16))))
    both = frozenset({"left", "right"})
    assert [site.index for site in residual_skip.sites(graph, both)] == [1]
    sides = [Site(graph.nodes[-1], index) for index in (0, 1)]
    assert [residual_skip.check(side, both, residual_skip.depths(graph)) for side in sides] == [None, None]


def test_residual_skip_is_the_longer_path_where_something_else_reads_it() -> None:
    """A kernel that adds to a convolution's sums keeps them to itself. The check sees it through the pair, too."""
    b = Builder()
    x = network_input()
    longer = b.conv("conv2", b.relu(b.conv("conv1", x, 16, 16)), 16, 16)
    total = b.op("add", "Add", longer, b.conv("skip", x, 16, 16))
    model = finished(b, x, b.op("sum", "Add", total, b.conv("conv3", longer, 16, 16)))
    assert skips(model) == {"add": "conv2.out", "sum": "add.out"}
    in_int8(model, Plan.of(model))


@pytest.mark.parametrize(
    ("name", "index", "reason"),
    [
        ("block.add", 0, "the other side, pool.out, is not the output of an INT8 convolution, read by this sum alone"),
        ("block.add", 1, None),
        ("down.add", 0, "down.conv2.out ends the longer path, and down.skip.out is the skip"),
        ("down.add", 1, None),
        ("head.add", 0, "the sides of the sum, [1, 16, 1, 1] and [1, 16, 16, 24], differ in shape"),
        ("of.constant", 0, "one side of the sum is a constant or a network input"),
    ],
)
def test_residual_skip_refuses_with_a_reason(model: onnx.ModelProto, name: str, index: int, reason: str | None) -> None:
    graph = read_graph(model)
    nodes = {node.name: node for node in graph.nodes}
    inputs = [nodes["pool"].outputs[0], gs.Constant("bias", np.ones((1, 16, 8, 12), np.float32))]
    nodes["of.constant"] = gs.Node("Add", "of.constant", inputs=inputs)
    side = Site(nodes[name], index)
    assert residual_skip.check(side, frozenset(Plan.of(model).quantised), residual_skip.depths(graph)) == reason


def test_quantisation_does_not_change_depths(model: onnx.ModelProto) -> None:
    plan = Plan.of(model).in_two_terms({"block.conv1": "", "down.skip": ""})
    reach = dict.fromkeys(tensors_to_calibrate(model, plan), LARGEST)
    after = residual_skip.depths(read_graph(quantise(model, Ranges(reach, "max", reach=reach), plan)))
    before = residual_skip.depths(read_graph(model))
    assert before == {name: after[name] for name in before}
    assert before["down.conv2.out"] == before["down.skip.out"] + 1
