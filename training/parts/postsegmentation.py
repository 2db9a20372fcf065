"""ADPS's weight mask block and post-segmentation module (IEEE TNNLS 36(4), 2025; arXiv 2210.10495)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..backbone import initialise
from ..losses import cosine_distance
from .head import conv_bn_relu
from .reverse import TransposedConv

FULL_SIZE_WIDTH = 32  # channels at the image's own size


def gated_features(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    """The weight mask block: C = (1 − cos(T, S)) · T per pixel of every level; no weights."""
    return [cosine_distance(t, s) * t for t, s in zip(teacher, student, strict=True)]


class PostSegmentation(nn.Module):
    """A U-Net's decoder: the gated levels at h/4, h/8, h/16 → logits N×1×h×w.

    It begins with the coarsest level. Each stage doubles the size with a transposed 2×2 convolution, takes in the
    level of that size where there is one, and convolves twice. The published last convolution gives two channels and
    a softmax over them; as softmax(a, b) of b is sigmoid(b − a), one channel with the difference is the same function.
    `load` takes the weights of the one into the other.

    Args:
        channels: of the levels, fine to coarse.
        width: channels at h/8. They halve from stage to stage, down to 32.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        fine, middle, coarse = channels
        widths = [max(width >> stage, min(width, FULL_SIZE_WIDTH)) for stage in range(4)]
        inputs = [coarse, *widths[:-1]]
        self.up = nn.ModuleList(TransposedConv(i, o) for i, o in zip(inputs, widths, strict=True))
        self.fuse = nn.ModuleList(
            nn.Sequential(conv_bn_relu(w + skip, w, 3), conv_bn_relu(w, w, 3))
            for w, skip in zip(widths, (middle, fine, 0, 0), strict=True)
        )
        self.out = nn.Conv2d(widths[-1], 1, 3, padding=1)
        initialise(self)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        level1, level2, x = levels
        for up, fuse, skip in zip(self.up, self.fuse, (level2, level1, None, None), strict=True):
            x = up(x)
            x = fuse(x if skip is None else torch.cat([x, skip], dim=1))
        return self.out(x)

    @torch.no_grad()
    def load(self, last: nn.Conv2d) -> None:
        """Take the weights of a last convolution to two channels: good, anomalous."""
        assert last.bias is not None
        assert self.out.bias is not None
        self.out.weight.copy_(last.weight[1:] - last.weight[:1])
        self.out.bias.copy_(last.bias[1:] - last.bias[:1])
