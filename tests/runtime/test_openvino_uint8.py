"""INT8 activations as uint8: the same function, also behind a Concat, where OpenVINO 2026.4 gets int8 wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segrd_edge.engines.openvino_uint8 import use_uint8_activations

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")


def _concat_net(scale: float, zero_point: int = 0) -> bytes:
    """y = Conv1×1(DQ(Q(Concat(Relu(a), Relu(b))))) in int8."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (16, 32, 1, 1)).astype(np.int8)
    constants = {
        "w8": weight,
        "ws": np.full(16, 0.01, np.float32),
        "wz": np.zeros(16, np.int8),
        "s": np.float32(scale),
        "z": np.array(zero_point, np.int8),
    }
    nodes = [
        helper.make_node("Relu", ["a"], ["ra"]),
        helper.make_node("Relu", ["b"], ["rb"]),
        helper.make_node("Concat", ["ra", "rb"], ["c"], axis=1),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"], kernel_shape=[1, 1]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 8, 8]) for name in "aby"]
    stored = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "concat", ports[:2], ports[2:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("scale", [0.0137, 0.03, 0.0481])
def test_the_same_function_behind_a_concat(scale: float) -> None:
    graph = _concat_net(scale)
    rng = np.random.default_rng(1)
    feeds: dict[str, Any] = {name: rng.normal(0, 1, (1, 16, 8, 8)).astype(np.float32) for name in "ab"}
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, plain, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, feeds)

    core = openvino.Core()
    model = core.read_model(graph)
    assert use_uint8_activations(model) == 1
    got = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds)[0]
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_another_zero_point_is_left_alone() -> None:
    """Files of other tools: their zero point would be lost."""
    assert use_uint8_activations(openvino.Core().read_model(_concat_net(0.03, zero_point=-128))) == 0


def test_a_float_graph_is_left_alone(deploy_graph: Any) -> None:
    assert use_uint8_activations(openvino.Core().read_model(deploy_graph())) == 0
