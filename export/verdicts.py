"""How many verdicts a precision turns: each graph with its own threshold, on the frames that both have judged."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .judge import Judgement


@dataclass(frozen=True)
class VerdictChanges:
    """Frames that one graph calls good and another defective."""

    held_out: int
    held_out_frames: int
    test: int | None  # None where there is nothing to test on
    test_frames: int | None
    test_source: str | None  # where the test frames come from, see `training.evaluate.Evaluation.source`

    @classmethod
    def between(cls, reference: Judgement, other: Judgement) -> VerdictChanges:
        held_out = _differ(reference, reference.held_out_scores, other, other.held_out_scores)
        if reference.evaluation is None or other.evaluation is None:
            return cls(int(held_out.sum()), len(held_out), None, None, None)
        scores = ([frame.score for frame in one.frames] for one in (reference.evaluation, other.evaluation))
        test = _differ(reference, next(scores), other, next(scores))
        return cls(int(held_out.sum()), len(held_out), int(test.sum()), len(test), reference.evaluation.source)

    @property
    def turned(self) -> int:
        """Verdicts of the test frames; of the held-out ones where there are none."""
        return self.held_out if self.test is None else self.test

    @property
    def frames(self) -> int:
        return self.held_out_frames if self.test_frames is None else self.test_frames

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _differ(
    reference: Judgement, reference_scores: list[float], other: Judgement, scores: list[float]
) -> npt.NDArray[np.bool_]:
    """Per frame, whether its verdict is another."""
    before = np.array(reference_scores) >= reference.threshold.value
    after = np.array(scores) >= other.threshold.value
    return np.asarray(before != after)
