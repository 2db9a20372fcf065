"""RD++'s projection layers (Tien et al., CVPR 2023), between the teacher and the one-class embedding.

They learn to bring a corrupted image's features to where the clean one's are. Read in
tientrandinh/Revisiting-Reverse-Distillation (utils/utils_train.py), which SegRD++'s code takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrd_edge.errors import OptionError

from ..backbone import initialise
from ..losses import cosine_distance
from ..phases import Batch, Phase, Recipe
from .transport import sinkhorn_divergence

Norm = Literal["batch", "instance"]
Levels = Sequence[Tensor]

PROJECTION_WEIGHT = 0.2  # of the projection loss beside the distillation loss
CONTRAST_MARGIN = 0.5


class InstanceNorm(nn.Module):
    """nn.InstanceNorm2d without weights, in plain ops: exporters make a BatchNormalization in training mode of that."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # squares of float16 overflow
        centred = x - x.mean(dim=(2, 3), keepdim=True)
        variance = (centred * centred).mean(dim=(2, 3), keepdim=True)
        return centred / torch.sqrt(variance + 1e-5)


class ProjectionLayers(nn.Module):
    """One bottleneck per level, C → C/2 → C/4 → C/2 → C: four times 3×3 convolution, normalisation, LeakyReLU.

    Args:
        channels: of the levels.
        norm: "instance" is published. "batch" (ours) folds into the convolutions at export, and a large defect cannot
            move the statistics of the whole image.
    """

    def __init__(self, channels: Sequence[int], norm: Norm = "batch") -> None:
        super().__init__()
        if norm not in get_args(Norm):
            raise OptionError(f"projection_norm={norm!r}", expected="one of " + ", ".join(get_args(Norm)))
        self.levels = nn.ModuleList(_bottleneck(c, norm) for c in channels)
        initialise(self)

    def forward(self, levels: Levels) -> list[Tensor]:
        return [project(level) for project, level in zip(self.levels, levels, strict=True)]


def _bottleneck(channels: int, norm: Norm) -> nn.Sequential:
    widths = (channels, channels // 2, channels // 4, channels // 2, channels)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        normalise = nn.BatchNorm2d(outputs) if norm == "batch" else InstanceNorm()
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), normalise, nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)


def projection_loss(corrupted: Levels, projected_corrupted: Levels, projected: Levels, transport: bool) -> Tensor:
    """(L_transport + 0.01 L_reconstruct + 0.1 L_contrast) / 1.11, each summed over levels.

    L_reconstruct: cosine distance per pixel between the projections of the corrupted and of the clean image.
    L_contrast: max(0, cos − 0.5) between the corrupted image's features and the clean image's projection, flattened.
    L_transport: see `transport_loss`. It is zero, so it is computed only if `transport` asks for it.
    """
    levels = list(zip(corrupted, projected_corrupted, projected, strict=True))
    reconstruct = torch.stack([cosine_distance(bad, good).mean() for _, bad, good in levels]).sum()
    cosines = torch.stack([F.cosine_similarity(raw.flatten(1), good.flatten(1)) for raw, _, good in levels])
    contrast = F.relu(cosines - CONTRAST_MARGIN).mean(dim=1).sum()
    loss = 0.01 * reconstruct + 0.1 * contrast
    return (loss + transport_loss(projected) if transport else loss) / 1.11


def transport_loss(projected: Levels) -> Tensor:
    """RD++'s self-supervised transport as its code has it: between a batch's softmax features and a shuffle of them.

    The images of a batch are the points of both clouds, in another order. A cloud's order means nothing to transport,
    so the divergence and its gradient are zero. Whatever the paper intends, the published weights were trained
    without this term.
    """
    order = torch.randperm(len(projected[0]), device=projected[0].device)
    clouds = [torch.softmax(level.flatten(1), dim=1) for level in projected]
    return torch.stack([sinkhorn_divergence(cloud, cloud[order]) for cloud in clouds]).sum()


class ProjectionObjective(nn.Module):
    """RD++'s loss: L_distil(teacher(clean), student(clean)) + 0.2 · projection loss of clean and corrupted image.

    Args:
        teacher: frozen.
        student: `encoder.projection`, `encoder.embedding`, `decoder`, and what comes after it.
        distil: loss between the teacher's and the student's levels.
        transport: compute the transport term too.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Sequential, distil: Callable[[Levels, Levels], Tensor], transport: bool
    ) -> None:
        super().__init__()
        self.teacher, self.distil, self.transport = teacher, distil, transport
        self.projection = student.get_submodule("encoder.projection")
        self.restore = nn.Sequential(student.get_submodule("encoder.embedding"), *list(student.children())[1:])

    def forward(self, batch: Batch) -> Tensor:
        count = len(batch["clean"])
        with torch.no_grad():
            features = self.teacher(torch.cat([batch["clean"], batch["corrupted"]]))
        # One pass for both, so that BatchNorm sees in training what its running statistics are of.
        projections = self.projection(features)
        clean, corrupted = [f[:count] for f in features], [f[count:] for f in features]
        projected, projected_corrupted = [p[:count] for p in projections], [p[count:] for p in projections]
        loss = projection_loss(corrupted, projected_corrupted, projected, self.transport)
        return self.distil(clean, self.restore(projected)) + PROJECTION_WEIGHT * loss


def projected_phase(objective: ProjectionObjective, *, share_of_steps: float, share_of_time: float) -> Phase:
    """RD++'s training, which SegRD++ shares: Adam with 1e-3 for the projections and 5e-3 for the rest."""
    adam = partial(torch.optim.Adam, betas=(0.5, 0.999), fused=True)
    short = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4, fused=True)
    projection, rest = list(objective.projection.parameters()), list(objective.restore.parameters())
    return Phase(
        "student",
        objective,
        published=Recipe(adam, [{"params": projection, "lr": 1e-3}, {"params": rest, "lr": 5e-3}]),
        short=Recipe(short, [{"params": projection, "lr": 1e-3}, {"params": rest, "lr": 2e-3}]),
        share_of_steps=share_of_steps,
        share_of_time=share_of_time,
    )
