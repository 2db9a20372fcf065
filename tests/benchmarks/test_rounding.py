from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from segrd_edge.benchmarks.rounding import measure, show, ways
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.plan import Plan

from ..calibration.conftest import build_small, images  # noqa: F401  (fixture)


def test_less_and_less_is_rounded() -> None:
    everything = Plan(("teacher.conv1", "teacher.layer2.0.conv1", "head.fuse"), {"head.out": "one channel"})
    found = ways(everything)
    assert list(found) == [
        "everything", "skips in float", "and the fine level in two terms", "and everything in two terms",
    ]  # fmt: skip
    assert [plan.float_skips for plan in found.values()] == [False, True, True, True]
    assert [set(plan.two_term) for plan in found.values()] == [
        set(), set(), {"teacher.conv1"}, set(everything.quantised),
    ]  # fmt: skip
    assert {plan.quantised for plan in found.values()} == {everything.quantised}


def test_every_way_has_drift_and_time(
    images: list[npt.NDArray[np.uint8]],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path / "cache"))
    frames = [CalibrationFrame(image, Path("photo.png"), "0" * 64, "good") for image in images]
    rows = measure(build_small(images[0].shape[:2]), frames, 0.5, rounds=2)
    json.dumps(rows, allow_nan=False)
    assert rows["fp32"].keys() == {"processor_ms"}
    show(rows)
    ours = {name: row for name, row in rows.items() if name != "fp32"}
    assert {row["int8_share"] for row in ours.values()} == {rows["everything"]["int8_share"]}
    assert rows["and everything in two terms"]["two_term_share"] == rows["everything"]["int8_share"]
    assert rows["everything"]["two_term_share"] == 0
    for drift in ("drift", "drift_nearest"):
        moved = [row[drift]["map_max"] for row in ours.values()]
        assert moved[-1] < moved[0]
    assert all(row["processor_ms"] > 0 for row in rows.values())
    assert "INT8 with" in capsys.readouterr().err
