"""Graphs that OpenVINO compiled are read back where nothing that they depend on has changed, else made again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrd_edge import Detector, machine
from segrd_edge.engines import openvino as engine_module
from segrd_edge.engines import openvino_cache
from segrd_edge.errors import EngineError
from segrd_edge.store import Store

openvino = pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_module, "_WORTH_KEEPING_S", 0.0)  # the tests' graphs are small
    return tmp_path / "cache" / "openvino"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every graph that is compiled."""
    count: list[int] = []
    prepare = engine_module.prepare
    monkeypatch.setattr(engine_module, "prepare", lambda model: count.append(1) or prepare(model))
    return count


def _score(bundle: Path, frame: np.ndarray, precision: str = "int8", threads: int | None = None) -> tuple[float, bytes]:
    with Detector(bundle, engine="openvino", precision=precision, threads=threads) as detector:
        detector.self_test()
        found = detector.inspect(frame)
    return found.score, found.anomaly_map.tobytes()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_second_start_compiles_nothing_and_gives_the_same(
    bundle_path: Path, defect_frame: np.ndarray, compiled: list[int], precision: str
) -> None:
    first = _score(bundle_path, defect_frame, precision)
    assert len(compiled) == 1
    assert _score(bundle_path, defect_frame, precision) == first
    assert len(compiled) == 1


def test_other_settings_and_other_code_are_other_graphs(
    bundle_path: Path, defect_frame: np.ndarray, compiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _score(bundle_path, defect_frame, threads=1)
    _score(bundle_path, defect_frame, threads=2)
    assert len(compiled) == 2
    monkeypatch.setattr(machine, "package_version", lambda package: "another")
    _score(bundle_path, defect_frame, threads=1)
    assert len(compiled) == 3


@pytest.mark.parametrize("damage", ["cut", "changed", "no blob"])
def test_what_is_damaged_is_made_again(
    bundle_path: Path, defect_frame: np.ndarray, compiled: list[int], folder: Path, damage: str
) -> None:
    expected = _score(bundle_path, defect_frame)
    (blob,) = folder.glob("*.blob")
    content = bytearray(blob.read_bytes())
    if damage == "cut":
        blob.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
    else:
        blob.unlink()
    assert _score(bundle_path, defect_frame) == expected
    assert len(compiled) == 2
    assert _score(bundle_path, defect_frame) == expected  # it was kept again
    assert len(compiled) == 2


def test_what_openvino_refuses_is_made_again(
    bundle_path: Path, defect_frame: np.ndarray, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = _score(bundle_path, defect_frame)
    (blob,) = folder.glob("*.blob")
    with Detector(bundle_path, engine="openvino", precision="int8") as detector:
        graph = detector.bundle.manifest.graphs["int8"].file
        key = openvino_cache.key_of(detector.bundle.sha256[graph], engine_module.cpu_settings(None))
    openvino_cache.keep(key, b"no blob of OpenVINO's")  # sealed as if it were
    assert blob.read_bytes() == b"no blob of OpenVINO's"
    assert _score(bundle_path, defect_frame) == expected
    assert "so it compiles again" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_error(
    bundle_path: Path, defect_frame: np.ndarray, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(b"a file where the folder should be")
    with caplog.at_level(logging.INFO, logger="segrd_edge"):
        _score(bundle_path, defect_frame)
    assert "is not kept" in caplog.text


def test_without_a_home_nothing_is_kept(
    bundle_path: Path, defect_frame: np.ndarray, compiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEGRD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", _no_home)
    with pytest.raises(EngineError, match="no home folder") as caught:
        machine.cache_folder()
    assert "SEGRD_CACHE" in caught.value.fix
    for _ in range(2):
        _score(bundle_path, defect_frame)
    openvino_cache.forget({})
    assert len(compiled) == 2


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_home_is_not_needed_where_the_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", _no_home)
    assert machine.cache_folder() == folder.parent
    monkeypatch.delenv("SEGRD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    assert machine.cache_folder() == folder / "segrd-edge"


def test_a_folder_that_may_only_be_read_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_cache, "_LIMIT_BYTES", 1000)
    openvino_cache.keep({"graph": 1}, bytes(900))
    write = Store.write

    def refuse(*_: Any) -> None:
        raise PermissionError("another user's")

    def written(*arguments: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(Store, "remove", lambda *_: None)
            return write(*arguments)

    monkeypatch.setattr(Store, "remove", refuse)
    monkeypatch.setattr(Store, "write", written)
    openvino_cache.keep({"graph": 2}, bytes(900))  # over the limit: the first would have to go
    openvino_cache.forget({"graph": 1})
    assert openvino_cache.read({"graph": 1}) is not None


def test_what_loads_fast_is_not_kept(
    bundle_path: Path, defect_frame: np.ndarray, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_WORTH_KEEPING_S", 1e9)
    _score(bundle_path, defect_frame)
    assert not folder.exists()


def test_the_least_recently_used_go_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_cache, "_LIMIT_BYTES", 5000)
    keys = [openvino_cache.key_of(f"{number:064d}", {}) for number in range(4)]
    for key in keys[:3]:
        openvino_cache.keep(key, bytes(1500))
    assert [openvino_cache.read(key) is not None for key in keys[:3]] == [False, True, True]
    assert openvino_cache.read(keys[1]) is not None  # used: now the third is the oldest
    openvino_cache.keep(keys[3], bytes(1500))
    assert [openvino_cache.read(key) is not None for key in keys] == [False, True, False, True]
