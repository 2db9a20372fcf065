"""The check must find what was broken on purpose, and nothing in a good graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from segrd_edge.calibration.check import check, violations
from segrd_edge.calibration.graph import read_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges
from segrd_edge.calibration.rules import conv_weight
from segrd_edge.errors import ExportError


@pytest.fixture(scope="module")
def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    plan = Plan.of(model)
    return quantise(model, Ranges(dict.fromkeys(tensors_to_calibrate(model, plan), 1.0), "max"), plan)


Nodes = dict[str, gs.Node]


def zero_point(nodes: Nodes) -> None:
    node = nodes["pool.out.quantise"]
    node.inputs[2] = gs.Constant("z", np.array(3, np.int8))


def unsigned(nodes: Nodes) -> None:
    nodes["pool.out.quantise"].inputs[2] = gs.Constant("z", np.array(0, np.uint8))


def no_zero_point(nodes: Nodes) -> None:
    del nodes["pool.out.quantise"].inputs[2]


def zero_scale(nodes: Nodes) -> None:
    nodes["pool.out.quantise"].inputs[1] = gs.Constant("s", np.array(0, np.float32))


def half_scale(nodes: Nodes) -> None:
    nodes["pool.out.quantise"].inputs[1] = gs.Constant("s", np.array(0.1, np.float16))


def computed_scale(nodes: Nodes) -> None:
    nodes["pool.out.quantise"].inputs[1] = gs.Variable("s", np.float32, ())


def activation_per_channel(nodes: Nodes) -> None:
    nodes["pool.out.quantise"].inputs[1] = gs.Constant("s", np.full(16, 0.1, np.float32))


def weight_per_tensor(nodes: Nodes) -> None:
    nodes["up.weight.dequantise"].inputs[1] = gs.Constant("s", np.array(0.1, np.float32))


def weight_axis(nodes: Nodes) -> None:
    nodes["down.skip.weight.dequantise"].attrs["axis"] = 1


def float_weight(nodes: Nodes) -> None:
    nodes["up"].inputs[1] = gs.Constant("w", np.zeros((16, 32, 3, 3), np.float32))


def float_input(nodes: Nodes) -> None:
    nodes["up"].inputs[0] = nodes["enlarge"].outputs[0]


def quantised_bias(nodes: Nodes) -> None:
    bias = gs.Variable("b", np.float32, (16,))
    constants = [gs.Constant("b8", np.zeros(16, np.int8)), gs.Constant("bs", np.ones(16, np.float32))]
    gs.Node("DequantizeLinear", "bias", {"axis": 0}, constants, [bias])
    nodes["up"].inputs[2] = bias
    nodes["new"] = bias.inputs[0]


def both_sides(nodes: Nodes) -> None:
    nodes["block.add"].inputs[0] = nodes["pool.out.dequantise"].outputs[0]


def skip_beside_float(nodes: Nodes) -> None:
    nodes["block.add"].inputs[0] = nodes["pool"].outputs[0]


def before_resize(nodes: Nodes) -> None:
    nodes["enlarge"].inputs[0] = nodes["pool.out.dequantise"].outputs[0]


def twice(nodes: Nodes) -> None:
    pool = nodes["pool"].outputs[0]
    inputs = [pool, *nodes["pool.out.quantise"].inputs[1:]]
    nodes["new"] = gs.Node("QuantizeLinear", "again", {}, inputs, [gs.Variable("q2", np.int8, pool.shape)])


def in_int8(name: str, nodes: Nodes) -> None:
    """Put a convolution in float into INT8, both of its inputs."""
    conv = nodes[name]
    conv.inputs[0] = through_pair(conv.inputs[0], nodes)
    nodes["new.weight"] = conv_weight.rewrite(conv)


def through_pair(x: gs.Variable, nodes: Nodes) -> gs.Variable:
    grid = [gs.Constant("new.scale", np.array(0.1, np.float32)), gs.Constant("new.zero_point", np.array(0, np.int8))]
    levels, values = gs.Variable("new.int8", np.int8), gs.Variable("new.dequantised", np.float32)
    nodes["new.quantise"] = gs.Node("QuantizeLinear", "new.quantise", {}, [x, *grid], [levels])
    nodes["new.dequantise"] = gs.Node("DequantizeLinear", "new.dequantise", {}, [levels, *grid], [values])
    return values


def behind_convolution(nodes: Nodes) -> None:
    """Quantise the output of a convolution, in front of its ReLU."""
    nodes["block.conv1.relu"].inputs[0] = through_pair(nodes["block.conv1"].outputs[0], nodes)


def grouped_convolution(nodes: Nodes) -> None:
    in_int8("head.depthwise", nodes)


def one_channel(nodes: Nodes) -> None:
    in_int8("head.out", nodes)


def one_pixel(nodes: Nodes) -> None:
    in_int8("head.pooled", nodes)


def longer_path(nodes: Nodes) -> None:
    """The pair of the skip stands on the other path."""
    nodes["down.skip.out.quantise"].inputs[0] = nodes["down.conv2"].outputs[0]
    nodes["down.add"].inputs = [nodes["down.skip.out.dequantise"].outputs[0], nodes["down.skip"].outputs[0]]


def lowest_weight(nodes: Nodes) -> None:
    values = nodes["up.weight.dequantise"].inputs[0].values.copy()
    values.flat[7] = -128
    nodes["up.weight.dequantise"].inputs[0] = gs.Constant("up.weight", values)


def int8_into_something_else(nodes: Nodes) -> None:
    source = nodes["pool.out.quantise"].outputs[0]
    nodes["new"] = gs.Node("Cast", "cast8", {"to": 1}, [source], [gs.Variable("c8", np.float32)])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (zero_point, "zero point must be a constant int8 zero"),
        (unsigned, "zero point must be a constant int8 zero"),
        (no_zero_point, "without a zero point ONNX quantises to uint8"),
        (zero_scale, "not positive and finite"),
        (half_scale, "scale is float16, data is float32"),
        (computed_scale, "the scale is not a constant"),
        (activation_per_channel, "per tensor, not per channel"),
        (weight_per_tensor, "one scale per output channel, on axis 0"),
        (weight_axis, "one scale per output channel, on axis 0"),
        (float_weight, "up: its input is quantised, the other one is not"),
        (float_input, "up: its weight is quantised, the other one is not"),
        (quantised_bias, "up: the bias must stay float"),
        (both_sides, "block.add: pool.out.dequantised must not be INT8: the other side, pool.out.dequantised, is not"),
        (skip_beside_float, "block.add: pool.out.dequantised must not be INT8: the other side, pool.out, is not"),
        (longer_path, "must not be INT8: down.conv2.out ends the longer path, and down.skip.out is the skip"),
        (behind_convolution, "Relu block.conv1.relu must read float"),
        (grouped_convolution, "head.depthwise: must stay float: grouped convolution (16 groups)"),
        (one_channel, "head.out: must stay float: 1 output channels"),
        (one_pixel, "head.pooled: must stay float: matrix-vector product"),
        (lowest_weight, "up.weight has a value of -128"),
        (before_resize, "Resize enlarge must read float"),
        (twice, "pool.out is quantised more than once"),
        (int8_into_something_else, "something other than DequantizeLinear reads its INT8 values"),
    ],
)
def test_each_broken_rule_is_named(int8: onnx.ModelProto, damage: Callable[[Nodes], None], complaint: str) -> None:
    found = violations(damaged(int8, damage))
    assert any(complaint in line for line in found), found


def damaged(model: onnx.ModelProto, damage: Callable[[Nodes], None]) -> onnx.ModelProto:
    graph = read_graph(model)
    nodes = {node.name: node for node in graph.nodes}
    damage(nodes)
    graph.nodes += list(nodes.values())[len(graph.nodes) :]
    return gs.export_onnx(graph.toposort())


def test_a_good_graph_passes(int8: onnx.ModelProto) -> None:
    assert violations(int8) == []
    check(int8)


@pytest.mark.parametrize("names", [["block.conv1"], ["down.conv2"], ["down.skip"], ["down.conv1", "down.skip", "up"]])
def test_two_terms_pass_and_do_not_lengthen_a_path(model: onnx.ModelProto, names: list[str]) -> None:
    assert violations(in_two_terms(model, names)) == []


def in_two_terms(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    plan = Plan.of(model).in_two_terms(dict.fromkeys(names, ""))
    largest = dict.fromkeys(tensors_to_calibrate(model, plan), 1.0)
    return quantise(model, Ranges(largest, "max", reach=largest), plan)


def rest_of_another(nodes: Nodes) -> None:
    nodes["pool.out.low.subtract"].inputs[0] = nodes["stem.relu"].outputs[0]


def rest_in_float(nodes: Nodes) -> None:
    nodes["block.conv1.low"].inputs[0] = nodes["pool.out.low.subtract"].outputs[0]


def rest_of_a_constant(nodes: Nodes) -> None:
    nodes["pool.out.low.subtract"].inputs[1] = nodes["up.weight.dequantise"].outputs[0]


@pytest.mark.parametrize("damage", [rest_of_another, rest_in_float, rest_of_a_constant])
def test_a_second_term_of_something_else(model: onnx.ModelProto, damage: Callable[[Nodes], None]) -> None:
    found = violations(damaged(in_two_terms(model, ["block.conv1"]), damage))
    assert any("pool.out.low.subtract: it must be what one Q/DQ pair leaves over" in line for line in found), found


def test_shapes_that_a_tool_did_not_store(int8: onnx.ModelProto) -> None:
    bare = damaged(int8, one_pixel)
    del bare.graph.value_info[:]
    assert any("head.pooled: must stay float" in line for line in violations(bare))


def test_shapes_that_nobody_can_know(int8: onnx.ModelProto) -> None:
    bare = damaged(int8, lambda nodes: setattr(nodes["concat"], "domain", "elsewhere"))
    bare.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    del bare.graph.value_info[:]
    assert "head.fuse: its shapes are unknown, and with them whether it may run in INT8" in violations(bare)


def test_opset(int8: onnx.ModelProto) -> None:
    old = onnx.ModelProto()
    old.CopyFrom(int8)
    old.opset_import[0].version = 17
    with pytest.raises(ExportError, match="opset 17"):
        check(old)


def test_quantised_output(int8: onnx.ModelProto) -> None:
    graph = read_graph(int8)
    graph.outputs.append(next(node for node in graph.nodes if node.name == "pool.out.dequantise").outputs[0])
    assert any("a network output is quantised" in line for line in violations(gs.export_onnx(graph)))


def test_all_violations_are_listed(int8: onnx.ModelProto) -> None:
    graph = read_graph(int8)
    nodes = {node.name: node for node in graph.nodes}
    zero_scale(nodes)
    float_weight(nodes)
    with pytest.raises(ExportError) as error:
        check(gs.export_onnx(graph))
    assert "pool.out.quantise" in error.value.what
    assert "up: its input" in error.value.what
