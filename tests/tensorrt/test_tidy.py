"""What the engine cache removes, lists and remembers."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from segrd_edge.errors import OptionError
from segrd_edge.store import Store
from segrd_edge.tensorrt import cache as cache_module
from segrd_edge.tensorrt import driver
from segrd_edge.tensorrt.build import BuildOptions, BuiltEngine
from segrd_edge.tensorrt.cache import CachedEngine, EngineCache
from segrd_edge.tensorrt.driver import Gpu

RTX = "tensorrt-rtx"
pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
GPU = Gpu("NVIDIA RTX 4000", "8.9", "13.2", "580.65.06")
PLAN_BYTES = 1_000_000


@pytest.fixture(autouse=True)
def _builder(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(graph: bytes, options: BuildOptions, **others: Any) -> BuiltEngine:
        return BuiltEngine(graph.ljust(PLAN_BYTES), b"timings", (), (), 1.5, {})

    monkeypatch.setattr(cache_module, "build", build)


def engine(cache: EngineCache, graph: bytes, age_s: float = 0) -> CachedEngine:
    """An engine of the cache, last used `age_s` ago."""
    cached = cache.load_or_build(graph, flavour=RTX)
    used = time.time() - age_s
    for path in (cache.folder / "engines").glob(f"{cached.key.name}.*"):
        os.utime(path, (used, used))
    return cached


def graphs(cache: EngineCache) -> set[str]:
    plans = (cache.folder / "engines").glob("*.plan")
    return {plan.read_bytes().strip().decode() for plan in plans}


def test_the_least_recently_used_engine_goes_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_bytes=int(3.5 * PLAN_BYTES))
    for age_s, graph in ((300, b"a"), (200, b"b"), (100, b"c")):
        engine(cache, graph, age_s)
    assert not cache.load_or_build(b"a", flavour=RTX).was_built  # reading counts as use
    engine(cache, b"d")
    assert graphs(cache) == {"a", "c", "d"}


def test_what_this_machine_cannot_use_any_more_goes_before_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EngineCache(tmp_path, limit_bytes=int(2.5 * PLAN_BYTES))
    with monkeypatch.context() as patched:
        patched.setattr(driver, "gpu_or_none", lambda: GPU)  # whereas `driver.gpu` finds none, as tomorrow
        engine(cache, b"of another driver", 10)
    engine(cache, b"old", 1000)
    assert [entry.fits for entry in cache.entries()] == [True, False]
    engine(cache, b"new")
    assert graphs(cache) == {"old", "new"}


def test_a_damaged_entry_goes_first_as_well(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_bytes=int(2.5 * PLAN_BYTES))
    engine(cache, b"old", 1000)
    damaged = engine(cache, b"damaged")
    (tmp_path / "engines" / f"{damaged.key.name}.json").write_text("{}")
    engine(cache, b"new")
    assert graphs(cache) == {"old", "new"}


def test_an_engine_that_a_process_holds_stays(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_bytes=int(1.5 * PLAN_BYTES))
    held = engine(cache, b"held", 1000)
    with FileLock(tmp_path / "engines" / f"{held.key.name}.lock"):
        engine(cache, b"new")
        assert graphs(cache) == {"held", "new"}
        assert cache.clear() != []
        assert graphs(cache) == {"held"}
    cache.clear()
    assert cache.entries() == []


def test_the_engine_just_built_stays_whatever_its_size(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_bytes=0)
    engine(cache, b"one")
    engine(cache, b"two")
    assert graphs(cache) == {"two"}
    assert [entry.name for entry in cache.tidy()] != []
    assert graphs(cache) == set()


def test_the_limit_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EngineCache(tmp_path).limit_bytes == 4_000_000_000
    monkeypatch.setenv("SEGRD_CACHE_LIMIT_GB", "0.5")
    assert EngineCache(tmp_path).limit_bytes == 500_000_000
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("SEGRD_CACHE_LIMIT_GB", wrong)
        with pytest.raises(OptionError, match="SEGRD_CACHE_LIMIT_GB"):
            EngineCache(tmp_path)


def test_what_a_killed_process_left_is_removed_in_time(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    engine(cache, b"one")
    old, fresh = (tmp_path / "engines" / f".x.plan.{name}.part" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.touch()
    os.utime(old, (0, 0))
    cache.tidy()
    assert not old.exists()
    assert fresh.exists()  # perhaps another process writes it


def test_an_annotated_record_is_sealed_again(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    first = engine(cache, b"graph")
    noted = cache.annotate(first, self_test={"frames": 4})
    again = cache.load_or_build(b"graph", flavour=RTX)
    assert not again.was_built
    assert noted.record == again.record == {**first.record, "self_test": {"frames": 4}}
    path = tmp_path / "engines" / f"{first.key.name}.json"
    path.write_text(path.read_text().replace('"frames": 4', '"frames": 5'))
    assert cache.load_or_build(b"graph", flavour=RTX).was_built


def test_a_note_never_lands_on_another_build_of_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EngineCache(tmp_path)
    first = engine(cache, b"graph")
    cache.discard(first.key)
    assert cache.annotate(first, self_test={"frames": 4}).record["self_test"] == {"frames": 4}
    assert cache.entries() == []
    other = BuiltEngine(b"another plan", None, (), (), 1.5, {})
    monkeypatch.setattr(cache_module, "build", lambda *_, **__: other)
    engine(cache, b"graph")
    cache.annotate(first, self_test={"frames": 4})
    assert "self_test" not in cache.load_or_build(b"graph", flavour=RTX).record


def test_clear_forgets_decisions_and_timings(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    engine(cache, b"graph")
    cache.decisions.write("decision", {"of": "it"}, facts={"precision": "mixed"})
    assert len(cache.clear()) == 1
    assert not list(tmp_path.rglob("*.json"))
    assert not list(tmp_path.rglob("*.timings"))


def test_a_store_of_records_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "records", None)
    assert store.entries() == []
    store.write("one", {"key": (1, 2)}, facts={"fact": 3})
    assert store.read("one", {"key": [1, 2]}) == (b"", store.entries()[0].record)
    assert store.read("one", {"key": [1]}) is None
    path = tmp_path / "records" / "one.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fact": 4}))
    assert store.read("one", {"key": [1, 2]}) is None
    assert store.entries()[0].record is None
