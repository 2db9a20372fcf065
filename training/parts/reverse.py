"""RD4AD's student: the teacher's levels → one-class embedding → reverse decoder → the teacher's levels again.

Read in hq-deng/RD4AD (resnet.py, de_resnet.py; Deng & Li, CVPR 2022). What it calls attention blocks are ordinary
residual blocks, and its fourth convolution is never used; neither is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..backbone import BasicBlock, Bottleneck, ResNetSpec, backbone_spec, conv, initialise
from ..phases import Phase, Recipe

_EMBEDDING_BLOCKS = {"resnet18": 2, "resnet34": 3, "wide_resnet50_2": 3}
_DECODER_BLOCKS = {"resnet18": (2, 2, 2), "resnet34": (3, 4, 6), "wide_resnet50_2": (3, 4, 6)}


class OneClassEmbedding(nn.Module):
    """Levels 1 to 3 of the teacher → 512e×h/32×w/32 (e = 1 for basic blocks, 4 for bottlenecks).

    All levels are brought to the coarsest by strided convolutions and concatenated, and residual blocks condense them.
    """

    def __init__(self, backbone: str) -> None:
        super().__init__()
        spec = backbone_spec(backbone)
        fine, middle, coarse, embedding = spec.channels
        self.level1 = nn.Sequential(*_halving(fine, middle), *_halving(middle, coarse))
        self.level2 = nn.Sequential(*_halving(middle, coarse))
        block = Bottleneck if spec.bottleneck else BasicBlock
        first = block(3 * coarse, 512, 2, base_width=spec.base_width)
        rest = [block(embedding, 512, base_width=spec.base_width) for _ in range(_EMBEDDING_BLOCKS[backbone] - 1)]
        self.condense = nn.Sequential(first, *rest)
        initialise(self)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        level1, level2, level3 = levels
        return self.condense(torch.cat([self.level1(level1), self.level2(level2), level3], dim=1))


class ReverseDecoder(nn.Module):
    """A ResNet backwards: the embedding 512e×h/32×w/32 → levels 1 to 3 with the teacher's shapes, fine to coarse."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        spec, counts = backbone_spec(backbone), _DECODER_BLOCKS[backbone]
        fine, middle, coarse, embedding = spec.channels
        self.stage3 = _stage(spec, embedding, coarse, counts[0])
        self.stage2 = _stage(spec, coarse, middle, counts[1])
        self.stage1 = _stage(spec, middle, fine, counts[2])
        initialise(self)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        level3 = self.stage3(embedding)
        level2 = self.stage2(level3)
        return [self.stage1(level2), level2, level3]


class TransposedConv(nn.Module):
    """A transposed convolution with kernel 2 and stride 2, as a 1×1 convolution and DepthToSpace.

    Its kernels do not overlap, so output pixel (2y + a, 2x + b) of channel c is a 1×1 convolution of input pixel (y, x)
    with the weights W[:, c, a, b]. Row 4c + 2a + b of this convolution holds them. The same function, without the
    trouble that INT8 deconvolutions make.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv(inputs, 4 * outputs, 1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.conv(x))

    @torch.no_grad()
    def load(self, weight: Tensor) -> None:
        """Take the weight of an nn.ConvTranspose2d(inputs, outputs, 2, 2): inputs×outputs×2×2."""
        self.conv.weight.copy_(weight.flatten(1).t()[:, :, None, None])


class ReverseBasicBlock(nn.Module):
    """A basic block that doubles the size: transposed 2×2 and 3×3 convolution, transposed shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = TransposedConv(inputs, outputs)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.upsample = nn.Sequential(TransposedConv(inputs, outputs), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.upsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + skip)


class ReverseBottleneck(nn.Module):
    """A bottleneck that doubles the size: 1×1, transposed 2×2, 1×1, transposed shortcut."""

    def __init__(self, inputs: int, outputs: int, base_width: int) -> None:
        super().__init__()
        width = outputs // 4 * base_width // 64
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = TransposedConv(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.upsample = nn.Sequential(TransposedConv(inputs, outputs), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.upsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + skip)


def reverse_phase(
    objective: nn.Module, parameters: list[nn.Parameter], *, share_of_steps: float = 1.0, share_of_time: float = 1.0
) -> Phase:
    """RD's training, Adam with 5e-3; the recipe for a budget of minutes is ours."""
    adam = partial(torch.optim.Adam, lr=5e-3, betas=(0.5, 0.999), fused=True)
    short = partial(torch.optim.AdamW, lr=2e-3, weight_decay=1e-4, fused=True)
    return Phase(
        "student",
        objective,
        published=Recipe(adam, [{"params": parameters, "lr": 5e-3}]),
        short=Recipe(short, [{"params": parameters, "lr": 2e-3}]),
        share_of_steps=share_of_steps,
        share_of_time=share_of_time,
    )


def _halving(inputs: int, outputs: int) -> list[nn.Module]:
    return [conv(inputs, outputs, 3, 2), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _stage(spec: ResNetSpec, inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    if spec.bottleneck:
        rest: list[nn.Module] = [
            Bottleneck(outputs, outputs // 4, base_width=spec.base_width) for _ in range(blocks - 1)
        ]
        return nn.Sequential(ReverseBottleneck(inputs, outputs, spec.base_width), *rest)
    return nn.Sequential(ReverseBasicBlock(inputs, outputs), *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))
