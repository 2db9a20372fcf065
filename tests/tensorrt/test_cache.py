from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segrd_edge.errors import EngineError
from segrd_edge.machine import cache_folder
from segrd_edge.tensorrt import cache as cache_module
from segrd_edge.tensorrt import driver
from segrd_edge.tensorrt.build import BuildOptions, BuiltEngine
from segrd_edge.tensorrt.cache import EngineCache, Key
from segrd_edge.tensorrt.driver import Gpu
from segrd_edge.tensorrt.progress import Progress

RTX = "tensorrt-rtx"
pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
GPU = Gpu("NVIDIA RTX 4000", "8.9", "13.2", "580.65.06")


class Builder:
    """Stands in for `build`: counts, and gives a plan of its own each time."""

    def __init__(self) -> None:
        self.count = 0
        self.timing_caches: list[bytes | None] = []

    def __call__(
        self,
        graph: bytes,
        options: BuildOptions,
        *,
        flavour: str,
        timing_cache: bytes | None,
        device: int,
        progress: Progress | None,
    ) -> BuiltEngine:
        self.count += 1
        self.timing_caches.append(timing_cache)
        plan = b"plan %d of " % self.count + graph
        return BuiltEngine(plan, b"timings %d" % self.count, (), ("a warning",), 1.5, {flavour: "1.0"})


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    builder = Builder()
    monkeypatch.setattr(cache_module, "build", builder)
    return builder


def test_a_real_engine_is_built_once_and_then_loaded(tmp_path: Path, int8_graph: bytes) -> None:
    first = EngineCache(tmp_path).load_or_build(int8_graph, flavour=RTX)
    second = EngineCache(tmp_path).load_or_build(int8_graph, flavour=RTX)
    assert first.was_built
    assert not second.was_built
    assert (first.plan, first.record, first.key) == (second.plan, second.record, second.key)
    assert second.record["convolutions"]["stem"] == "Int8"


def test_a_build_that_nobody_watches_is_said_once(
    tmp_path: Path, builder: Builder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "gpu_or_none", lambda index=0: GPU)
    with caplog.at_level(logging.INFO, "segrd_edge"):
        for _ in range(2):
            EngineCache(tmp_path).load_or_build(b"graph", flavour=RTX)
        EngineCache(tmp_path).load_or_build(b"other", flavour=RTX, progress=lambda phase, done, steps: None)
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("building an engine for NVIDIA RTX 4000 with tensorrt-rtx 1.")


def truncate(plan: Path, record: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def swap_a_byte(plan: Path, record: Path) -> None:
    plan.write_bytes(b"P" + plan.read_bytes()[1:])


def remove_plan(plan: Path, record: Path) -> None:
    plan.unlink()


def remove_record(plan: Path, record: Path) -> None:
    record.unlink()


def edit_record(plan: Path, record: Path) -> None:
    record.write_text(json.dumps({**json.loads(record.read_text()), "warnings": []}))


def edit_key(plan: Path, record: Path) -> None:
    record.write_text(record.read_text().replace('"graph_sha256": "', '"graph_sha256": "0'))


def truncate_record(plan: Path, record: Path) -> None:
    record.write_text(record.read_text()[:-20])


def other_json(plan: Path, record: Path) -> None:
    record.write_text("[1, 2]")


@pytest.mark.parametrize(
    "damage",
    [truncate, swap_a_byte, remove_plan, remove_record, edit_record, edit_key, truncate_record, other_json],
)
def test_what_is_damaged_is_built_again(damage: Callable[[Path, Path], None], tmp_path: Path, builder: Builder) -> None:
    cache = EngineCache(tmp_path)
    made = cache.load_or_build(b"graph", flavour=RTX)
    assert not cache.load_or_build(b"graph", flavour=RTX).was_built
    files = [tmp_path / "engines" / f"{made.key.name}{suffix}" for suffix in (".plan", ".json")]
    damage(*files)
    assert cache.load_or_build(b"graph", flavour=RTX).plan == b"plan 2 of graph"
    assert not cache.load_or_build(b"graph", flavour=RTX).was_built


def test_a_record_under_another_key_is_not_trusted(tmp_path: Path, builder: Builder) -> None:
    """A whole entry, renamed to the place of another."""
    cache = EngineCache(tmp_path)
    first, second = (cache.load_or_build(graph, flavour=RTX).key.name for graph in (b"one", b"two"))
    for suffix in (".plan", ".json"):
        (tmp_path / "engines" / f"{first}{suffix}").replace(tmp_path / "engines" / f"{second}{suffix}")
    assert cache.load_or_build(b"two", flavour=RTX).plan == b"plan 3 of two"


def test_everything_that_an_engine_depends_on_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(graph: bytes = b"graph", gpu: Gpu | None = GPU, **options: object) -> str:
        monkeypatch.setattr(driver, "gpu_or_none", lambda: gpu)
        return Key.of(graph, BuildOptions(**options), RTX).name  # type: ignore[arg-type]

    keys = [
        key(),
        key(b"other"),
        key(gpu=None),
        key(gpu=replace(GPU, name="NVIDIA RTX 5000")),
        key(gpu=replace(GPU, compute_capability="8.6")),
        key(gpu=replace(GPU, cuda_version="13.4")),
        key(gpu=replace(GPU, driver="590.1")),
        key(workspace_bytes=1 << 30),
        key(optimisation_level=4),
        key(compute_capabilities=("8.6",)),
        key(version_compatible=True),
        key(version_compatible=True, exclude_lean_runtime=True),
        key(detailed=False),
        key(tf32=True),
        key(aux_streams=1),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_timings_of_one_gpu_serve_the_next_build_there(
    tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EngineCache(tmp_path)
    monkeypatch.setattr(driver, "gpu_or_none", lambda: GPU)
    cache.load_or_build(b"one", flavour=RTX)
    cache.load_or_build(b"two", BuildOptions(optimisation_level=4), flavour=RTX)
    monkeypatch.setattr(driver, "gpu_or_none", lambda: replace(GPU, name="NVIDIA RTX 5000"))
    cache.load_or_build(b"one", flavour=RTX)
    assert builder.timing_caches == [None, b"timings 1", None]
    for path in (tmp_path / "timings").glob("*.timings"):
        path.write_bytes(b"damaged")
    cache.load_or_build(b"three", flavour=RTX)
    assert builder.timing_caches[-1] is None


def test_a_discarded_engine_is_built_again(tmp_path: Path, builder: Builder) -> None:
    cache = EngineCache(tmp_path)
    key = cache.load_or_build(b"graph", flavour=RTX).key
    cache.discard(key)
    cache.discard(key)
    assert cache.load_or_build(b"graph", flavour=RTX).was_built


def test_a_failed_build_leaves_no_entry_and_no_lock(
    tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> BuiltEngine:
        raise EngineError("cannot build")

    cache = EngineCache(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "build", fails)
        with pytest.raises(EngineError, match="cannot build"):
            cache.load_or_build(b"graph", flavour=RTX)
    assert cache.load_or_build(b"graph", flavour=RTX).was_built
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_cannot_be_written_names_the_variable(tmp_path: Path, builder: Builder) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EngineError, match="cannot be written") as caught:
        EngineCache(tmp_path / "file").load_or_build(b"graph", flavour=RTX)
    assert "SEGRD_CACHE" in caught.value.fix


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, builder: Builder) -> None:
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path / "mine"))
    assert EngineCache().folder == cache_folder() == tmp_path / "mine"
    EngineCache().load_or_build(b"graph", flavour=RTX)
    assert (tmp_path / "mine" / "engines").stat().st_mode & 0o077 == 0
    monkeypatch.delenv("SEGRD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "segrd-edge"


def test_threads_build_once(tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(4)

    def slowly(graph: bytes, options: BuildOptions, **others: Any) -> BuiltEngine:
        time.sleep(0.1)
        return builder(graph, options, **others)

    monkeypatch.setattr(cache_module, "build", slowly)

    def load() -> None:
        barrier.wait()
        EngineCache(tmp_path).load_or_build(b"graph", flavour=RTX)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builder.count == 1


# The first process stops in its build until the second has said that it waits.
_PROCESS = """
import sys, time
from pathlib import Path
from segrd_edge.tensorrt.cache import WAITING, EngineCache

folder, graph = Path(sys.argv[1]), Path(sys.argv[2])

def progress(phase, done, steps):
    if phase == WAITING:
        (folder / "waiting").touch()
        return
    (folder / "building").touch()
    end = time.monotonic() + 60
    while not (folder / "waiting").exists() and time.monotonic() < end:
        time.sleep(0.01)

engine = EngineCache(folder / "cache").load_or_build(graph.read_bytes(), flavour="tensorrt-rtx", progress=progress)
print(engine.was_built, engine.record["sha256"])
"""


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path: Path, fp32_graph: bytes) -> None:
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(fp32_graph)
    command = [sys.executable, "-c", _PROCESS, str(tmp_path), str(graph)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    assert (tmp_path / "waiting").exists()
    assert sorted(built for built, _ in outputs) == ["False", "True"]
    assert outputs[0][1] == outputs[1][1]
