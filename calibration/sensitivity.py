"""What quantising one block alone does to the results: where in a network INT8 hurts, and where it costs nothing.

INT8 noise of a block is measured with everything else in float, so that the noise of others does not hide it. On a
trained network the blocks differ by three orders of magnitude; the order is what the search for a plan goes by, and
what people go by who edit one. For the search, blocks that cost much are measured in two terms as well
(`rules.two_terms`), in which most of them cost little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from .blocks import Block
from .budget import Budget
from .drift import Drift
from .plan import Plan
from .progress import Track, untracked
from .trial import Trial

CHEAP = 0.5  # of the budget: the blocks that cost the least, together no more than this, stay in one term
FRAMES = 12  # half good, half with synthetic defects; enough for an order, and a DeSTSeg's 29 blocks take a minute


@dataclass(frozen=True)
class Sensitivity:
    """A block and how far the results are from float when it alone runs in INT8."""

    block: Block
    drift: Drift
    two_term: Drift | None = None  # the same in two terms; None of a block that was not tried in them

    def to_dict(self) -> dict[str, Any]:
        return {
            "block": self.block.name,
            "nodes": list(self.block.nodes),
            "macs": self.block.macs,
            "drift": self.drift.to_dict(),
            "two_term_drift": None if self.two_term is None else self.two_term.to_dict(),
        }

    def __str__(self) -> str:
        two_terms = "" if self.two_term is None else f", in two terms {self.two_term}"
        return f"{self.block.name} alone in INT8: {self.drift}{two_terms}"


def measure_sensitivity(
    trial: Trial,
    everything: Plan,
    blocks: Sequence[Block],
    budget: Budget | None = None,
    *,
    track: Track = untracked,
) -> list[Sensitivity]:
    """Quantise one block at a time, on FRAMES of the trial's frames.

    Args:
        everything: the plan that `blocks` are of.
        budget: by its measure blocks cost much or little; None tries none in two terms.
        track: wraps the blocks, for a progress bar.
    """
    few = trial.on(FRAMES)
    why = dict.fromkeys(everything.quantised, "one block at a time")
    plans = {block: everything.narrowed(block.nodes, why) for block in blocks}
    drifts = {block: few(plans[block]) for block in track(blocks, "each block alone in INT8")}
    costly = [] if budget is None else _costly(drifts, budget)
    two_term = {
        block: few(plans[block].in_two_terms(dict.fromkeys(block.nodes, "one block at a time")))
        for block in track(costly, "those that cost much, in two terms")
    }
    return [Sensitivity(block, drifts[block], two_term.get(block)) for block in blocks]


def _costly(drifts: Mapping[Block, Drift], budget: Budget) -> list[Block]:
    """All blocks but the least costly ones that together take CHEAP of the budget."""
    costs = {block: budget.noise(drift) for block, drift in drifts.items()}
    order = sorted(costs, key=lambda block: costs[block] / block.macs)
    sums = accumulate(costs[block] for block in order)
    return [block for block, total in zip(order, sums, strict=True) if total > CHEAP]
