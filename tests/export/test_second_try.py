"""INT8 once more, where it turns more verdicts than it should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from segrd_edge.calibration.budget import Budget
from segrd_edge.calibration.calibrate import Calibration
from segrd_edge.calibration.drift import Drift
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.export import bundle
from segrd_edge.export.second_try import SecondTry, for_second_try
from segrd_edge.export.verdicts import VerdictChanges


class _Calibration:
    """What is asked of one."""

    def __init__(self, score_mean: float = 0.0086, speedup: float = 3.0, *, is_safe: bool = True) -> None:
        self.is_safe, self.is_fast, self.reached_speedup = is_safe, True, speedup
        self.drift = Drift(score_mean, 0.1, 0.99, 0.98, 0.1)


def calibration(score_mean: float = 0.0086, speedup: float = 3.0, *, is_safe: bool = True) -> Calibration:
    return cast(Calibration, _Calibration(score_mean, speedup, is_safe=is_safe))


def changes(turned: int, frames: int = 200) -> VerdictChanges:
    """Of the test images; every held-out one has turned, which does not count beside them."""
    return VerdictChanges(40, 40, turned, frames, "test photographs")


def test_half_of_what_scores_move_by_is_asked_for_where_more_than_a_hundredth_turns() -> None:
    settings = Int8Settings(budget=Budget(ap_drop=0.02))
    again = for_second_try(settings, calibration(0.0086), changes(3))
    assert again == replace(settings, budget=Budget(score_shift=0.004, ap_drop=0.02))
    assert for_second_try(settings, calibration(), changes(2)) is None
    held_out = VerdictChanges(1, 40, None, None, None)  # there is nothing else
    assert (held_out.turned, held_out.frames) == (1, 40)
    assert for_second_try(settings, calibration(0.0086), held_out) is not None


@pytest.mark.parametrize(
    "settings",
    [Int8Settings(scope="all"), Int8Settings(plan={"conv": "int8"}), Int8Settings(fine_tune_minutes=1)],
)
def test_what_was_laid_down_is_not_changed(settings: Int8Settings) -> None:
    assert for_second_try(settings, calibration(), changes(9)) is None


def test_int8_that_is_not_the_default_is_not_tried_again() -> None:
    assert for_second_try(Int8Settings(), calibration(is_safe=False), changes(9)) is None
    assert for_second_try(Int8Settings(), calibration(0.0), changes(9)) is None  # what moves nothing cannot move less


@pytest.mark.parametrize(
    ("turned", "made", "is_taken", "said"),
    [
        (1, calibration(speedup=2.6), True, "turns 1 of 200 verdicts instead of 4, and is taken"),
        (1, calibration(speedup=2.4), False, "by its work is 2.40 times as fast as fp32; the first one stays"),
        (1, calibration(is_safe=False), False, "the first one stays"),
        (4, calibration(), False, "turns 4 of 200 verdicts, not 4; the first one stays"),
    ],
)
def test_the_second_is_taken_where_it_turns_fewer_and_is_fast(
    turned: int, made: Calibration, is_taken: bool, said: str
) -> None:
    found = SecondTry.between(changes(4), changes(turned), made, 0.004)
    assert found.is_taken == is_taken
    assert said in str(found)


def test_the_export_makes_what_turns_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []
    given: list[Any] = []
    said: list[str] = []

    class Made:
        def __init__(self, settings: Int8Settings, first: Any) -> None:
            tried.append(settings.budget.score_shift)
            given.append(first)
            self.calibration = calibration()
            self.changes = changes(4 if settings.budget.score_shift == 0.01 else 0)

    made, second = bundle._with_second_try(cast(Any, Made), Int8Settings(), said.append)
    assert tried == [0.01, 0.004]
    assert given[0] is None
    assert given[1].changes.turned == 4
    assert made.changes.turned == 0
    assert second is not None
    assert second.is_taken
    assert said[0].startswith("INT8 turns 4 of 200 verdicts, more than 1%: once more, with scores that move by 0.004")


def test_what_no_calibration_changes_is_not_scored_again() -> None:
    judgements = {name: f"of {name}" for name in ("fp32", "int8", "fp16", "mixed")}
    made = bundle._Made({}, None, cast(Any, judgements))
    assert made.without_int8 == {"fp32": "of fp32", "fp16": "of fp16"}
