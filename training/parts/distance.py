"""The anomaly map of models without a head: how far teacher and student are from each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segrd_edge.mapspec import MapSpec

from ..losses import cosine_distance

# RD4AD: Gaussian of 4 pixels, maximum. The mean of the levels' distances lies in [0, 1] where features are behind a
# ReLU, in [0, 2] otherwise; what is beyond 1 is as anomalous as can be, and is clipped.
DISTANCE_MAP = MapSpec("clip", sigma_px=4.0, top_pixels=1)


def distance_map(
    teacher: Sequence[Tensor], student: Sequence[Tensor], combine: Literal["mean", "product"] = "mean"
) -> Tensor:
    """Mean over levels of the cosine distance per pixel, at the first level's size: N×1×h/4×w/4 in [0, 2].

    RD4AD sums the levels. Its map is this one times their number, and every metric and every rank of scores is the
    same. It enlarges each level to the image at once, with `align_corners`; here the levels meet at h/4 first, with
    half-pixel centres as everywhere in this project, so that one small map leaves the network. Behind the Gaussian the
    two are hard to tell apart.

    "product" is the geometric mean: STFPM's product of the levels, drawn back to the scale of one level. The root
    changes no rank of pixels.
    """
    maps = [cosine_distance(t, s) for t, s in zip(teacher, student, strict=True)]
    size = tuple(maps[0].shape[2:])
    resized = (F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps[1:])
    if combine == "mean":
        return torch.cat([maps[0], *resized], dim=1).mean(dim=1, keepdim=True)
    return reduce(torch.mul, resized, maps[0]).clamp_min(0) ** (1 / len(maps))
