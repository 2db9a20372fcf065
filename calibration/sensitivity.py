"""What quantising one block alone does to the results: where in a network INT8 hurts, and where it costs nothing.

INT8 noise of a block is measured with everything else in float, so that the noise of others does not hide it. On a
trained network the blocks differ by three orders of magnitude; the order is what the search for a plan goes by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .blocks import Block
from .drift import Drift
from .plan import Plan
from .progress import Track, untracked
from .trial import Trial

FRAMES = 12  # half good, half with synthetic defects; enough for an order, and a DeSTSeg's 29 blocks take a minute


@dataclass(frozen=True)
class Sensitivity:
    """A block and how far the results are from float when it alone runs in INT8."""

    block: Block
    drift: Drift

    def to_dict(self) -> dict[str, Any]:
        return {
            "block": self.block.name,
            "nodes": list(self.block.nodes),
            "macs": self.block.macs,
            "drift": self.drift.to_dict(),
        }


def measure_sensitivity(
    trial: Trial,
    everything: Plan,
    blocks: Sequence[Block],
    *,
    track: Track = untracked,
) -> list[Sensitivity]:
    """Quantise one block at a time, on FRAMES of the trial's frames.

    Args:
        everything: the plan that `blocks` are of.
        track: wraps the blocks, for a progress bar.
    """
    few = trial.on(FRAMES)
    others = dict.fromkeys(everything.quantised, "one block at a time")
    tracked = track(blocks, "each block alone in INT8")
    return [Sensitivity(block, few(everything.narrowed(block.nodes, others))) for block in tracked]
