"""INT8 once more, where it turns more verdicts than it should.

The limits that INT8 keeps to are of the calibration frames, and how far scores move says little about verdicts: that
depends on how many lie near the threshold. So fp32's verdicts on the test images, right or wrong, have the last word.
Where INT8 turns more than a hundredth of them, it is calibrated again to move scores half as far, and whichever turns
fewer is taken. No label is looked at, only whether the two precisions agree; and not at the held-out images, which the
thresholds of both come from, unless there are no others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from segrd_edge.calibration.calibrate import Calibration
from segrd_edge.calibration.settings import Int8Settings

from .limits import LEAST_SPEEDUP, MOST_TURNED
from .verdicts import VerdictChanges


@dataclass(frozen=True)
class SecondTry:
    """What a second calibration was asked for, and what became of it."""

    score_shift: float  # mean |Δscore| that it was allowed
    frames: int  # test images; held-out ones where there are none
    turned_before: int  # verdicts of these
    turned: int  # by the second
    speedup: float  # fp32's time over the second's, by its work
    is_safe: bool  # whether the second keeps to all of the limits
    is_taken: bool

    @classmethod
    def between(
        cls, first: VerdictChanges, second: VerdictChanges, calibration: Calibration, limit: float
    ) -> SecondTry:
        """`calibration` is the second's, and `limit` its score shift."""
        keeps = calibration.is_safe and calibration.is_fast and calibration.reached_speedup >= LEAST_SPEEDUP
        return cls(
            score_shift=limit,
            frames=first.frames,
            turned_before=first.turned,
            turned=second.turned,
            speedup=calibration.reached_speedup,
            is_safe=calibration.is_safe,
            is_taken=keeps and second.turned < first.turned,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        figures = (
            f"INT8 that moves scores by {self.score_shift:g} at most turns {self.turned} of {self.frames} verdicts"
        )
        if self.is_taken:
            return f"{figures} instead of {self.turned_before}, and is taken"
        why = f"and by its work is {self.speedup:.2f} times as fast as fp32" if self.turned < self.turned_before else ""
        return f"{figures}, not {self.turned_before}{f', {why}' if why else ''}; the first one stays"


def for_second_try(settings: Int8Settings, calibration: Calibration, changes: VerdictChanges) -> Int8Settings | None:
    """Settings of a second try; None where INT8 turns few enough verdicts, is not what would be run, or was laid down
    by a scope, a plan or a fine-tune."""
    laid_down = settings.scope != "auto" or settings.plan is not None or settings.fine_tune_minutes > 0
    if laid_down or not (calibration.is_safe and calibration.is_fast) or changes.turned <= MOST_TURNED * changes.frames:
        return None
    half = float(f"{calibration.drift.score_mean / 2:.1g}")
    return replace(settings, budget=replace(settings.budget, score_shift=half)) if half > 0 else None
