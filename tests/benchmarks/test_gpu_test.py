"""The checks of `make gpu-test` on the fake GPU: they pass on one that works, and each finds its own fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segrd_edge import Bundle
from segrd_edge.benchmarks import gpu_checks, gpu_test
from segrd_edge.benchmarks.gpu_test import Outcome, run_checks
from segrd_edge.console import build_app
from segrd_edge.errors import EngineError

from ..fakes.gpu import fake_gpu  # noqa: F401  (fixture)
from ..fakes.machine import FakeGpu


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake has nothing to time, and few bytes show what many would."""
    monkeypatch.setattr(gpu_checks, "_BYTES", 4096)
    monkeypatch.setattr(gpu_test, "DEFAULT_FRAME_HW", (128, 192))
    monkeypatch.setattr(gpu_checks, "_RUNS", 8)
    monkeypatch.setattr(gpu_checks, "_ROUNDS", 2)
    monkeypatch.setattr(gpu_checks, "_FRAMES", 20)
    monkeypatch.setattr(gpu_checks, "_IDLE_S", (0.01, 2))
    monkeypatch.setattr("segrd_edge.tensorrt.timing._WARM_UP_S", 0.0)
    monkeypatch.setattr("segrd_edge.tensorrt.timing._BURST_S", 0.0)


def outcomes(bundle: Bundle | None = None) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in run_checks(bundle, seconds=0.2)}


@pytest.fixture
def bundle(make_bundle: Callable[..., Path], tmp_path: Path) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "part.segrd"))


def test_a_gpu_that_works_passes_everything(fake_gpu: FakeGpu, bundle: Bundle) -> None:  # noqa: F811
    found = outcomes(bundle)
    assert {name: o.detail for name, o in found.items() if o.result != "passed"} == {}
    assert len(found) == len(gpu_checks.CUDA_CHECKS) + 2 * (1 + len(gpu_checks.ENGINE_CHECKS)) + 1
    chosen = found["tensorrt: builds_tests_and_chooses"].figures
    assert chosen is not None
    assert chosen["chosen"] == "int8"
    assert chosen["cuda_graph"] == "used"
    assert fake_gpu.leaks() == {}


def test_without_tensorrt_memory_and_graphs_are_checked_still(
    fake_gpu: FakeGpu,  # noqa: F811
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segrd_edge.engines.tensorrt.TensorRtEngine.is_available", classmethod(lambda cls: False))
    found = outcomes(bundle)
    passed = {name for name, outcome in found.items() if outcome.result == "passed"}
    assert passed == {check.__name__ for check in gpu_checks.CUDA_CHECKS}
    assert {o.detail for o in found.values() if o.result == "skipped"} == {gpu_test._NO_TENSORRT}


def test_a_gpu_that_changes_bytes_is_found(fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    import pycuda.driver

    copy = pycuda.driver.memcpy_dtoh_async

    spoilt: list[int] = []

    def one_bit_off(dest: Any, src: int, stream: Any = None) -> None:
        if not spoilt:
            fake_gpu.at(src, 1)[0] ^= 1
            spoilt.append(src)
        copy(dest, src, stream)

    monkeypatch.setattr(pycuda.driver, "memcpy_dtoh_async", one_bit_off)
    found = outcomes()
    assert found["copies_through_pinned_memory"].result == "failed"
    assert "bytes changed" in found["copies_through_pinned_memory"].detail


def test_a_leak_per_frame_is_found(
    fake_gpu: FakeGpu,  # noqa: F811
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = iter(range(1 << 30, 0, -(1 << 21)))
    monkeypatch.setattr("pycuda.driver.mem_get_info", lambda: (next(free), 1 << 30), raising=False)
    found = outcomes(bundle)["tensorrt: allocates_nothing_per_frame"]
    assert (found.result, found.detail.splitlines()[0]) == (
        "failed",
        "20 frames took 2097152 bytes of the GPU's memory",
    )


def test_a_check_that_breaks_ends_no_other(fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def broken() -> dict[str, Any]:
        raise ZeroDivisionError("a bug")

    def lacking() -> dict[str, Any]:
        raise gpu_checks.Skip("no such memory")

    monkeypatch.setattr(gpu_checks, "CUDA_CHECKS", (broken, lacking, gpu_checks.describe_gpu))
    found = outcomes()
    assert [found[name].result for name in ("broken", "lacking", "describe_gpu")] == ["failed", "skipped", "passed"]
    assert "a bug" in found["broken"].detail
    assert found["lacking"].detail == "no such memory"


def test_the_command_writes_one_file_named_after_the_gpu(fake_gpu: FakeGpu, bundle: Bundle, tmp_path: Path) -> None:  # noqa: F811
    app = build_app(gpu_test.command, name="gpu_test", example="gpu_test")
    done = CliRunner().invoke(app, [str(bundle.path), "--out", str(tmp_path), "--seconds", "0.2", "--json"])
    assert done.exit_code == 0, done.stderr
    written = json.loads((tmp_path / "gpu-fake-rtx.json").read_text())
    assert written == json.loads(done.stdout.splitlines()[-1])
    assert written["bundle"] == "part.segrd"
    assert {check["result"] for check in written["checks"]} == {"passed"}


def test_a_machine_without_a_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_gpu(index: int = 0) -> None:
        raise EngineError("no NVIDIA driver", fix="install it")

    monkeypatch.setattr("segrd_edge.tensorrt.driver.gpu", no_gpu)
    app = build_app(gpu_test.command, name="gpu_test", example="gpu_test")
    done = CliRunner().invoke(app, ["--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "no NVIDIA driver" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_frames_of_the_latency_table_have_the_size_that_the_graphs_take(bundle: Bundle) -> None:
    record = bundle.manifest.graphs["fp32"].model_copy(update={"frame_hw": (64, 96)})
    manifest = bundle.manifest.model_copy(update={"graphs": {"fp32": bundle.manifest.graphs["fp32"], "fp16": record}})
    assert gpu_test._frame_hw(bundle) == gpu_test.DEFAULT_FRAME_HW
    assert gpu_test._frame_hw(replace(bundle, manifest=manifest)) == (64, 96)
