"""The small deploy graph of the calibration tests, as bytes, in float and in INT8; and a driver with no GPU behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges

from ..calibration.conftest import model  # noqa: F401  (fixture)

_DRIVER = """
#include <stdlib.h>
#include <string.h>
static int from_environment(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
int cuInit(unsigned flags) { return from_environment("FAKE_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = from_environment("FAKE_CUDA", 13020); return 0; }
int cuDeviceGetCount(int *count) { *count = from_environment("FAKE_COUNT", 1); return 0; }
int cuDeviceGet(int *device, int index) { *device = 70 + index; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    if (device < 70) return 101;
    strncpy(name, "NVIDIA RTX 4000", size);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75   ? from_environment("FAKE_MAJOR", 8)
             : attribute == 76 ? from_environment("FAKE_MINOR", 9) : -1;
    return device >= 70 ? 0 : 101;
}
int cuGetErrorString(int code, const char **text) { *text = code == 803 ? "driver mismatch" : "other"; return 0; }
"""


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


@pytest.fixture(scope="session")
def driver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 that answers as FAKE_… in the environment say; for LD_LIBRARY_PATH."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(_DRIVER)
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(folder / "cuda.c")]
    subprocess.run(command, check=True, capture_output=True)
    return folder
