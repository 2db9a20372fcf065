"""The segmentation head of DeSTSeg and SegRD++, what it reads, and the phase that trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrd_edge.errors import OptionError

from ..backbone import BasicBlock, conv, initialise, l2_normalise
from ..losses import head_target, segmentation_loss
from ..phases import Batch, Phase, Recipe

# `--profile`: options of the models with this head. At 256×256 DeSTSeg then takes 38.4, 14.0 or 9.5 GMACs, of which
# teacher and student are 7.2. What each costs in accuracy: benchmarks/results/heads.
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "accurate": {},
    "balanced": {"head_width": 128, "head_fusion_kernel": 1},
    "fast": {"head_width": 64, "head_fusion_kernel": 1},
}


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
    """DeSTSeg's segmentation network: two residual blocks, ASPP, 3×3 and 1×1 convolutions; logits N×1×h/4×w/4 out.

    It reads the `feature_products` of every level, enlarged to the finest one and concatenated. With the defaults it is
    the published one: 31.3 GMACs at 64×64, four fifths of the model. The optimiser treats `residual_parameters` and
    `head_parameters` with different learning rates.

    Args:
        channels: of the levels, fine to coarse.
        width: channels inside.
        fusion_kernel: of the ASPP fusion, 1 or 3.
        level_width: where above 0, a 1×1 convolution brings each level to so many channels while it is still small. A
            linear 1×1 convolution of the concatenation is the same function, because enlarging acts on each channel
            alone and its weights sum to 1.
        stride: 4 is published. At 8 the head works on a quarter of the pixels: 2×2 pixels of the finest level become
            one through its reduction, and the last convolution gives 2×2 logits per pixel. The dilations are halved, so
            that they reach as far in the image.

    Raises:
        OptionError: values that no head can have.
    """

    def __init__(
        self, channels: Sequence[int], width: int = 256, fusion_kernel: int = 3, level_width: int = 0, stride: int = 4
    ) -> None:
        super().__init__()
        _check_shape(width, fusion_kernel, level_width, stride)
        fold = stride // 4
        if level_width:
            kernels = [fold, *(1 for _ in channels[1:])]
            pairs = zip(channels, kernels, strict=True)
            self.reduce = nn.ModuleList(_reduction(inputs, level_width, kernel) for inputs, kernel in pairs)
        inputs = level_width * len(channels) or sum(channels)
        self.residual = nn.Sequential(BasicBlock(inputs, width), BasicBlock(width, width))
        self.aspp = ASPP(width, fusion_kernel, (6 // fold, 12 // fold, 18 // fold))
        self.out = nn.Sequential(conv_bn_relu(width, width, 3), nn.Conv2d(width, fold**2, 1))
        if fold > 1:
            self.out.append(nn.PixelShuffle(fold))
        initialise(self)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        if hasattr(self, "reduce"):
            levels = [reduce(level) for reduce, level in zip(self.reduce, levels, strict=True)]
        size = tuple(levels[0].shape[2:])
        resized = (_enlarged(level, size) for level in levels[1:])
        return cast(Tensor, self.out(self.aspp(self.residual(torch.cat([levels[0], *resized], dim=1)))))

    @property
    def residual_parameters(self) -> list[nn.Parameter]:
        """The first blocks', and what reduces the levels before them."""
        return [p for name, p in self.named_parameters() if name.startswith(("reduce.", "residual."))]

    @property
    def head_parameters(self) -> list[nn.Parameter]:
        return [*self.aspp.parameters(), *self.out.parameters()]


def _check_shape(width: int, fusion_kernel: int, level_width: int, stride: int) -> None:
    if width < 1 or level_width < 0 or fusion_kernel not in (1, 3) or stride not in (4, 8):
        raise OptionError(
            f"a head of width {width}, fusion kernel {fusion_kernel}, level width {level_width}, stride {stride}",
            expected="head_width from 1, head_fusion_kernel 1 or 3, head_level_width from 0, head_stride 4 or 8",
        )
    if stride == 8 and not level_width:
        raise OptionError(
            "head_stride=8 without head_level_width",
            expected="a reduction of the levels, which brings the finest one to that stride",
            fix="--option head_level_width=64",
        )


def _reduction(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A convolution whose kernels do not overlap, linear: BatchNorm folds into it."""
    reduction = nn.Conv2d(inputs, outputs, kernel, stride=kernel, bias=False)
    return nn.Sequential(reduction, nn.BatchNorm2d(outputs))


def _enlarged(level: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(level.shape[2:]) == size:
        return level
    return F.interpolate(level, size=size, mode="bilinear", align_corners=False)


def feature_products(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    """-T̂·Ŝ of every level, N×C×h'×w'. The sign is DeSTSeg's code's."""
    return [-l2_normalise(t) * l2_normalise(s) for t, s in zip(teacher, student, strict=True)]


class SegmentingModel(Protocol):
    """A model whose head reads `products` of teacher and student."""

    head: SegmentationHead

    @property
    def student(self) -> nn.Module: ...
    def products(self, images: Tensor) -> list[Tensor]: ...


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
