"""What INT8 gains without VNNI is tried once per machine, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("openvino")

from segrd_edge.engines import openvino_int8_speed
from segrd_edge.engines.openvino_int8_speed import int8_speedup


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path))
    int8_speedup.cache_clear()
    yield
    int8_speedup.cache_clear()


def test_a_machine_does_not_change_its_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    found = int8_speedup()
    assert 0.1 < found < 50  # both have run
    int8_speedup.cache_clear()  # as in another process
    monkeypatch.setattr(openvino_int8_speed, "_measure", lambda: pytest.fail("tried again"))
    assert int8_speedup() == pytest.approx(found, abs=1e-3)


def test_it_is_tried_anew_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(openvino_int8_speed, "_measure", iter([1.25, 2.5]).__next__)
    assert int8_speedup() == 1.25
    int8_speedup.cache_clear()
    assert int8_speedup() == 2.5
