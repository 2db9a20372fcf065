"""INT8 on a network with BatchNorm statistics from data: the one file in both engines."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from segrd_edge.calibration.calibrate import Calibration, calibrate
from segrd_edge.calibration.check import violations
from segrd_edge.calibration.drift import measure_drift
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges
from segrd_edge.calibration.session import run_engine
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess


@pytest.fixture(scope="module")
def deploy(destseg_core: onnx.ModelProto) -> onnx.ModelProto:
    # Without the sigmoid, which random logits of ±10 would saturate: rounding must be visible to be compared.
    return build_deploy_graph(destseg_core, Preprocess((64, 96)), MapSpec("none", 0, 10))


@pytest.fixture(scope="module")
def frames(images: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> list[CalibrationFrame]:
    path = tmp_path_factory.mktemp("frames") / "photo.png"
    return [CalibrationFrame(image, path, "0" * 64, "good") for image in images]


@pytest.fixture(scope="module")
def head(deploy: onnx.ModelProto, frames: list[CalibrationFrame]) -> Calibration:
    return calibrate(deploy, frames, Int8Settings(scope="head", method="max"))


def test_all_of_destseg_obeys_the_rules(deploy: onnx.ModelProto) -> None:
    plan = Plan.of(deploy)
    int8 = quantise(deploy, Ranges(dict.fromkeys(tensors_to_calibrate(deploy, plan), 1.0), "max"), plan)
    assert violations(int8) == []
    assert len(plan.quantised) == 64  # of 66 and the normalisation
    assert set(plan.left_float) == {"deploy.normalise", "head.aspp.pooled.0", "head.out.1"}
    adds = [node for node in int8.graph.node if node.op_type == "Add"]
    assert sum(any(name.endswith(".dequantised") for name in node.input) for node in adds) == 24
    assert len(int8.SerializeToString()) < 0.3 * len(deploy.SerializeToString())


def test_the_head_in_int8_gives_nearly_the_float_map_in_both_engines(
    deploy: onnx.ModelProto, head: Calibration, images: list[np.ndarray]
) -> None:
    # Random logits spread over ±10. Measured: maps 0.989 (cosine) from float at worst, engines 0.999 from each other.
    reference = list(run_engine("onnxruntime", deploy, images))
    ort, ov = (list(run_engine(engine, head.model, images)) for engine in ("onnxruntime", "openvino"))
    for outputs in (ort, ov):
        drift = measure_drift(reference, outputs)
        assert drift.map_cosine_min > 0.97
        assert drift.map_max > 1e-3  # it really is another graph
    assert measure_drift(ort, ov).map_cosine_min > 0.99
