"""Losses with the conventions that published numbers depend on, spelled out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .backbone import l2_normalise


def cosine_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """D(k) = 1 - <t̂(k), ŝ(k)> per pixel: N×C×h×w twice → N×1×h×w in [0, 2]."""
    return 1 - (l2_normalise(teacher) * l2_normalise(student)).sum(dim=1, keepdim=True)


def distillation_loss(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Per-pixel cosine distance: mean over pixels, sum over levels, mean over the batch.

    DeSTSeg's code sums over its batch of 32 instead; its caller multiplies by 32, which keeps the published learning
    rate and weight decay right at any batch size.
    """
    losses = [cosine_distance(t, s).mean() for t, s in zip(teacher, student, strict=True)]
    return torch.stack(losses).sum()


def flattened_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """1 - cos of two maps N×C×h×w, each image's taken as one vector; mean over the batch.

    RD4AD's paper states the distance per pixel, its code computes this one, and reaches the published results with it.
    """
    return 1 - F.cosine_similarity(teacher.flatten(1), student.flatten(1)).mean()


def flattened_distillation_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """RD4AD's and RD++'s distillation: flattened cosine distance, sum over levels."""
    return torch.stack([flattened_distance(t, s) for t, s in zip(teacher, student, strict=True)]).sum()


def hierarchical_context_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """SegRD++'s distillation: per level the flattened cosine distance at full size and pooled by 2, 4 and 8, weighted
    1, 1/2, 1/4, 1/8 over their sum; sum over levels.

    ReviewKD's hierarchical context loss has the mean square error in place of the cosine, and pools to 4, 2 and 1.
    Cells that stick out of a map whose side 8 does not divide average what they cover.
    """
    weights = {1: 1.0, 2: 0.5, 4: 0.25, 8: 0.125}
    losses = [
        weight * flattened_distance(_pooled(t, factor), _pooled(s, factor))
        for t, s in zip(teacher, student, strict=True)
        for factor, weight in weights.items()
    ]
    return torch.stack(losses).sum() / sum(weights.values())


def _pooled(x: Tensor, factor: int) -> Tensor:
    return x if factor == 1 else F.avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 4.0) -> Tensor:
    """Mean of (1 - p_t)^gamma × cross entropy, no class weight; from logits, so that it is safe under autocast."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_true = torch.exp(-cross_entropy)
    return ((1 - p_true) ** gamma * cross_entropy).mean()


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """DeSTSeg's head loss: focal (gamma 4) + L1 between probability and mask, 1:1."""
    return focal_loss(logits, target) + (torch.sigmoid(logits) - target).abs().mean()


def head_target(mask: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Training label at the head's resolution: bilinear without antialias, then >= 0.5 (N×1×h×w in {0, 1}).

    At a factor of 4 this is the mean of the central 2×2 of each 4×4 cell; one-pixel lines can vanish, as in the
    published training. Evaluation uses another rule (`training.metrics.downsample_mask`).
    """
    return (F.interpolate(mask, size=size_hw, mode="bilinear", align_corners=False) >= 0.5).to(mask.dtype)
