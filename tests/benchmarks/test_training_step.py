"""The profile of a training step covers every phase and every part."""

from __future__ import annotations

from segrd_edge.benchmarks.training_step import PARTS, measure


def test_every_phase_whole_and_in_windows() -> None:
    rows = list(measure("destseg", {"head_width": 16, "head_fusion_kernel": 1}, batch=2, steps=1))
    assert [row["phase"] for row in rows] == [
        "student, whole images",
        "student, half-size windows",
        "head, whole images",
        "head, half-size windows",
    ]
    assert all(row[part] > 0 for row in rows for part in PARTS)
