"""What fits a latency budget, of bundles that are there: figures in, an answer out.

The rule is `choice`'s, with p99 where that has p95: of what the exports accept, what keeps the budget; of these the
most accurate, or of those that the test images cannot tell from it the fastest. Metrics are compared only where they
come from the same images: those of photographs say nothing beside those of synthetic defects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .choice import Choice, Contestant, auroc_noise, choose, pixel_ap_noise


@dataclass(frozen=True)
class Basis:
    """What metrics come from."""

    text: str  # "83 test photographs", as people read it
    key: str  # differs where the images do, as far as the manifest tells


@dataclass(frozen=True, kw_only=True)
class Timed(Contestant):
    """A bundle's graph at one precision in one engine, as measured; `model` is the bundle."""

    engine: str
    network_hw: tuple[int, int]
    p99_ms: float
    late: int  # of the samples, those over the budget
    stages_ms: dict[str, float]  # medians: preprocess, engine, postprocess, other
    is_accepted: bool  # False: INT8 that moves the scores too far for the export to make it the default
    basis: Basis | None  # None without metrics

    @property
    def name(self) -> str:
        return f"{self.model} at {self.precision} in {self.engine}"

    @property
    def limit_ms(self) -> float:
        return self.p99_ms


@dataclass(frozen=True)
class Answer:
    """What `judge` came to."""

    budget_ms: float
    samples: int  # inspections of each
    timed: list[Timed]  # fastest first, by p99
    choices: dict[Basis, Choice]  # among what was evaluated on the same images

    @property
    def fitting(self) -> list[Timed]:
        """What keeps the budget and may be used, fastest first."""
        return [each for each in self.timed if each.is_accepted and self.fits(each)]

    @property
    def nearest(self) -> Timed:
        """The fastest that may be used; of all where none may."""
        return next((each for each in self.timed if each.is_accepted), self.timed[0])

    def fits(self, timed: Contestant) -> bool:
        return timed.limit_ms <= self.budget_ms

    def dearer(self, best: Timed) -> list[Timed]:
        """What is more accurate than `best` and over the budget, fastest first."""
        return [each for each in self._beside(best) if not self.fits(each) and is_better(each, best)]

    def cheaper(self, best: Timed) -> Timed | None:
        """What the rule takes where `best` is still too slow."""
        faster = [each for each in self._beside(best) if each.limit_ms < best.limit_ms]
        found = choose(faster).best if faster else None
        return found if isinstance(found, Timed) else None

    def _beside(self, best: Timed) -> list[Timed]:
        return [each for each in self.timed if each is not best and each.is_accepted and each.basis == best.basis]


def judge(timed: Sequence[Timed], budget_ms: float, samples: int) -> Answer:
    """The answer for at least one graph that was measured, `samples` times each."""
    by_time = sorted(timed, key=lambda each: each.limit_ms)
    groups: dict[Basis, list[Timed]] = {}
    for each in by_time:
        if each.is_accepted and each.basis is not None and each.image_auroc is not None:
            groups.setdefault(each.basis, []).append(each)
    return Answer(budget_ms, samples, by_time, {basis: choose(group, budget_ms) for basis, group in groups.items()})


def is_better(a: Contestant, b: Contestant) -> bool:
    """Whether `a` is more accurate than `b` by more than noise: in image AUROC, or where that is equal in pixel AP."""
    if a.image_auroc is None or b.image_auroc is None:
        return False
    gain, noise = a.image_auroc - b.image_auroc, auroc_noise(a, b)
    if abs(gain) > noise:
        return gain > 0
    return a.pixel_ap is not None and b.pixel_ap is not None and a.pixel_ap - b.pixel_ap > pixel_ap_noise(a, b)
