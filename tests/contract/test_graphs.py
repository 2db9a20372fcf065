"""`segrd_edge.cuda.Graph` on the real cuda-bindings, over a driver of a few lines of C: how they take handles and
enumerations, and give results, is theirs here and not the fake's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .packages import CUDA_BINDINGS, cuda_bindings_folder

pytestmark = pytest.mark.contract

SOURCE = Path(__file__).with_name("driver.c")
_SCRIPT = """
import ctypes
from contextlib import nullcontext
from types import SimpleNamespace

from cuda.bindings import driver
from segrd_edge.cuda import Graph
from segrd_edge.errors import EngineError

alive = ctypes.CDLL("libcuda.so.1").alive
assert driver.cuInit(0) == (0,)
_, context = driver.cuDevicePrimaryCtxRetain(driver.cuDeviceGet(0)[1])
driver.cuCtxPushCurrent(context)
_, handle = driver.cuStreamCreate(1)
stream = SimpleNamespace(handle=int(handle), device=SimpleNamespace(reported=lambda what: nullcontext()))
memory = (ctypes.c_ubyte * 4)()

def fill(value):
    result, = driver.cuMemsetD8Async(ctypes.addressof(memory), value, 4, handle)
    assert result == 0, result

graph = Graph(stream, lambda: fill(7))
print(alive(), list(memory))
for value in (7, 7):
    fill(1)
    graph.launch()
    driver.cuStreamSynchronize(handle)
    print(list(memory))
graph.close()
graph.close()
print(alive())
try:
    Graph(stream, lambda: driver.cuStreamSynchronize(handle))
except EngineError as error:
    print(error.what)
def fails():
    raise EngineError("in the work")
try:
    Graph(stream, fails)
except EngineError as error:
    print(error.what)
print(alive())
fill(3)
driver.cuStreamSynchronize(handle)
print(list(memory))
"""


@pytest.fixture(scope="module")
def driver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("driver")
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        str(folder / "libcuda.so.1"),
        str(SOURCE),
    ]
    subprocess.run([*command, "-ldl"], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("version", CUDA_BINDINGS)
def test_a_graph_on_the_real_bindings(version: str, driver_folder: Path) -> None:
    environment = {"PYTHONPATH": str(cuda_bindings_folder(version)), "LD_LIBRARY_PATH": str(driver_folder)}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    stream_and_executable, stream_alone = "101", "100"
    assert done.stdout.splitlines() == [
        f"{stream_and_executable} [0, 0, 0, 0]",
        "[7, 7, 7, 7]",
        "[7, 7, 7, 7]",
        stream_alone,
        "cuStreamEndCapture gives CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        "in the work",
        stream_alone,
        "[3, 3, 3, 3]",
    ]
