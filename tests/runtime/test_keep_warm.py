from __future__ import annotations

import logging
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock

import numpy as np
import pytest

from segrd_edge import Detector
from segrd_edge.errors import EngineError
from segrd_edge.keep_warm import KeepWarm

LONG_S = 30  # a limit for what takes milliseconds


class Runs:
    """Stands in for an engine: calls a function in every run."""

    input_hw = (4, 6)

    def __init__(self, run: Callable[[], object]) -> None:
        self._run = run

    def run(self, image: np.ndarray) -> None:
        assert image.shape == (4, 6, 3)
        self._run()


def keep_warm(lock: Lock, run: Callable[[], object]) -> tuple[KeepWarm, Runs]:
    """Every millisecond; and the engine, which somebody has to hold."""
    engine = Runs(run)
    return KeepWarm(lock, engine, 1), engine  # type: ignore[arg-type]


def test_runs_while_no_frame_comes_and_stops_when_closed() -> None:
    thrice, lock = Event(), Lock()
    held: list[bool] = []

    def run() -> None:
        held.append(lock.locked())
        if len(held) == 3:
            thrice.set()

    warm, _engine = keep_warm(lock, run)
    assert thrice.wait(LONG_S)
    warm.close()
    warm.close()
    assert all(held)
    assert warm.runs == len(held)
    assert not lock.locked()


def test_never_waits_for_the_engine() -> None:
    lock = Lock()
    with lock:
        warm, _engine = keep_warm(lock, lambda: pytest.fail("ran while the engine was busy"))
        Event().wait(0.05)
        warm.close()
    assert warm.runs == 0


def test_ends_with_a_warning_when_the_engine_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise EngineError("the GPU fell off the bus")

    lock = Lock()
    with caplog.at_level(logging.WARNING, "segrd_edge"):
        warm, _engine = keep_warm(lock, fail)
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
class Engine:
    input_hw = (4, 6)
    def run(self, image):
        print("starts", flush=True)
        started.set()
        time.sleep(0.3)
        print("ends", flush=True)
engine = Engine()
warm = KeepWarm(Lock(), engine, 1)
started.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split().count("starts") == done.stdout.split().count("ends") > 0


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


def test_a_detector_that_nobody_closed_goes_and_its_thread_ends(bundle_path: Path, good_frame: np.ndarray) -> None:
    detector = Detector(bundle_path, precision="fp32", keep_warm_ms=1)
    detector.inspect(good_frame)
    keeper, kept = detector._keep_warm, weakref.ref(detector)
    assert keeper is not None
    del detector
    assert kept() is None
    keeper._thread.join(LONG_S)
    assert not keeper._thread.is_alive()
