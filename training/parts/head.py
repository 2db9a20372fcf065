"""The segmentation head of DeSTSeg and SegRD++, what it reads, and the phase that trains it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import BasicBlock, conv, initialise, l2_normalise
from ..losses import head_target, segmentation_loss
from ..phases import Batch, Phase, Recipe


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


def feature_products(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """-T̂·Ŝ of every level, resized to the first level and concatenated: N×ΣC×h/4×w/4. The sign is DeSTSeg's code's."""
    products = [-l2_normalise(t) * l2_normalise(s) for t, s in zip(teacher, student, strict=True)]
    size = tuple(products[0].shape[2:])
    resized = (F.interpolate(p, size=size, mode="bilinear", align_corners=False) for p in products[1:])
    return torch.cat([products[0], *resized], dim=1)


class SegmentingModel(Protocol):
    """A model whose head reads `products` of teacher and student."""

    head: SegmentationHead

    @property
    def student(self) -> nn.Module: ...
    def products(self, images: Tensor) -> Tensor: ...


class HeadObjective(nn.Module):
    """Focal + L1 on the head's logits of the corrupted image; teacher and student are fixed, BatchNorm included."""

    def __init__(self, model: SegmentingModel) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> HeadObjective:
        super().train(mode)
        self.model.student.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            products = self.model.products(batch["corrupted"])
        logits = self.model.head(products)
        return segmentation_loss(logits, head_target(batch["mask"], (logits.shape[2], logits.shape[3])))


def head_phase(model: SegmentingModel, *, share_of_steps: float, share_of_time: float) -> Phase:
    """DeSTSeg's second phase, which SegRD++ shares: SGD with 0.1 for the residual blocks and 0.01 for the rest."""
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-4)
    adam = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4, fused=True)
    residual, rest = model.head.residual_parameters, model.head.head_parameters
    return Phase(
        "head",
        HeadObjective(model),
        published=Recipe(sgd, [{"params": residual, "lr": 0.1}, {"params": rest, "lr": 0.01}]),
        short=Recipe(adam, [{"params": residual + rest, "lr": 1e-3}]),
        share_of_steps=share_of_steps,
        share_of_time=share_of_time,
    )
