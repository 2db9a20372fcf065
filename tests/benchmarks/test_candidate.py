"""What a candidate's record says of wrong verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from segrd_edge.benchmarks.candidate import _wrong, is_refused
from segrd_edge.training.data import Photo
from segrd_edge.training.evaluate import FrameResult, summarise


def test_wrong_verdicts_are_counted_and_synthetic_defects_say_nothing_of_them() -> None:
    kinds = [("good", 0.1), ("good", 0.6), ("dent", 0.5), ("dent", 0.2), ("scratch", 0.4)]
    map_hw = np.zeros((4, 4), np.float32)
    evaluation = summarise([FrameResult(Photo(Path("a.png"), kind), score, map_hw, None) for kind, score in kinds])
    assert _wrong(evaluation, 0.5) == {
        "false_rejects": [1, 2],
        "escapes": [2, 3],
        "escapes_by_kind": {"dent": [1, 2], "scratch": [1, 1]},
    }
    assert _wrong(replace(evaluation, is_synthetic=True), 0.5) is None
    assert _wrong(None, 0.5) is None


def test_int8_is_refused_where_it_is_not_the_default() -> None:
    assert is_refused({"default_precision": "fp32"}, "int8")
    assert not is_refused({"default_precision": "fp32"}, "fp32")
    assert not is_refused({"default_precision": "int8"}, "int8")
