"""Which limits keep a node in float32, and what TensorRT makes of the rest."""

# ruff: noqa: F401, F811 (fixtures are imported, and are arguments)

from __future__ import annotations

import onnx
import pytest

from segrd_edge.calibration.plan import Plan
from segrd_edge.export.fp16 import to_fp16
from segrd_edge.export.fp16_plan import LARGEST_ACTIVATION, Fp16Plan, tensors_to_observe

from .fp16_graphs import (
    Images,
    check_types,
    destseg_deploy,
    destseg_largest,
    frames,
    plan_of,
    scale_up,
    small,
    small_images,
    small_int8,
)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (LARGEST_ACTIVATION * 1.01, "block.conv1.out reaches 517.1, above 512"),
        (float("nan"), "block.conv1.out reaches nan, above 512"),
        (3e-5, "block.conv1.out stays below 3e-05, too small for float16"),
        (LARGEST_ACTIVATION, None),
        (0.0, None),  # dead
    ],
)
def test_the_limits_of_activations(small: onnx.ModelProto, value: float, reason: str | None) -> None:
    largest = {**dict.fromkeys(tensors_to_observe(small), 1.0), "block.conv1.out": value}
    plan = Fp16Plan.of(small, largest)
    assert plan.left_float.get("block.conv1") == reason
    assert plan.left_float.get("block.conv1.relu") == reason
    assert "block.conv2" in plan.halved


def test_weights_beyond_float16_stay_in_float32(small: onnx.ModelProto) -> None:
    loud = scale_up(small, "block.conv1", "block.conv2", 1e6)
    plan = Fp16Plan.of(loud, dict.fromkeys(tensors_to_observe(loud), 1.0))
    assert plan.left_float["block.conv1"].startswith("block.conv1.weight reaches ")
    assert "block.conv2" in plan.halved  # small weights round to less, which harms nothing
    check_types(to_fp16(loud, plan), plan)


def test_tensorrt_rtx_runs_every_planned_convolution_in_float16(
    small: onnx.ModelProto,
    frames: Images,
) -> None:
    plan = plan_of(small, frames)
    dtypes = rtx_dtypes(to_fp16(small, plan))
    assert {name: dtypes[name] for name in convolutions(small)} == {
        name: "Half" if name in plan.halved else "Float" for name in convolutions(small)
    }


def test_tensorrt_rtx_runs_int8_beside_float16(
    small: onnx.ModelProto,
    small_int8: onnx.ModelProto,
    frames: Images,
) -> None:
    dtypes = rtx_dtypes(to_fp16(small_int8, plan_of(small_int8, frames)))
    quantised = set(Plan.of(small).quantised)
    assert {name for name in convolutions(small) if dtypes[name] == "Int8"} == quantised
    assert {name for name in convolutions(small) if dtypes[name] == "Half"} == {"head.pooled", "head.depthwise"}


def test_tensorrt_rtx_builds_destseg(destseg_deploy: onnx.ModelProto, destseg_largest: dict[str, float]) -> None:
    dtypes = rtx_dtypes(to_fp16(destseg_deploy, Fp16Plan.of(destseg_deploy, destseg_largest)))
    floats = {name for name in convolutions(destseg_deploy) if dtypes[name] != "Half"}
    assert floats == {"deploy.normalise", "head.out.1"}


def convolutions(model: onnx.ModelProto) -> set[str]:
    return {node.name for node in model.graph.node if node.op_type == "Conv"}


def rtx_dtypes(model: onnx.ModelProto) -> dict[str, str]:
    """Convolution → TensorRT's name of the type that its kernel reads, in an engine of TensorRT-RTX, strongly typed."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from segrd_edge.tensorrt.build import build

    # Generated kernels ("kgen") do the element-wise rest of a layer: bias, ReLU, the next layer's Q.
    layers = [
        layer for layer in build(model.SerializeToString(), flavour="tensorrt-rtx").layers if layer.kind != "kgen"
    ]
    return {node: layer.input_dtypes[0] for layer in layers for node in layer.onnx_nodes}
