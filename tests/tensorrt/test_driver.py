"""The driver probe, against a driver library of a few lines of C, and without any."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segrd_edge.errors import EngineError
from segrd_edge.tensorrt import driver

_LIBRARY = """
#include <stdlib.h>
#include <string.h>
static int from_environment(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
int cuInit(unsigned flags) { return from_environment("FAKE_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDeviceGetCount(int *count) { *count = from_environment("FAKE_COUNT", 1); return 0; }
int cuDeviceGet(int *device, int index) { *device = 70 + index; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    if (device < 70) return 101;
    strncpy(name, "NVIDIA RTX 4000", size);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
    return device >= 70 ? 0 : 101;
}
int cuGetErrorString(int code, const char **text) { *text = code == 803 ? "driver mismatch" : "other"; return 0; }
"""
_ASK = "from segrd_edge.tensorrt import driver; print(driver.gpu())"


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(_LIBRARY)
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(folder / "cuda.c")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def ask(folder: Path, code: str = _ASK, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder), **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_says_what_the_driver_says(library_folder: Path) -> None:
    done = ask(library_folder)
    assert done.returncode == 0, done.stderr
    assert "name='NVIDIA RTX 4000', compute_capability='8.9', cuda_version='13.2'" in done.stdout


@pytest.mark.parametrize("count", [1, 2])
def test_all_gpus(library_folder: Path, count: int) -> None:
    done = ask(library_folder, _ASK.replace("gpu()", "gpus()"), FAKE_COUNT=str(count))
    assert done.stdout.count("name='NVIDIA RTX 4000'") == count, done.stderr


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"FAKE_INIT": "803"}, "cuInit gives CUDA error 803 (driver mismatch)"),
        ({"FAKE_INIT": "100"}, "the NVIDIA driver finds no GPU"),
        ({"FAKE_COUNT": "0"}, "no GPU 0: the NVIDIA driver shows 0"),
    ],
)
def test_a_driver_that_fails_says_why(library_folder: Path, environment: dict[str, str], says: str) -> None:
    done = ask(library_folder, **environment)
    assert done.returncode == 1
    assert says in done.stderr
    assert "fix: " in done.stderr


def test_without_a_driver_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(driver.ctypes, "CDLL", no_library)
    with pytest.raises(EngineError, match="no NVIDIA driver") as caught:
        driver.gpu()
    assert "r580" in caught.value.fix
    assert "--gpus all" in caught.value.fix
    assert driver.gpu_or_none() is None


def test_the_exact_driver_is_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, jetson = tmp_path / "version", tmp_path / "nv_tegra_release"
    module.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025\nGCC version: 11.4.0\n"
    )
    jetson.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    monkeypatch.setattr(driver, "_VERSION_FILES", (module,))
    assert driver._driver_release() == "580.65.06"
    monkeypatch.setattr(driver, "_VERSION_FILES", (tmp_path / "absent", jetson))
    assert driver._driver_release() == "R36 4.3"
