"""Attention-based fusion of a decoder's levels: ReviewKD's ABF (Chen et al., CVPR 2021) as SegRD++ uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import conv


class AttentionFusion(nn.Module):
    """One level and the next deeper one, weighted per pixel by two sigmoids of both.

    With x the level's 1×1 convolution and y the deeper map, enlarged by nearest neighbour:
    z = σ(conv1×1 [x; y]), output = BN(conv3×3 (z₀·x + z₁·y)).
    """

    def __init__(self, channels: int, deeper: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(conv(channels, deeper, 1), nn.BatchNorm2d(deeper))
        self.attention = nn.Conv2d(2 * deeper, 2, 1)
        self.out = nn.Sequential(conv(deeper, channels, 3), nn.BatchNorm2d(channels))
        for sequence in (self.reduce, self.out):
            for part in sequence:
                if isinstance(part, nn.Conv2d):
                    nn.init.kaiming_uniform_(part.weight, a=1)

    def forward(self, level: Tensor, deeper: Tensor) -> Tensor:
        x = self.reduce(level)
        y = F.interpolate(deeper, scale_factor=2.0, mode="nearest")
        weights = torch.sigmoid(self.attention(torch.cat([x, y], dim=1)))
        return self.out(x * weights[:, :1] + y * weights[:, 1:])


class LevelFusion(nn.Module):
    """SegRD++'s chain of fusions: level 3 passes, level 2 takes it in, level 1 takes in what level 2 became.

    ReviewKD passes z₀·x + z₁·y on to the next level; SegRD++'s code passes the output, as here. Its code works at
    256×256 only; here sizes come from the levels.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.level2 = AttentionFusion(middle, coarse)
        self.level1 = AttentionFusion(fine, middle)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        level1, level2, level3 = levels
        level2 = self.level2(level2, level3)
        return [self.level1(level1, level2), level2, level3]
