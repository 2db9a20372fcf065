"""Which model is best for a part within a latency budget: figures in, a choice and its reasons out.

One choice is made of every precision that the export accepts, in four steps:

1. what keeps the latency budget (p95, from a frame's bytes to the verdict),
2. of these, what reaches the highest image AUROC or is within noise of it,
3. of these, what reaches the highest pixel AP or is within noise of it, where there are masks,
4. of these, the fastest.

Noise is what the test images leave open, twice the standard error of the difference of two candidates on the same
images: for image AUROC that of DeLong, DeLong and Clarke-Pearson (1988); for pixel AP that of the mean difference of
the single images' APs. It is at least LOSS_LIMITS, 0.005 image AUROC and 0.02 pixel AP, and that alone where the
single images' scores are not known. What another seed would change is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from segrd_edge.export.limits import LOSS_LIMITS

_Floats = npt.NDArray[np.float64]
STANDARD_ERRORS = 2
RESULT_FILE = "result.json"  # beside a bundle of segrd-compare: `images` says what each precision makes of each


@dataclass(frozen=True, eq=False)
class Scored:
    """The test images as one candidate scores them; the same images in the same order for all candidates."""

    defective: npt.NDArray[np.bool_]  # N
    scores: _Floats  # N anomaly scores
    pixel_ap: _Floats  # N: of the single image; NaN where there is no mask

    @classmethod
    def of(cls, images: Sequence[Mapping[str, Any]], precision: str) -> Scored:
        """From `images` of a RESULT_FILE."""
        own = [image[precision] for image in images]
        return cls(
            np.array([image["defective"] for image in images]),
            np.array([image["score"] for image in own]),
            np.array([image["pixel_ap"] for image in own], np.float64),  # None becomes NaN
        )

    @property
    def placements(self) -> tuple[_Floats, _Floats]:
        """Share of the other class that each defective and each good image is on the right side of; ties count half."""
        difference = self.scores[self.defective][:, None] - self.scores[~self.defective][None, :]
        right = (difference > 0) + 0.5 * (difference == 0)
        return right.mean(axis=1), right.mean(axis=0)


@dataclass(frozen=True)
class Contestant:
    """A model at one precision."""

    model: str
    precision: str
    image_auroc: float | None
    pixel_ap: float | None  # None without masks
    median_ms: float
    p95_ms: float | None  # None where the samples were too few
    images: Scored | None = field(default=None, repr=False)  # None: not evaluated, or the single scores are lost

    @property
    def name(self) -> str:
        return f"{self.model} at {self.precision}"

    @property
    def limit_ms(self) -> float:
        """What the budget is held against."""
        return self.median_ms if self.p95_ms is None else self.p95_ms


@dataclass(frozen=True)
class Choice:
    """What `choose` came to."""

    best: Contestant | None  # None where nothing keeps the budget, or nothing was evaluated
    fitting: list[Contestant]  # what keeps the budget, fastest first
    fastest: Contestant  # of all
    leader: Contestant | None  # highest image AUROC of what fits
    near: list[Contestant]  # within noise of the leader, the leader among them
    leader_ap: Contestant | None  # highest pixel AP of these; None without masks
    equal: list[Contestant]  # what the images cannot tell from the best: slower than it


def choose(contestants: Sequence[Contestant], budget_ms: float | None = None) -> Choice:
    """The best of at least one contestant, all of them evaluated or none; see the module for the rule."""
    by_speed = sorted(contestants, key=lambda c: c.median_ms)
    fitting = [c for c in by_speed if budget_ms is None or c.limit_ms <= budget_ms]
    judged = [c for c in fitting if c.image_auroc is not None]
    if not judged:
        return Choice(None, fitting, by_speed[0], None, [], None, [])
    leader, near = _within_noise(judged, lambda c: c.image_auroc, auroc_noise)
    leader_ap, last = None, near
    if any(c.pixel_ap is not None for c in near):
        leader_ap, last = _within_noise(near, lambda c: c.pixel_ap, pixel_ap_noise)
    return Choice(last[0], fitting, by_speed[0], leader, near, leader_ap, last[1:])


def _within_noise(
    contestants: Sequence[Contestant],
    value: Callable[[Contestant], float | None],
    noise: Callable[[Contestant, Contestant], float],
) -> tuple[Contestant, list[Contestant]]:
    """The contestant of the highest value, and all that are within noise of it, in the order given."""

    def known(contestant: Contestant) -> float:
        found = value(contestant)
        return -math.inf if found is None else found

    leader = max(contestants, key=known)
    return leader, [c for c in contestants if c is leader or known(leader) - known(c) <= noise(leader, c)]


def auroc_noise(a: Contestant, b: Contestant) -> float:
    """Differences of image AUROC up to this are noise; infinite where a class has fewer than two images."""
    if a.images is None or b.images is None:
        return LOSS_LIMITS["image_auroc"]
    variance = 0.0
    for ours, theirs in zip(a.images.placements, b.images.placements, strict=True):
        if ours.size < 2:
            return math.inf
        variance += float(np.var(ours - theirs, ddof=1)) / ours.size
    return max(LOSS_LIMITS["image_auroc"], STANDARD_ERRORS * math.sqrt(variance))


def pixel_ap_noise(a: Contestant, b: Contestant) -> float:
    """Differences of pixel AP up to this are noise; infinite with fewer than two masks."""
    if a.images is None or b.images is None:
        return LOSS_LIMITS["pixel_ap"]
    differences = a.images.pixel_ap - b.images.pixel_ap
    differences = differences[~np.isnan(differences)]
    if differences.size < 2:
        return math.inf
    standard_error = float(np.std(differences, ddof=1)) / math.sqrt(differences.size)
    return max(LOSS_LIMITS["pixel_ap"], STANDARD_ERRORS * standard_error)
