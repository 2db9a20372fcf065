from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from segrd_edge import Detector
from segrd_edge.benchmarks import soak as module
from segrd_edge.benchmarks.soak import READINGS, Soak, command, soak
from segrd_edge.console import build_app
from segrd_edge.errors import OptionError

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_memory_stays_flat(bundle_path: Path, engine: str, good_frame: np.ndarray, defect_frame: np.ndarray) -> None:
    """One kept map of a frame (24 KiB) would be 23 MiB."""
    with Detector(bundle_path, engine=engine, threads=1) as detector:
        found = soak(detector, [good_frame, defect_frame], 1000, 300)
    assert found.grown_mib < 1
    assert (found.frames, found.warm_up, len(found.readings_mib)) == (1000, 300, READINGS)
    assert found.frames_per_second > 0


def test_kept_inspections_are_found(bundle_path: Path, good_frame: np.ndarray) -> None:
    kept = []
    with Detector(bundle_path, threads=1) as detector:

        class Keeping:
            def inspect(self, frame: np.ndarray) -> None:
                kept.append(detector.inspect(frame))

        found = soak(Keeping(), [good_frame], 500, 100)  # type: ignore[arg-type]
    assert found.grown_mib > 8  # 500 maps of 24 KiB are 11.7
    assert found.readings_mib[-1] > found.warm_mib
    assert found.faults_per_frame > 1


@pytest.mark.parametrize(
    ("readings_mib", "grown_mib"),
    [
        ([100.0] * READINGS, 0),
        ([100 + (i + 1) / 10 for i in range(READINGS)], 5),
        ([100.0] * 25 + [130.0] + [100.0] * 24, 0),  # one busy moment
        ([100.0] * 5 + [103.0] * 45, 0),  # one step
    ],
)
def test_the_slope_is_that_of_most_readings(readings_mib: list[float], grown_mib: float) -> None:
    found = Soak(10_000, 100, 90, 100, tuple(readings_mib), 0, 1)
    assert found.grown_mib == pytest.approx(grown_mib)
    assert found.kib_per_1000_frames == pytest.approx(grown_mib * 1024 / 10)


def test_too_few_frames_are_refused(bundle_path: Path, good_frame: np.ndarray) -> None:
    with Detector(bundle_path) as detector:
        for count, warm_up in ((READINGS - 1, 1), (READINGS, 0)):
            with pytest.raises(OptionError, match=f"{count} frames after {warm_up}"):
                soak(detector, [good_frame], count, warm_up)


@pytest.mark.parametrize(("slope_mib", "code"), [(0.0, 0), (0.1, 1)])
def test_the_exit_code_says_whether_it_grew(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, slope_mib: float, code: int
) -> None:
    readings = iter(100 + slope_mib * i for i in range(1000))
    monkeypatch.setattr(module, "rss_mib", lambda: next(readings))
    arguments: list[Any] = [bundle_path, "--frames", 50, "--warm-up", 1, "--frame", "120x80", "--threads", 1]
    app = build_app(command, name="soak", example="")
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["grew"] == bool(code)
    assert result["grown_mib"] == pytest.approx(slope_mib * READINGS)
    assert (result["frames"], result["start_mib"], len(result["readings_mib"])) == (50, 100, READINGS)
