"""INT8 that would saturate on processors without VNNI runs in float there: the file's function on any processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segrd_edge import machine
from segrd_edge.engines import openvino_saturation
from segrd_edge.engines.openvino_saturation import int8_is_exact, use_float_where_sums_saturate
from segrd_edge.engines.openvino_uint8 import use_uint8_activations

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

_SHAPE = (1, 16, 8, 8)


def _net(*, relu: bool, zero_point: int = 0, groups: int = 1) -> bytes:
    """y = Conv3×3(DQ(Q(x))) in int8, with weights large enough for any sum of two products to pass 2¹⁵."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).integers(100, 128, (16, 16 // groups, 3, 3)).astype(np.int8)
    constants = {
        "w8": weights,
        "ws": np.linspace(0.01, 0.02, 16, dtype=np.float32),
        "wz": np.zeros(16, np.int8),
        "s": np.float32(0.03),
        "z": np.array(zero_point, np.int8),
    }
    nodes = [
        helper.make_node("Relu" if relu else "Identity", ["x"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"], kernel_shape=[3, 3], pads=[1] * 4, group=groups),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, _SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(model.SerializeToString())


def _wanted(graph: bytes, x: np.ndarray) -> np.ndarray:
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, plain, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    return np.asarray(found)


def _run(model: Any, x: np.ndarray) -> np.ndarray:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled({"x": x})[0])


def _largest() -> np.ndarray:
    """Activations in the upper half of the range, where a sum of two products is at its largest."""
    return np.random.default_rng(1).uniform(2, 4, _SHAPE).astype(np.float32)


@pytest.fixture
def without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_saturation, "int8_is_exact", lambda: False)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_results_are_the_files_on_this_processor(relu: bool, groups: int) -> None:
    """Whatever the processor: nothing is put in its place here."""
    graph, x = _net(relu=relu, groups=groups), _largest()
    model = openvino.Core().read_model(graph)
    use_uint8_activations(model)
    use_float_where_sums_saturate(model)
    wanted = _wanted(graph, x)
    assert np.abs(_run(model, x) - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(("relu", "changed"), [(False, 1), (True, 0)])
def test_what_is_counted_from_zero_stays_int8(without_vnni: None, relu: bool, changed: int) -> None:
    graph, x = _net(relu=relu), _largest()
    model = openvino.Core().read_model(graph)
    use_uint8_activations(model)
    assert use_float_where_sums_saturate(model) == changed
    assert use_float_where_sums_saturate(model) == 0  # a second time there is nothing left to do
    (conv,) = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
    weights = conv.input_value(1).get_node()
    assert (weights.get_type_name() == "Constant") == bool(changed)
    if changed:
        wanted = _wanted(graph, x)
        assert np.abs(_run(model, x) - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_other_tools_files_are_not_trusted(without_vnni: None) -> None:
    """Their zero points leave all 256 levels in use, also behind a ReLU."""
    model = openvino.Core().read_model(_net(relu=True, zero_point=-128))
    assert use_uint8_activations(model) == 0
    assert use_float_where_sums_saturate(model) == 1


def test_a_float_graph_is_left_alone_and_nothing_is_tried(
    deploy_graph: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_saturation, "int8_is_exact", lambda: pytest.fail("tried"))
    assert use_float_where_sums_saturate(openvino.Core().read_model(deploy_graph())) == 0


def test_the_trial_agrees_with_the_processors_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the flags it is the trial that decides; it must say what they say."""
    flags = set(machine.cpu()["flags"] or ())
    if not flags & {"avx2", "avx512f"}:
        pytest.skip("not an x86 processor, or one whose flags cannot be read")
    nothing = {**machine.cpu(), "flags": None}
    monkeypatch.setattr(machine, "cpu", lambda: nothing)
    int8_is_exact.cache_clear()
    try:
        assert int8_is_exact() == bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8"})
    finally:
        int8_is_exact.cache_clear()
