"""The plan with the most work in INT8 that stays within a budget, from the sensitivity of every block.

Every block goes to INT8 in one step, or in two: to two terms (`rules.two_terms`), which saves two thirds of the time at
a fraction of the cost, and on to one. Steps are sorted by what they cost per time that they save. The candidates are
all steps, all but the costliest, all but the two costliest, …; of these the first within the budget is wanted. Then
steps behind it are tried one by one, those that save the most first, where their cost still fits.

The cost of a block is a power of noise (`Budget.cost`): blocks round independently of each other, so powers add up and
amplitudes do not. That says which candidate to try next, corrected by how far the sum was off for the last one, and
finds the answer in three or four trials; bisection of 29 steps takes five.

Why not from the other end, leaving out of all-INT8 one block after the other and measuring what that brings: on a
trained network all-INT8 is often so far from float that no single block brings anything, and each step needs a trial
per block.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from .blocks import Block
from .budget import INT8_SPEED, Budget
from .drift import Drift
from .plan import Plan
from .progress import Said
from .sensitivity import Sensitivity
from .trial import Trial

FRAMES = 64  # of each candidate's trial: with 32 the answer for a bottle exceeded the budget on 64, by a sixth
ADDITIONS = 5  # steps to try beyond the answer on the path
SLACK = 1.5  # a candidate is tried up to this predicted cost: for a bottle, measured costs were 0.5 to 1 of the sums
_EXCESS = 1.5  # cost of a candidate that fails by a limit which has none
_TINY = 1e-9  # cost of steps that change nothing
_TWO_TERMS, _ONE_TERM = 1 - 2 / INT8_SPEED, 1 - 1 / INT8_SPEED  # of a float convolution's time, what is saved


@dataclass(frozen=True)
class Found:
    """A plan within the budget."""

    plan: Plan
    drift: Drift  # on all frames of the trial


def search(
    trial: Trial,
    everything: Plan,
    sensitivities: Sequence[Sensitivity],
    budget: Budget,
    *,
    said: Said = lambda line: None,
) -> Found | None:
    """The best plan that was found within `budget`; None where not even the least costly block is.

    Args:
        sensitivities: of the blocks of `everything`, which is known to exceed the budget.
        said: called with a line about every candidate.
    """
    some = trial.on(FRAMES)
    candidates = _Candidates(some, everything, sensitivities, budget, said)
    chosen = _longest_and_more(candidates)
    if len(some.reference) < len(trial.reference):
        candidates.trial = trial
        while chosen and not candidates.fits(chosen):
            chosen = chosen[:-1]
            while chosen and candidates.predicted(chosen) > SLACK:
                chosen = chosen[:-1]
    return Found(candidates.plan(chosen), candidates.drifts[chosen]) if chosen else None


def _longest_and_more(candidates: _Candidates) -> tuple[int, ...]:
    """The most of the first steps that fit, and what else fits beside them."""
    low, high = 0, len(candidates.order)  # so many of the first fit; so many do not
    while high - low > 1 and candidates.predicted(range(low + 1)) <= SLACK:
        count = candidates.longest(low + 1, high - 1)
        low, high = (count, high) if candidates.fits(tuple(range(count))) else (low, count)
    chosen, tried = tuple(range(low)), 0
    for i in sorted(range(low, len(candidates.order)), key=lambda i: -candidates.order[i].saved):
        more = tuple(sorted((*chosen, i)))
        if tried < ADDITIONS and candidates.is_new(more) and candidates.predicted(more) <= SLACK:
            tried += 1
            chosen = more if candidates.fits(more) else chosen
    return chosen


@dataclass(frozen=True)
class _Step:
    """Of one block, from float or from two terms."""

    found: Sensitivity
    to_two_terms: bool
    from_two_terms: bool
    cost: float
    saved: float  # time, in units of a multiply-accumulate's in float


def _steps(found: Sensitivity, budget: Budget) -> Iterator[_Step]:
    """A block's way from float to INT8; by way of two terms, where that costs less for what it saves."""
    macs, whole = found.block.macs, budget.noise(found.drift)
    first = whole if found.two_term is None else min(whole, budget.noise(found.two_term))
    if first / _TWO_TERMS < whole / _ONE_TERM:
        yield _Step(found, True, False, first, _TWO_TERMS * macs)
        yield _Step(found, False, True, whole - first, (_ONE_TERM - _TWO_TERMS) * macs)
    else:
        yield _Step(found, False, False, whole, _ONE_TERM * macs)


class _Candidates:
    """Sets of steps to take, as positions in `order`, and what is known of them."""

    def __init__(
        self, trial: Trial, everything: Plan, sensitivities: Sequence[Sensitivity], budget: Budget, said: Said
    ) -> None:
        self.trial, self.everything, self.budget, self.said = trial, everything, budget, said
        self.found = sensitivities
        steps = [step for found in sensitivities for step in _steps(found, budget)]
        self.order = sorted(steps, key=lambda step: step.cost / step.saved)  # a block's two in their order
        self.drifts: dict[tuple[int, ...], Drift] = {}  # of the candidates that were tried
        self._correction = 1.0  # cost measured over cost summed, of the last of them

    def fits(self, chosen: tuple[int, ...]) -> bool:
        """Try a candidate; the predictions learn from it."""
        drift = self.drifts[chosen] = self.trial(self.plan(chosen))
        allowed, cost = self.budget.allows(drift), self.budget.cost(drift)
        levels = self._levels(chosen)
        two_terms = f", {sum(levels.values())} of them in two terms" if any(levels.values()) else ""
        verdict = "" if allowed else ", too far"
        self.said(f"{len(levels)} of {len(self.found)} blocks in INT8{two_terms}: {drift}{verdict}")
        self._correction = (cost if allowed or cost > 1 else _EXCESS) / max(self._sum(chosen), _TINY)
        return allowed

    def is_new(self, chosen: tuple[int, ...]) -> bool:
        """Whether these steps can be taken, each block's second after its first, and were not tried."""
        begun = {self.order[i].found.block for i in chosen if self.order[i].to_two_terms}
        possible = all(self.order[i].found.block in begun for i in chosen if self.order[i].from_two_terms)
        return possible and chosen not in self.drifts

    def predicted(self, chosen: Sequence[int]) -> float:
        """Cost of steps together: the sum of theirs, corrected."""
        return self._correction * self._sum(chosen)

    def longest(self, low: int, high: int) -> int:
        """From `low` to `high`, how many of the first steps are predicted to fit."""
        return max((count for count in range(low, high + 1) if self.predicted(range(count)) <= 1), default=low)

    def plan(self, chosen: Sequence[int]) -> Plan:
        levels = self._levels(chosen)
        kept = {node for block in levels for node in block.nodes}
        in_two_terms = {block for block, two_terms in levels.items() if two_terms}
        plan = self.everything.narrowed(kept, self._reasons("left out", {found.block for found in self.found}))
        return plan.in_two_terms(self._reasons("in two terms", in_two_terms))

    def _reasons(self, what: str, blocks: Container[Block]) -> dict[str, str]:
        return {
            node: f"{found}; {what} to keep within {self.budget}"
            for found in self.found
            if found.block in blocks
            for node in found.block.nodes
        }

    def _levels(self, chosen: Sequence[int]) -> dict[Block, bool]:
        """The blocks in INT8, and whether in two terms; the later of a block's two steps decides."""
        return {self.order[i].found.block: self.order[i].to_two_terms for i in sorted(chosen)}

    def _sum(self, chosen: Sequence[int]) -> float:
        return sum(self.order[i].cost for i in chosen)
