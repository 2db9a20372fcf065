from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segrd_edge.benchmarks import environment
from segrd_edge.benchmarks.environment import OtherCpu, _Ticks
from segrd_edge.benchmarks.html import machine_rows
from segrd_edge.tensorrt import jetson, smi

linux = pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="reads /proc")


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        (_Ticks(10, 100, 1), _Ticks(11, 104, 2), 0.0),  # all that was busy was this process
        (_Ticks(10, 100, 1), _Ticks(13, 104, 2), 0.5),
        (_Ticks(10, 100, 1), _Ticks(14, 104, 1), 1.0),
        (_Ticks(10, 100, 1), _Ticks(10, 104, 1.01), 0.0),  # clock ticks are coarser than process time
        (_Ticks(10, 100, 1), _Ticks(10, 100, 1), None),
        (None, _Ticks(10, 100, 1), None),
        (_Ticks(10, 100, 1), None, None),
    ],
)
def test_the_share_of_others(
    monkeypatch: pytest.MonkeyPatch, before: _Ticks | None, after: _Ticks | None, share: float | None
) -> None:
    readings = iter([before, after])
    monkeypatch.setattr(environment, "_read_ticks", lambda: next(readings))
    assert OtherCpu().since_last() == share


@linux
def test_another_busy_process_is_seen() -> None:
    other = OtherCpu()
    busy = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    share = other.since_last()
    assert share is not None
    assert 0 < share <= 1


@linux
def test_memory_is_read() -> None:
    """In a process of its own: what ran before in this one may give memory back meanwhile."""
    program = """
from segrd_edge.benchmarks.environment import rss_mib
before = rss_mib()
block = bytearray(64 * 2**20)
block[::4096] = b"1" * len(block[::4096])
print(rss_mib() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert float(done.stdout) == pytest.approx(64, abs=8)


def test_an_idle_process_is_not_held_up_for_the_whole_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls are counted, not seconds: an idle process is let go, a busy one is asked again until the limit."""
    polls = []
    monkeypatch.setattr(environment, "sleep", polls.append)
    monkeypatch.setattr(environment, "process_time", lambda: 0.0)
    environment.wait_until_idle()
    assert len(polls) == 1
    monkeypatch.setattr(environment, "process_time", time.perf_counter)  # always as busy as the clock
    environment.wait_until_idle()
    assert len(polls) > 2


def test_memory_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "Path", lambda path: tmp_path / "absent")
    assert environment.rss_mib() is None


def test_cards_and_a_jetsons_mode_are_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    card = smi.Card("a card", "580.1", 1200, 2400, 70.0, "Enabled", "Default", ("heat",))
    monkeypatch.setattr(smi, "cards", lambda: [card])
    monkeypatch.setattr(jetson, "read", lambda: jetson.Jetson(power_mode="15W"))
    monkeypatch.setattr(environment.machine, "power", lambda: {"turbo": "off"})
    found = environment.describe()
    assert found["power"] == {"turbo": "off", "Jetson mode": "15W"}
    assert json.loads(json.dumps(found["gpus"]))[0]["slowed_by"] == ["heat"]
    rows = machine_rows(found | {"load_average": {"before": None}})
    assert rows["power"] == "turbo off, Jetson mode 15W"
    assert rows["card 0"] == "a card, 1200 of 2400 MHz when read, 70 W at most, slowed down by heat"
    silent = dict.fromkeys(found["gpus"][0]) | {"slowed_by": ()}
    rows = machine_rows(found | {"power": {}, "gpus": [silent], "load_average": {"before": None}})
    assert (rows["power"], rows["card 0"]) == ("not readable", "of no name")
