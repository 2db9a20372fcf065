"""INT8 activations as uint8: the same function, also behind a Concat, where OpenVINO 2026.4 gets int8 wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segrd_edge.engines.openvino_saturation import use_float_where_sums_saturate
from segrd_edge.engines.openvino_uint8 import use_uint8_activations

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

# What gives c, 1×32×h×w, from a and b, 1×16×8×8: (operator, inputs, output, attributes).
_Front = list[tuple[str, list[str], str, dict[str, Any]]]
_CONCAT: _Front = [("Concat", ["a", "b"], "c", {"axis": 1})]
_CONCAT_OF_RELUS: _Front = [
    ("Relu", ["a"], "ra", {}),
    ("Relu", ["b"], "rb", {}),
    ("Concat", ["ra", "rb"], "c", {"axis": 1}),
]
_LEVELLED: _Front = [*_CONCAT_OF_RELUS[:2], ("Concat", ["ra", "rb"], "rc", {"axis": 1}), ("Mul", ["rc", "f"], "c", {})]
_POOL: _Front = [
    ("Concat", ["a", "b"], "ab", {"axis": 1}),
    ("Relu", ["ab"], "r", {}),
    ("MaxPool", ["r"], "c", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
]
_SHUFFLE: _Front = [
    ("Concat", ["a", "b", "a", "b", "b", "a", "b", "a"], "ab", {"axis": 1}),
    ("DepthToSpace", ["ab"], "c", {"blocksize": 2, "mode": "CRD"}),
]


def _net(front: _Front, scale: float, *, zero_point: int = 0, outputs: tuple[str, ...] = ("y",)) -> bytes:
    """y = Conv1×1(DQ(Q(c))) in int8, behind `front`."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    constants = {
        "w8": rng.integers(-127, 128, (16, 32, 1, 1)).astype(np.int8),
        "ws": np.full(16, 0.01, np.float32),
        "wz": np.zeros(16, np.int8),
        "s": np.float32(scale),
        "z": np.array(zero_point, np.int8),
        "f": np.linspace(0.5, 2, 32, dtype=np.float32).reshape(1, 32, 1, 1),
    }
    nodes = [
        *(helper.make_node(op, inputs, [output], **attrs) for op, inputs, output, attrs in front),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"], kernel_shape=[1, 1]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 8, 8]) for name in "ab"]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    stored = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "net", inputs, results, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(model.SerializeToString())


def _rewritten(graph: bytes) -> Any:
    """The `openvino.Model` of a graph with one pair, re-encoded."""
    model = openvino.Core().read_model(graph)
    assert use_uint8_activations(model) == 1
    return model


def _quantised(model: Any) -> Any:
    """The one FakeQuantize in a model."""
    (found,) = [node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"]
    return found


@pytest.mark.parametrize("scale", [0.0137, 0.03, 0.0481])  # the first clips much, the last nothing
@pytest.mark.parametrize("front", [_CONCAT, _CONCAT_OF_RELUS, _LEVELLED, _POOL, _SHUFFLE])
def test_the_same_function(front: _Front, scale: float) -> None:
    graph = _net(front, scale)
    rng = np.random.default_rng(1)
    feeds: dict[str, Any] = {name: rng.normal(0, 1, (1, 16, 8, 8)).astype(np.float32) for name in "ab"}
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, plain, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, feeds)

    model = _rewritten(graph)
    use_float_where_sums_saturate(model)  # without VNNI no counting from 128 is exact
    got = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds)[0]
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


_SCALES = [0.002, 0.0137, 1 / 127, 0.03, 0.25, 0.5, 1.0, 3.7]
_POWERS_OF_TWO = [0.25, 0.5, 1.0]


def _pair(scale: float, *, has_relu: bool, has_conv: bool) -> bytes:
    """y = DQ(Q(x)), x as it is or behind a convolution that changes nothing, and behind a ReLU or not."""
    from onnx import TensorProto, helper, numpy_helper

    shape = [1, 16, 64, 64]
    constants = {"s": np.float32(scale), "z": np.array(0, np.int8), "w": np.eye(16, dtype=np.float32)[:, :, None, None]}
    front = [("Conv", ["w"])] * has_conv + [("Relu", [])] * has_relu
    names = ["x", *(op for op, _ in front)]
    nodes = [helper.make_node(op, [x, *more], [op]) for x, (op, more) in zip(names, front, strict=False)]
    nodes.append(helper.make_node("QuantizeLinear", [names[-1], "s", "z"], ["q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    stored = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "pair", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(model.SerializeToString())


def _input(scale: float) -> Any:
    """65,536 values: every tie with the nearest numbers to either side of it, and others, of which some are clipped."""
    x = np.random.default_rng(0).normal(0, 64 * scale, (1, 16, 64, 64)).astype(np.float32)
    ties = (np.arange(-130, 131) + 0.5)[:, None] * np.float32(scale) * (1 + np.arange(-4, 5) * 2.0**-23)
    x.reshape(-1)[: ties.size] = ties.reshape(-1)
    return x


def _levels(model: Any, x: Any, scale: float) -> Any:
    values = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})[0]
    return np.rint(values / np.float32(scale))


@pytest.mark.parametrize("scale", _SCALES)
@pytest.mark.parametrize("has_conv", [False, True])
def test_counted_from_128_the_levels_are_the_same_to_the_bit(scale: float, has_conv: bool) -> None:
    graph, x = _pair(scale, has_relu=False, has_conv=has_conv), _input(scale)
    signed = _levels(openvino.Core().read_model(graph), x, scale)
    assert set(np.unique(signed)) == set(range(-128, 128))
    np.testing.assert_array_equal(_levels(_rewritten(graph), x, scale), signed)


@pytest.mark.parametrize("scale", _SCALES)
@pytest.mark.parametrize("has_conv", [False, True])
def test_counted_from_zero_the_levels_differ_at_ties_alone(scale: float, has_conv: bool) -> None:
    graph, x = _pair(scale, has_relu=True, has_conv=has_conv), _input(scale)
    signed, got = (_levels(model, x, scale) for model in (openvino.Core().read_model(graph), _rewritten(graph)))
    assert set(np.unique(got)) == set(range(128))
    steps = x.astype(np.float64) / np.float32(scale)
    from_tie = np.abs(steps - np.floor(steps) - 0.5)
    assert np.abs(got - signed).max() <= 1
    assert from_tie[got != signed].max(initial=0) < 5e-5
    if scale in _POWERS_OF_TWO:  # x / s is exact, and ONNX rounds ties to even
        np.testing.assert_array_equal(got, np.clip(np.rint(steps), 0, 127))


@pytest.mark.parametrize(
    ("front", "is_unsigned"),
    [(_CONCAT, False), (_SHUFFLE, False), (_CONCAT_OF_RELUS, True), (_LEVELLED, True), (_POOL, True)],
)
def test_what_is_never_negative_is_counted_from_zero(front: _Front, is_unsigned: bool) -> None:
    lowest = _quantised(_rewritten(_net(front, 0.03))).input_value(1).get_node().get_data()
    assert lowest == (0 if is_unsigned else pytest.approx(-128 * 0.03))


@pytest.mark.parametrize(("front", "moving"), [(_POOL, "MaxPool"), (_SHUFFLE, "DepthToSpace")])
def test_a_pair_goes_in_front_of_what_moves_values(front: _Front, moving: str) -> None:
    model = _rewritten(_net(front, 0.03))
    (node,) = [node for node in model.get_ops() if node.get_type_name() == moving]
    assert node.input_value(0).get_node().get_type_name() == "Multiply"  # the last of a pair
    assert _quantised(model).get_output_partial_shape(0) == node.get_input_partial_shape(0)


def test_a_pair_stays_where_something_else_reads_the_floats() -> None:
    model = _rewritten(_net(_POOL, 0.03, outputs=("y", "c")))
    (pool,) = [node for node in model.get_ops() if node.get_type_name() == "MaxPool"]
    assert pool.input_value(0).get_node().get_type_name() == "Relu"


def test_another_zero_point_is_left_alone() -> None:
    """Files of other tools: their zero point would be lost."""
    assert use_uint8_activations(openvino.Core().read_model(_net(_CONCAT_OF_RELUS, 0.03, zero_point=-128))) == 0


def test_a_float_graph_is_left_alone(deploy_graph: Any) -> None:
    assert use_uint8_activations(openvino.Core().read_model(deploy_graph())) == 0
