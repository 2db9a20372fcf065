"""The plan with the most work in INT8 that stays within a budget, from the sensitivity of every block.

Blocks are sorted by what they cost per multiply-accumulate that they bring to INT8. The candidates are all blocks, all
but the costliest, all but the two costliest, …; of these the first within the budget is wanted. Then blocks behind it
are tried one by one, largest first, where their cost still fits.

The cost of a block is a power of noise (`Budget.cost`): blocks round independently of each other, so powers add up and
amplitudes do not. That says which candidate to try next, corrected by how far the sum was off for the last one, and
finds the answer in three or four trials; bisection of 29 blocks takes five.

Why not from the other end, leaving out of all-INT8 one block after the other and measuring what that brings: on a
trained network all-INT8 is often so far from float that no single block brings anything, and each step needs a trial
per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .budget import Budget
from .drift import Drift
from .plan import Plan
from .progress import Said
from .sensitivity import Sensitivity
from .trial import Trial

FRAMES = 64  # of each candidate's trial: with 32 the answer for a bottle exceeded the budget on 64, by a sixth
ADDITIONS = 5  # blocks to try beyond the answer on the path
SLACK = 1.5  # a candidate is tried up to this predicted cost: for a bottle, measured costs were 0.5 to 1 of the sums
_EXCESS = 1.5  # cost of a candidate that fails by a limit which has none
_TINY = 1e-9  # cost of blocks that change nothing


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
    """The most of the first blocks that fit, and what else fits beside them."""
    low, high = 0, len(candidates.order)  # so many of the first fit; so many do not
    while high - low > 1 and candidates.predicted(range(low + 1)) <= SLACK:
        count = candidates.longest(low + 1, high - 1)
        low, high = (count, high) if candidates.fits(tuple(range(count))) else (low, count)
    chosen, tried = tuple(range(low)), 0
    for i in sorted(range(low, len(candidates.order)), key=lambda i: -candidates.order[i].block.macs):
        more = tuple(sorted((*chosen, i)))
        if tried < ADDITIONS and more not in candidates.drifts and candidates.predicted(more) <= SLACK:
            tried += 1
            chosen = more if candidates.fits(more) else chosen
    return chosen


class _Candidates:
    """Sets of blocks to run in INT8, as positions in `order`, and what is known of them."""

    def __init__(
        self, trial: Trial, everything: Plan, sensitivities: Sequence[Sensitivity], budget: Budget, said: Said
    ) -> None:
        self.trial, self.everything, self.budget, self.said = trial, everything, budget, said
        # The least costly per multiply-accumulate first.
        self.order = sorted(sensitivities, key=lambda found: budget.cost(found.drift) / found.block.macs)
        self.drifts: dict[tuple[int, ...], Drift] = {}  # of the candidates that were tried
        self._correction = 1.0  # cost measured over cost summed, of the last of them

    def fits(self, chosen: tuple[int, ...]) -> bool:
        """Try a candidate; the predictions learn from it."""
        drift = self.drifts[chosen] = self.trial(self.plan(chosen))
        allowed, cost = self.budget.allows(drift), self.budget.cost(drift)
        self.said(f"{len(chosen)} of {len(self.order)} blocks in INT8: {drift}{'' if allowed else ', too far'}")
        self._correction = (cost if allowed or cost > 1 else _EXCESS) / max(self._sum(chosen), _TINY)
        return allowed

    def predicted(self, chosen: Sequence[int]) -> float:
        """Cost of blocks together: the sum of theirs, corrected."""
        return self._correction * self._sum(chosen)

    def longest(self, low: int, high: int) -> int:
        """From `low` to `high`, how many of the first blocks are predicted to fit."""
        return max((count for count in range(low, high + 1) if self.predicted(range(count)) <= 1), default=low)

    def plan(self, chosen: Sequence[int]) -> Plan:
        kept = {node for i in chosen for node in self.order[i].block.nodes}
        reasons = {
            node: f"{found.block.name} alone in INT8: {found.drift}; left out to keep within {self.budget}"
            for found in self.order
            for node in found.block.nodes
        }
        return self.everything.narrowed(kept, reasons)

    def _sum(self, chosen: Sequence[int]) -> float:
        return sum(self.budget.cost(self.order[i].drift) for i in chosen)
