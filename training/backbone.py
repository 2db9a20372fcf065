"""ResNet feature extractors with torchvision's key names, so that torchvision's weights load as they are.

Written here because torchvision cannot be a dependency of a CPU-only installation; the layout is He et al. 2016
(ResNet) and Zagoruyko & Komodakis 2016 (wide_resnet50_2). Only the stages that are used exist: a teacher has no
layer4 and no fc.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segrd_edge.errors import OptionError


@dataclass(frozen=True)
class ResNetSpec:
    """What tells one ResNet from another."""

    blocks: tuple[int, int, int, int]  # residual blocks in layer1 .. layer4
    bottleneck: bool
    base_width: int = 64  # bottleneck width per 64 planes

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Output channels of layer1 .. layer4."""
        expansion = 4 if self.bottleneck else 1
        return (64 * expansion, 128 * expansion, 256 * expansion, 512 * expansion)


BACKBONES: dict[str, ResNetSpec] = {
    "resnet18": ResNetSpec((2, 2, 2, 2), bottleneck=False),
    "resnet34": ResNetSpec((3, 4, 6, 3), bottleneck=False),
    "wide_resnet50_2": ResNetSpec((3, 4, 6, 3), bottleneck=True, base_width=128),
}


def backbone_spec(name: str) -> ResNetSpec:
    """The spec of a backbone by name; OptionError names the known ones."""
    if name not in BACKBONES:
        raise OptionError(f"unknown backbone {name!r}", expected="one of " + ", ".join(BACKBONES))
    return BACKBONES[name]


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded to keep the size at stride 1."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)


class BasicBlock(nn.Module):
    """conv3×3-BN-ReLU, conv3×3-BN, plus the shortcut, ReLU. Key names are torchvision's."""

    def __init__(self, inputs: int, planes: int, stride: int = 1, *, base_width: int = 64) -> None:
        super().__init__()
        del base_width  # only bottlenecks have one
        self.conv1 = conv(inputs, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + skip)


class Bottleneck(nn.Module):
    """1×1, 3×3 (strided), 1×1 with expansion 4. Key names are torchvision's."""

    def __init__(self, inputs: int, planes: int, stride: int = 1, *, base_width: int = 64) -> None:
        super().__init__()
        width = planes * base_width // 64
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, planes * 4, 1)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + skip)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNetFeatures(nn.Module):
    """Stem and the first `stages` stages of a ResNet.

    `forward(images N×3×h×w)` returns one feature map per stage: layer1 at h/4 to layer4 at h/32.
    """

    def __init__(self, name: str, stages: int = 3) -> None:
        super().__init__()
        spec = backbone_spec(name)
        block = Bottleneck if spec.bottleneck else BasicBlock
        self.channels = spec.channels[:stages]
        self.conv1 = conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage in range(stages):
            planes, stride = 64 * 2**stage, 1 if stage == 0 else 2
            layer = [block(inputs, planes, stride, base_width=spec.base_width)]
            inputs = spec.channels[stage]
            layer += [block(inputs, planes, base_width=spec.base_width) for _ in range(spec.blocks[stage] - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in range(len(self.channels)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            features.append(x)
        return features


def initialise(module: nn.Module) -> None:
    """He initialisation, fan out, for convolutions; BatchNorm at identity (torchvision's and DeSTSeg's choice)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def freeze(module: nn.Module) -> nn.Module:
    """No gradients and eval mode, for good: `train()` on a parent no longer reaches its BatchNorms."""
    module.requires_grad_(False)
    module.eval()
    module.train = lambda mode=True: module  # type: ignore[method-assign]
    return module


def l2_normalise(x: Tensor) -> Tensor:
    """Unit length over channels, of at least 1e-6. The floor stands under the root, where it keeps the gradient of an
    all-zero pixel finite."""
    return x / torch.sqrt(x.square().sum(dim=1, keepdim=True).clamp_min(1e-12))
