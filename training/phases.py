"""What a model tells the fit loop: phases, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, nn


class Batch(TypedDict):
    """One training batch on the device; images are normalised, float, channels-last.

    The corrupted image is the clean one with a synthetic defect; `mask` is 1 where it is.
    """

    clean: Tensor  # N×3×h×w
    corrupted: Tensor  # N×3×h×w
    mask: Tensor  # N×1×h×w in {0, 1}


def half_corrupted(batch: Batch) -> tuple[Tensor, Tensor]:
    """Images N×3×h×w and their masks N×1×h×w: corrupted and clean in turn, for models that see a defect every other
    time (DRAEM's probability of 0.5, without its chance).
    """
    images, mask = batch["clean"].clone(), torch.zeros_like(batch["mask"])
    images[::2], mask[::2] = batch["corrupted"][::2], batch["mask"][::2]
    return images, mask


@dataclass(frozen=True)
class Recipe:
    """An optimiser and its parameter groups, each with its learning rate.

    `drops` are (progress, factor): from that share of the phase on, all rates are multiplied by the factor.
    """

    optimiser: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    groups: list[dict[str, Any]]
    drops: tuple[tuple[float, float], ...] = ()

    def rate_factor(self, progress: float) -> float:
        """Factor on the learning rates at `progress` in [0, 1] of the phase."""
        return math.prod(factor for start, factor in self.drops if progress >= start)


@dataclass
class Phase:
    """One stage of training with its own parameters, loss and optimiser.

    `published` is the paper's recipe, for a budget of steps. `short` is for a budget of minutes, in which a phase
    gets a hundred steps instead of thousands and the published rates, tuned for the long run, come nowhere near.
    """

    name: str
    objective: nn.Module  # forward(batch: Batch) -> scalar loss; its `train()` sets the BatchNorm modes of the phase
    published: Recipe
    short: Recipe
    share_of_steps: float  # of a --steps budget, as published
    share_of_time: float  # of a --minutes budget: phases cost different times per step
