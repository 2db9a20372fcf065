"""The resize beside OpenCV's own."""

from __future__ import annotations

import json

import cv2
import pytest

from segrd_edge.benchmarks import resize


def test_all_ways_are_timed_on_the_same_frame(capsys: pytest.CaptureFixture[str]) -> None:
    before = cv2.getNumThreads()
    resize.command(["400x330", "128x128"], size=64, threads=1, rounds=2, json=True)
    (line,) = capsys.readouterr().out.splitlines()
    rows = json.loads(line)["rows"]
    assert [(row["frame_hw"], row["channels"]) for row in rows] == [
        ([330, 400], 3), ([330, 400], 1), ([128, 128], 3), ([128, 128], 1),
    ]  # fmt: skip
    assert all(row["plain_ms"] > 0 and row["ours_ms"] > 0 and row["most_differing"] <= 1 for row in rows)
    assert [row["engine_ms"] is not None for row in rows] == [True, False, True, False]
    assert cv2.getNumThreads() == before
