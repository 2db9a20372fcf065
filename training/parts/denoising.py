"""DeSTSeg's student: an encoder-decoder that restores the teacher's features of the clean image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import BasicBlock, ResNetFeatures, initialise


class DenoisingStudent(nn.Module):
    """ResNet-18 encoder from random initialisation and the denoising decoder: images → levels 1 to 3."""

    def __init__(self, targets: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = ResNetFeatures("resnet18", stages=4)
        self.decoder = DenoisingDecoder(targets)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.decoder(self.encoder(images)[-1])


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
