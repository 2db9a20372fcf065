"""ADPS's weight mask block and post-segmentation module (IEEE TNNLS 36(4), 2025; arXiv 2210.10495)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..backbone import initialise
from ..losses import cosine_distance
from .head import conv_bn_relu
from .reverse import TransposedConv

NARROWEST = 32  # channels, unless all are narrower


def gated_features(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    """The weight mask block: C = (1 − cos(T, S)) · T per pixel of every level; no weights."""
    return [cosine_distance(t, s) * t for t, s in zip(teacher, student, strict=True)]


class PostSegmentation(nn.Module):
    """A U-Net's decoder: the gated levels at h/4, h/8, h/16 → features N×C×h/2×w/2, for `FullSize`.

    It begins with the coarsest level. Each stage doubles the size with a transposed 2×2 convolution, takes in the
    level of that size where there is one, and convolves twice.

    Args:
        channels: of the levels, fine to coarse.
        width: channels at h/8. They halve from stage to stage, down to 32.
        stages: 3, or 2 to end at h/4.
    """

    def __init__(self, channels: Sequence[int], width: int, stages: int = 3) -> None:
        super().__init__()
        fine, middle, coarse = channels
        widths = [max(width >> stage, min(width, NARROWEST)) for stage in range(stages)]
        self.channels = widths[-1]
        skips = (middle, fine, 0)[:stages]
        self.up = nn.ModuleList(TransposedConv(i, o) for i, o in zip([coarse, *widths], widths, strict=False))
        self.fuse = nn.ModuleList(_two_convs(w + skip, w) for w, skip in zip(widths, skips, strict=True))
        initialise(self)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        level1, level2, x = levels
        for up, fuse, skip in zip(self.up, self.fuse, (level2, level1, None), strict=False):
            x = up(x)
            x = fuse(x if skip is None else torch.cat([x, skip], dim=1))
        return x


class FullSize(nn.Module):
    """The decoder's last stage: features N×C×h/2×w/2 → logits N×1×h×w.

    The published last convolution gives two channels and a softmax over them. As softmax(a, b) of b is sigmoid(b − a),
    one channel with the difference is the same function; `load` takes the weights of the one into the other.

    It is a part of its own because INT8 can tell on it. Of two ADPS trained for 1.5 minutes (bottle, 128×128, 16
    calibration frames, OpenVINO) the one of 133 steps, initialised otherwise, moved its scores by 0.060 on average
    with everything in INT8, and by 0.002 without this stage and the teacher's fine level ("no-fine"); the one of 292
    steps by 0.005 with everything.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = TransposedConv(channels, channels)
        self.fuse = _two_convs(channels, channels)
        initialise(self)
        # PyTorch's own initialisation: He's by fan out, with one output, begins with logits that scatter by ±6.
        self.out = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fuse(self.up(x)))

    @torch.no_grad()
    def load(self, last: nn.Conv2d) -> None:
        """Take the weights of a last convolution to two channels: good, anomalous."""
        assert last.bias is not None
        assert self.out.bias is not None
        self.out.weight.copy_(last.weight[1:] - last.weight[:1])
        self.out.bias.copy_(last.bias[1:] - last.bias[:1])


def _two_convs(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(inputs, outputs, 3), conv_bn_relu(outputs, outputs, 3))
