"""What a model tells the fit loop: phases, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn


class Batch(TypedDict):
    """One training batch on the device; images are normalised, float, channels-last.

    The corrupted image is the clean one with a synthetic defect; `mask` is 1 where it is.
    """

    clean: Tensor  # N×3×h×w
    corrupted: Tensor  # N×3×h×w
    mask: Tensor  # N×1×h×w in {0, 1}


@dataclass
class Phase:
    """One stage of training with its own parameters, loss and optimiser."""

    name: str
    objective: (
        nn.Module
    )  # forward(batch: Batch) -> scalar loss; its `train()` sets the BatchNorm modes of the phase
    parameters: list[dict[str, object]]  # optimiser groups
    optimiser: Callable[[list[dict[str, object]]], torch.optim.Optimizer]
    share_of_steps: float  # of a --steps budget, as published
    share_of_time: float  # of a --minutes budget: phases cost different times per step
