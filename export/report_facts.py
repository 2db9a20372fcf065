"""The figures of the report: what follows from an evaluation and a threshold, without a word or a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segrd_edge.training.evaluate import Evaluation, FrameResult

CONFIDENCE = 0.95
ESCAPES_TOO_MANY = 0.25  # above this share the detector misses too much to be tuned into use

Answer = Literal["yes", "decide", "no", "unknown"]


@dataclass(frozen=True)
class Share:
    """`count` of `total` images, and what that says of all parts to come."""

    count: int
    total: int

    @property
    def rate(self) -> float | None:
        return self.count / self.total if self.total else None

    @property
    def upper_limit(self) -> float:
        """The rate that is not exceeded with CONFIDENCE, one-sided (Clopper and Pearson, 1934)."""
        from scipy.stats import beta

        if self.count >= self.total:
            return 1.0
        return float(beta.ppf(CONFIDENCE, self.count + 1, self.total - self.count))

    def fits(self, budget: float) -> bool:
        """False where so many would be seen in at most 1 of 20 sets of images if the true rate were `budget`."""
        from scipy.stats import binom

        return self.count == 0 or bool(binom.sf(self.count - 1, self.total, budget) > 1 - CONFIDENCE)


@dataclass(frozen=True)
class Errors:
    """Wrong verdicts at one threshold."""

    false_rejects: Share  # of good images
    escapes: Share  # of defective images
    escapes_by_kind: dict[str, Share]


def count_errors(evaluation: Evaluation, threshold: float) -> Errors:
    """Verdicts against the truth; scores at or above the threshold are defects."""
    kinds = {kind: [f.score for f in evaluation.frames if f.photo.kind == kind] for kind in evaluation.by_kind}
    return Errors(
        Share(sum(score >= threshold for score in evaluation.good_scores), len(evaluation.good_scores)),
        Share(sum(score < threshold for score in evaluation.defect_scores), len(evaluation.defect_scores)),
        {kind: Share(sum(score < threshold for score in scores), len(scores)) for kind, scores in kinds.items()},
    )


def answer(errors: Errors | None, false_reject: float) -> Answer:
    """Can this be used?

    "yes": all defects found, false rejects within the budget. "no": more than a quarter of the defects escape, or
    there are escapes and false rejects beyond the budget both, so that no other threshold mends it. "decide": what lies
    between.
    """
    if errors is None or not errors.escapes.total or not errors.false_rejects.total:
        return "unknown"
    within_budget = errors.false_rejects.fits(false_reject)
    if errors.escapes.count == 0:
        return "yes" if within_budget else "decide"
    if not within_budget or (errors.escapes.rate or 0) > ESCAPES_TOO_MANY:
        return "no"
    return "decide"


@dataclass(frozen=True)
class Difference:
    """A precision against fp32 on the same images."""

    verdicts: Share  # images whose verdict differs, each precision at its own threshold
    score_mean: float  # mean absolute difference of the scores
    score_max: float
    image_auroc: float | None  # the precision's minus fp32's
    pixel_ap: float | None


def compare(reference: Evaluation, other: Evaluation, thresholds: tuple[float, float]) -> Difference:
    """`other` against `reference`, image by image; thresholds in this order."""
    pairs = [(a.score, b.score) for a, b in zip(reference.frames, other.frames, strict=True)]
    differing = sum((a >= thresholds[0]) != (b >= thresholds[1]) for a, b in pairs)
    distances = np.abs(np.subtract(*np.array(pairs).T))
    return Difference(
        Share(differing, len(pairs)),
        float(distances.mean()),
        float(distances.max()),
        change(reference.metrics.image_auroc, other.metrics.image_auroc),
        change(reference.metrics.pixel_ap, other.metrics.pixel_ap),
    )


def change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


@dataclass(frozen=True)
class Cases:
    """The images worth looking at. No image is in two groups."""

    hardest: list[FrameResult]  # lowest-scoring defects, lowest first: escapes come first
    highest_good: list[FrameResult]  # highest first: false rejects come first
    clearest: list[FrameResult]  # highest-scoring defects, highest first


def choose_cases(frames: Sequence[FrameResult], count: int = 4) -> Cases:
    """Up to `count` images of each group."""
    defects = sorted((f for f in frames if f.photo.is_defect), key=lambda f: f.score)
    good = sorted((f for f in frames if not f.photo.is_defect), key=lambda f: -f.score)
    hardest = defects[: min(count, math.ceil(len(defects) / 2))]
    return Cases(hardest, good[:count], defects[len(hardest) :][-count:][::-1])


def score_groups(
    held_out: Sequence[float], evaluation: Evaluation | None, *, separate: bool
) -> dict[str, tuple[str, list[float]]]:
    """Rows of the score histogram: label → (tone, scores). `separate`: good test images are not the held-out ones."""
    groups: dict[str, tuple[str, list[float]]] = {"good, held out": ("good", list(held_out))} if held_out else {}
    if evaluation is None:
        return groups
    if separate and evaluation.good_scores:
        groups["good, test"] = ("good", evaluation.good_scores)
    for kind in evaluation.by_kind:
        groups[kind] = ("defect", [f.score for f in evaluation.frames if f.photo.kind == kind])
    return groups


def module_totals(quantised: Sequence[str], left_float: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    """Convolutions per part of the network (the name's first word): part → (in INT8, in float)."""
    totals: dict[str, tuple[int, int]] = {}
    for names, step in ((quantised, (1, 0)), (left_float, (0, 1))):
        for name in names:
            part = name.partition(".")[0]
            before = totals.get(part, (0, 0))
            totals[part] = before[0] + step[0], before[1] + step[1]
    return totals
