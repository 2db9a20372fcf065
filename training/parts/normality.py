"""Fusion of a decoder's levels with normal features from a bank, for NFERD: our reconstruction of its HAFM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..backbone import conv, initialise
from .head import conv_bn_relu
from .prototypes import PrototypeBank

REDUCTION = 16  # of the channel attention
NARROWEST = 8


class HybridAttention(nn.Module):
    """Channel and spatial attention in parallel, over a level s and the bank's features n for it.

    u = ReLU(BN(1×1 [s; n]))    w_c = σ(W₂ ReLU(W₁ GAP(u)))    w_s = σ(7×7 [mean_c u; max_c u])
    s' = s + BN(1×1 [w_c·u; w_s·u])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(NARROWEST, channels // REDUCTION)
        self.join = conv_bn_relu(2 * channels, channels, 1)
        self.channel = nn.Sequential(
            nn.Conv2d(channels, narrow, 1), nn.ReLU(inplace=True), nn.Conv2d(narrow, channels, 1), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3), nn.Sigmoid())
        self.out = nn.Sequential(conv(2 * channels, channels, 1), nn.BatchNorm2d(channels))
        initialise(self)

    def forward(self, student: Tensor, normal: Tensor) -> Tensor:
        u = self.join(torch.cat([student, normal], dim=1))
        by_channel = self.channel(u.mean(dim=(2, 3), keepdim=True))
        by_pixel = self.spatial(torch.cat([u.mean(dim=1, keepdim=True), u.amax(dim=1, keepdim=True)], dim=1))
        return student + self.out(torch.cat([by_channel * u, by_pixel * u], dim=1))


class NormalityFusion(nn.Module):
    """Every level of a decoder, fused with what its bank of normal features has for it.

    The query is the student's feature, not the teacher's: a defect's own feature could retrieve one that is like it.
    """

    def __init__(self, channels: Sequence[int], prototypes: int, temperature: float) -> None:
        super().__init__()
        self.bank = nn.ModuleList(PrototypeBank(c, prototypes, temperature) for c in channels)
        self.attention = nn.ModuleList(HybridAttention(c) for c in channels)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        parts = zip(self.bank, self.attention, levels, strict=True)
        return [attention(level, bank(level)) for bank, attention, level in parts]
