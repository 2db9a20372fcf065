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
    nodes["enlarge"].inputs[0] = nodes["down.add.relu.out.dequantise"].outputs[0]


def twice(nodes: Nodes) -> None:
    pool = nodes["pool"].outputs[0]
    inputs = [pool, *nodes["pool.out.quantise"].inputs[1:]]
    nodes["new"] = gs.Node("QuantizeLinear", "again", {}, inputs, [gs.Variable("q2", np.int8, pool.shape)])


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
        (both_sides, "block.add: one side must come straight from an INT8 convolution"),
        (skip_beside_float, "block.add: one side must come straight from an INT8 convolution"),
        (before_resize, "Resize enlarge must read float"),
        (twice, "pool.out is quantised more than once"),
        (int8_into_something_else, "something other than DequantizeLinear reads its INT8 values"),
    ],
)
def test_each_broken_rule_is_named(int8: onnx.ModelProto, damage: Callable[[Nodes], None], complaint: str) -> None:
    graph = read_graph(int8)
    nodes = {node.name: node for node in graph.nodes}
    if damage is before_resize:  # no pair stands there; borrow one
        nodes["down.add.relu.out.dequantise"] = nodes["pool.out.dequantise"]
    damage(nodes)
    graph.nodes += [nodes["new"]] if "new" in nodes else []
    found = violations(gs.export_onnx(graph))
    assert any(complaint in line for line in found), found


def test_a_good_graph_passes(int8: onnx.ModelProto) -> None:
    assert violations(int8) == []
    check(int8)


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
