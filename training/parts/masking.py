"""Blocks of features hidden behind a learned token: what a student must restore (masked feature reconstruction)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN_SHARE = (0.2, 0.5)  # of the blocks of an image


class FeatureMask(nn.Module):
    """Passes the levels as they are; `hide` replaces blocks of them. A block is 2×2 pixels of the coarsest level and
    the same piece of the image in the others.

    Which blocks are hidden follows from a counter that is kept with the weights, so that a resumed run hides what an
    uninterrupted one hides.
    """

    drawn: Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.tokens = nn.ParameterList(0.02 * torch.randn(1, c, 1, 1) for c in channels)
        self.register_buffer("drawn", torch.randint(2**31, ()))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return list(levels)

    def hide(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The levels N×C×h×w (fine to coarse) with 20 to 50 % of each image's blocks replaced by the level's token."""
        count, _, height, width = levels[-1].shape
        blocks = self._draw(count, (height // 2, width // 2)).to(levels[-1])
        hidden = []
        for level, token in zip(levels, self.tokens, strict=True):
            mask = F.interpolate(blocks, size=level.shape[2:], mode="nearest") > 0
            hidden.append(torch.where(mask, token.to(level), level))
        return hidden

    def _draw(self, count: int, grid_hw: tuple[int, int]) -> Tensor:
        """N×1×rows×columns in {0, 1}, a share of ones per image that is uniform in HIDDEN_SHARE."""
        generator = torch.Generator().manual_seed(int(self.drawn))
        self.drawn += 1
        cells = grid_hw[0] * grid_hw[1]
        low, high = HIDDEN_SHARE
        share = low + (high - low) * torch.rand(count, 1, generator=generator)
        rank = torch.rand(count, cells, generator=generator).argsort(dim=1).argsort(dim=1)
        return (rank < (share * cells).round()).reshape(count, 1, *grid_hw)
