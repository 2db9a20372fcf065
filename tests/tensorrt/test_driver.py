"""The driver probe, against a driver library of a few lines of C, and without any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segrd_edge.errors import EngineError
from segrd_edge.tensorrt import driver

_ASK = "from segrd_edge.tensorrt import driver; print(driver.gpu())"


def ask(folder: Path, code: str = _ASK, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder), **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_says_what_the_driver_says(driver_folder: Path) -> None:
    done = ask(driver_folder)
    assert done.returncode == 0, done.stderr
    assert "name='NVIDIA RTX 4000', compute_capability='8.9', cuda_version='13.2'" in done.stdout


@pytest.mark.parametrize("count", [1, 2])
def test_all_gpus(driver_folder: Path, count: int) -> None:
    done = ask(driver_folder, _ASK.replace("gpu()", "gpus()"), FAKE_COUNT=str(count))
    assert done.stdout.count("name='NVIDIA RTX 4000'") == count, done.stderr


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"FAKE_INIT": "803"}, "cuInit gives CUDA error 803 (driver mismatch)"),
        ({"FAKE_INIT": "100"}, "the NVIDIA driver finds no GPU"),
        ({"FAKE_COUNT": "0"}, "no GPU 0: the NVIDIA driver shows 0"),
    ],
)
def test_a_driver_that_fails_says_why(driver_folder: Path, environment: dict[str, str], says: str) -> None:
    done = ask(driver_folder, **environment)
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
