"""The small deploy graph of the calibration tests, as bytes, in float and in INT8."""

from __future__ import annotations

import onnx
import pytest

from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges

from ..calibration.conftest import model  # noqa: F401  (fixture)


@pytest.fixture(scope="session")
def plan(model: onnx.ModelProto) -> Plan:  # noqa: F811
    return Plan.of(model)


@pytest.fixture(scope="session")
def fp32_graph(model: onnx.ModelProto) -> bytes:  # noqa: F811
    return model.SerializeToString()


@pytest.fixture(scope="session")
def int8_model(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:  # noqa: F811
    return quantise(model, Ranges(dict.fromkeys(tensors_to_calibrate(model, plan), 1.0), "max"), plan)


@pytest.fixture(scope="session")
def int8_graph(int8_model: onnx.ModelProto) -> bytes:
    return int8_model.SerializeToString()
