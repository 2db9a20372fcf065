"""What the project exports, compiled by a real TensorRT compiler: TensorRT-RTX's, which needs no GPU."""

from __future__ import annotations

import onnx
import pytest

from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.tensorrt.build import build
from segrd_edge.tensorrt.layers import convolution_dtypes

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


@pytest.fixture(scope="module")
def deploy(destseg_core: onnx.ModelProto) -> onnx.ModelProto:
    return build_deploy_graph(destseg_core, Preprocess((64, 96)), MapSpec("sigmoid", 0, 10))


def test_destseg_in_fp32(deploy: onnx.ModelProto) -> None:
    built = build(deploy.SerializeToString(), flavour="tensorrt-rtx")
    dtypes = convolution_dtypes(built.layers)
    convolutions = [node.name for node in deploy.graph.node if node.op_type == "Conv"]
    assert {dtypes[name] for name in convolutions} == {"Float"}
    assert built.layers[0].input_dtypes == ("UInt8",)


def test_destseg_in_int8_runs_every_planned_convolution_in_int8(deploy: onnx.ModelProto) -> None:
    plan = Plan.of(deploy)
    int8 = quantise(deploy, Ranges(dict.fromkeys(tensors_to_calibrate(deploy, plan), 1.0), "max"), plan)
    built = build(int8.SerializeToString(), flavour="tensorrt-rtx")
    dtypes = convolution_dtypes(built.layers)
    assert {name for name in plan.quantised if dtypes[name] != "Int8"} == set()
    assert {name for name in plan.left_float if dtypes[name] != "Float"} == set()
    assert built.warnings == ()
