"""Parts that several models share: the segmentation head of DeSTSeg and SegRD++, the denoising decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import BasicBlock, conv, initialise


def conv_bn_relu(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        conv(inputs, outputs, kernel, dilation=dilation), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling as in DeSTSeg: a global branch and three dilated ones; no 1×1 branch.

    The global branch is broadcast (Expand) instead of resized from 1×1, which is the same function and a plain ONNX op.
    """

    def __init__(self, channels: int, fusion_kernel: int = 3, rates: tuple[int, ...] = (6, 12, 18)) -> None:
        super().__init__()
        self.pooled = conv_bn_relu(channels, channels, 1)
        self.dilated = nn.ModuleList(conv_bn_relu(channels, channels, 3, rate) for rate in rates)
        self.fusion = conv_bn_relu(channels * (len(rates) + 1), channels, fusion_kernel)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        return self.fusion(torch.cat([pooled, *(branch(x) for branch in self.dilated)], dim=1))


class SegmentationHead(nn.Module):
    """DeSTSeg's segmentation network: two residual blocks, ASPP, 3×3 and 1×1 convolutions; logits out.

    With `width` 256 and `fusion_kernel` 3 it is the published one: 31.3 GMACs at 64×64, four fifths of the model.
    The optimiser treats `residual_parameters` and `head_parameters` with different learning rates.
    """

    def __init__(self, inputs: int, width: int = 256, fusion_kernel: int = 3) -> None:
        super().__init__()
        self.residual = nn.Sequential(BasicBlock(inputs, width), BasicBlock(width, width))
        self.aspp = ASPP(width, fusion_kernel)
        self.out = nn.Sequential(conv_bn_relu(width, width, 3), nn.Conv2d(width, 1, 1))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.aspp(self.residual(x)))

    @property
    def residual_parameters(self) -> list[nn.Parameter]:
        return list(self.residual.parameters())

    @property
    def head_parameters(self) -> list[nn.Parameter]:
        return [*self.aspp.parameters(), *self.out.parameters()]


class DenoisingDecoder(nn.Module):
    """DeSTSeg's student decoder: bilinear ×2 and two residual blocks per stage, no connection from the encoder.

    Takes layer4 (512 channels at h/32) and returns maps at h/4, h/8, h/16 with the teacher's channels. Where the
    teacher is wider than ResNet-18 a 1×1 convolution per level widens the output (ours; the paper has ResNet-18 only).
    """

    def __init__(self, targets: tuple[int, ...]) -> None:
        super().__init__()
        self.stage4 = nn.Sequential(BasicBlock(512, 512), BasicBlock(512, 512))
        self.stage3 = nn.Sequential(BasicBlock(512, 256), BasicBlock(256, 256))
        self.stage2 = nn.Sequential(BasicBlock(256, 128), BasicBlock(128, 128))
        self.stage1 = nn.Sequential(BasicBlock(128, 64), BasicBlock(64, 64))
        own = (64, 128, 256)
        self.widen = nn.ModuleList(
            nn.Identity() if mine == wanted else nn.Conv2d(mine, wanted, 1)
            for mine, wanted in zip(own, targets, strict=True)
        )
        initialise(self)

    def forward(self, layer4: Tensor) -> list[Tensor]:
        level3 = self.stage3(_double(self.stage4(layer4)))
        level2 = self.stage2(_double(level3))
        level1 = self.stage1(_double(level2))
        return [widen(level) for widen, level in zip(self.widen, (level1, level2, level3), strict=True)]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
