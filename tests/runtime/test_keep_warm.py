from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from threading import Event, Lock

import numpy as np
import pytest

from segrd_edge import Detector
from segrd_edge.errors import EngineError, OptionError
from segrd_edge.keep_warm import KeepWarm

LONG_S = 30  # a limit for what takes milliseconds


def test_runs_while_no_frame_comes_and_stops_when_closed() -> None:
    thrice, lock = Event(), Lock()
    held: list[bool] = []

    def run() -> None:
        held.append(lock.locked())
        if len(held) == 3:
            thrice.set()

    warm = KeepWarm(lock, run, 1)
    assert thrice.wait(LONG_S)
    warm.close()
    warm.close()
    assert all(held)
    assert warm.runs == len(held)
    assert not lock.locked()


def test_never_waits_for_the_engine() -> None:
    lock = Lock()
    with lock:
        warm = KeepWarm(lock, lambda: pytest.fail("ran while the engine was busy"), 1)
        Event().wait(0.05)
        warm.close()
    assert warm.runs == 0


def test_ends_with_a_warning_when_the_engine_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise EngineError("the GPU fell off the bus")

    lock = Lock()
    with caplog.at_level(logging.WARNING, "segrd_edge"):
        warm = KeepWarm(lock, fail, 1)
        warm._thread.join(LONG_S)
    assert not warm._thread.is_alive()
    assert not lock.locked()
    assert "fell off the bus" in caplog.text
    warm.close()


def test_a_program_that_closes_nothing_ends_after_the_run_in_progress() -> None:
    program = """
import time
from threading import Event, Lock
from segrd_edge.keep_warm import KeepWarm
started = Event()
def run():
    print("starts", flush=True)
    started.set()
    time.sleep(0.3)
    print("ends", flush=True)
warm = KeepWarm(Lock(), run, 1)
started.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split().count("starts") == done.stdout.split().count("ends") > 0


@pytest.mark.parametrize("interval_ms", [0, -1, float("nan"), float("inf")])
def test_refuses_an_impossible_interval(interval_ms: float) -> None:
    with pytest.raises(OptionError, match="keep_warm_ms"):
        KeepWarm(Lock(), lambda: None, interval_ms)


def test_a_detector_that_is_kept_warm_gives_the_same(bundle_path: Path, defect_frame: np.ndarray) -> None:
    with (
        Detector(bundle_path, precision="fp32") as plain,
        Detector(bundle_path, precision="fp32", keep_warm_ms=1) as warm,
    ):
        expected = plain.inspect(defect_frame)
        for _ in range(20):
            found = warm.inspect(defect_frame)
            Event().wait(0.002)
            assert found.score == expected.score
            np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
        keeper = warm._keep_warm
    assert keeper is not None
    assert not keeper._thread.is_alive()
