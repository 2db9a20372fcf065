"""A short fine-tune with INT8 in the loop: the network learns to give in INT8 what it gave in float.

No labels are needed, and none are used: the float network's own outputs for good and corrupted samples are the target
(self-distillation). The teacher's weights and the statistics of every BatchNorm stay as they are. A convolution rounds
as its INT8 graph does,

    y = conv(Q(x), Q(w)) + b        Q(v) = s · clip(round(v / s), −128, 127)

x with one scale per tensor, from calibration; w with one per output channel, of what w is at this step. A gradient
passes Q as if it were not there, except where x is clipped (the straight-through estimator; Bengio et al. 2013, Jacob
et al. 2018). BatchNorm need not be folded for that: it is a factor per output channel, and so is the scale.

Only an approximation of the graph has to be simulated, because what comes out is a float network like any other: it is
exported and calibrated again, and what counts is how far *that* graph is from the first float network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from segrd_edge.mapspec import MapSpec

from .backbone import BasicBlock, Bottleneck
from .data import GOOD, Photo
from .fit import Budget, Fit, Listener, Position
from .models import AnomalyModel
from .phases import Batch, Phase, Recipe, half_corrupted
from .run import Run
from .train import create_samples

# A thousandth of what the head and the student train with, whose BatchNorms then take up what a step shifts; here they
# are fixed. 1e-5 and 1e-4 made a trained DeSTSeg worse in 25 and 43 steps (docs/int8.md); 1e-6 is not measured on one.
LEARNING_RATE = 1e-6
_TINY = 1e-12
_WEIGHT_MAX, _LOWEST, _HIGHEST = 127, -128, 127


@dataclass(frozen=True)
class Grid:
    """The INT8 steps of an activation N×C×h×w."""

    largest: float  # magnitude that is still represented
    factors: npt.NDArray[np.float32] | None = None  # C, multiplied with it before rounding; see calibration.equalise


@dataclass(frozen=True)
class Grids:
    """What runs in INT8, by module name."""

    inputs: Mapping[str, Grid]  # of these convolutions: the steps of their input
    shortcuts: Mapping[str, Grid] = field(default_factory=dict)  # of residual blocks: the steps of what skips them


def with_rounding(model: nn.Module, grids: Grids) -> nn.Module:
    """A copy of `model` that computes as in INT8, with the same parameters under the same names."""
    rounding = copy.deepcopy(model)
    for name, grid in grids.inputs.items():
        parent, _, child = name.rpartition(".")
        conv = rounding.get_submodule(name)
        setattr(rounding.get_submodule(parent), child, RoundingConv(cast(nn.Conv2d, conv), grid))
    for name, grid in grids.shortcuts.items():
        block = rounding.get_submodule(name)
        if isinstance(block, (BasicBlock, Bottleneck)):
            block.downsample = nn.Sequential(*(block.downsample or ()), Rounding(grid))
    return rounding


class Rounding(nn.Module):
    """Q of an activation; it has no parameters and no state."""

    factors: Tensor | None

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.scale = grid.largest / _HIGHEST if grid.largest > 0 else 1.0
        factors = None if grid.factors is None else torch.from_numpy(grid.factors.reshape(1, -1, 1, 1).copy())
        self.register_buffer("factors", factors, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scaled = x if self.factors is None else x * self.factors
        rounded = torch.fake_quantize_per_tensor_affine(scaled, self.scale, 0, _LOWEST, _HIGHEST)
        return rounded if self.factors is None else rounded / self.factors


class RoundingConv(nn.Conv2d):
    """Computes as the INT8 form of a convolution, whose very parameters it has."""

    def __init__(self, conv: nn.Conv2d, grid: Grid) -> None:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
        shape: dict[str, Any] = {name: getattr(conv, name) for name in names}
        super().__init__(**shape, bias=conv.bias is not None, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.rounding = Rounding(grid)
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        factors = self.rounding.factors
        weight = rounded_weight(self.weight) if factors is None else rounded_weight(self.weight / factors) * factors
        return self._conv_forward(self.rounding(x), weight, self.bias)


def rounded_weight(weight: Tensor) -> Tensor:
    """Q of a weight outputs×inputs×kh×kw, one scale per output channel."""
    low, high = weight.detach().flatten(1).aminmax(dim=1)
    largest = torch.maximum(-low, high)
    scale = torch.where(largest > _TINY, largest / _WEIGHT_MAX, 1.0)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -_WEIGHT_MAX, _WEIGHT_MAX)


class Imitation(nn.Module):
    """How far the INT8 model's outputs are from the float model's, for corrupted and clean images in turn.

    Of the anomaly map the Kullback-Leibler divergence per pixel where it holds probabilities, else the squared error
    relative to the map's variance. Where a head reads products of teacher and student, their relative squared error is
    added per level: the student hears of its own error directly.
    """

    def __init__(self, model: nn.Module, reference: nn.Module) -> None:
        super().__init__()
        self.model, self.reference = model, reference
        self.spec = cast(MapSpec, model.map_spec)

    def train(self, mode: bool = True) -> Imitation:
        """BatchNorm stays as it is."""
        super().train(False)
        return self

    def forward(self, batch: Batch) -> Tensor:
        images, _ = half_corrupted(batch)
        with torch.no_grad():
            wanted = _outputs(self.reference, images)
        given = _outputs(self.model, images)
        errors = [(g - w).square().mean() / w.square().mean() for g, w in zip(given[:-1], wanted[:-1], strict=True)]
        return torch.stack([*errors, self._map_error(given[-1], wanted[-1])]).sum()

    def _map_error(self, given: Tensor, wanted: Tensor) -> Tensor:
        if self.spec.activation == "sigmoid":
            target = torch.sigmoid(wanted)
            least = F.binary_cross_entropy_with_logits(wanted, target)
            return F.binary_cross_entropy_with_logits(given, target) - least
        return (given - wanted).square().mean() / wanted.var().clamp_min(_TINY)


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What the head reads, where there is such, and the raw output."""
    if hasattr(model, "products"):
        products = cast(Any, model).products(images)
        return [*products, cast(Any, model).head(products)]
    return [model(images)]


def imitation_phase(model: nn.Module, reference: nn.Module) -> Phase:
    """The one phase of this fine-tune. Everything but the teacher learns."""
    teacher = {id(p) for p in cast(AnomalyModel, model).teacher.parameters()}
    learning = [p for p in model.parameters() if id(p) not in teacher]
    adam = partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    recipe = Recipe(adam, [{"params": learning, "lr": LEARNING_RATE}])
    return Phase("int8", Imitation(model, reference), recipe, recipe, share_of_steps=1, share_of_time=1)


def fine_tune(
    run: Run,
    grids: Grids,
    photos: Sequence[Path],
    budget: Budget,
    *,
    checkpoint: Path,
    listener: Listener = lambda report: None,
) -> tuple[nn.Module, Position]:
    """A copy of the run's model, in float and eval mode, whose INT8 form is meant to be nearer to the run's float one.

    Args:
        grids: what runs in INT8, and its scales.
        photos: the good photographs that trained the run.
        budget: how long.
        checkpoint: file to write every minute and to continue from if it is there.
        listener: called after every step.

    Returns:
        The model, and how far the fine-tune has come.
    """
    reference = copy.deepcopy(run.model).requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = with_rounding(reference, grids)
    config = replace(run.config, textures=run.config.textures_here)
    samples = create_samples(config, [Photo(path, GOOD) for path in photos])
    fabric = Fabric(accelerator="cuda" if torch.cuda.is_available() else "cpu", devices=1, precision="32-true")
    fit = Fit(
        model,
        [imitation_phase(model, reference)],
        samples,
        run.preprocess,
        budget,
        batch=run.config.batch,
        checkpoint=checkpoint,
        fabric=fabric,
        listener=listener,
    )
    position = fit.run()
    tuned = copy.deepcopy(run.model)
    tuned.load_state_dict(model.cpu().state_dict())
    return tuned.eval(), position
