"""DeSTSeg: a denoising student-teacher with a trained segmentation head (Zhang et al., CVPR 2023).

The teacher (frozen, stages 1-3) sees the image. The student, an encoder-decoder without skip connections, learns to
give the teacher's features of the *clean* image when shown the corrupted one. The head learns, from the product of
both unit-length features, where they disagree. Differences from the published code, all in the direction of doing
nothing twice: the teacher runs once, the head is not run while the student trains, the student keeps no gradients
while the head trains. On a wide teacher, which the paper does not use, the student stays a ResNet-18, and 1×1
convolutions widen what it gives: that is ours.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from segrd_edge.mapspec import MapSpec

from ..backbone import ResNetFeatures, backbone_spec, freeze
from ..losses import distillation_loss
from ..parts.denoising import DenoisingStudent
from ..parts.head import PROFILES, SegmentationHead, feature_products, head_phase
from ..phases import Batch, Phase, Recipe

PUBLISHED_BATCH = 32


class DeSTSeg(nn.Module):
    """`forward(images N×3×h×w)` → raw anomaly logits N×1×h/4×w/4.

    Args:
        backbone: teacher architecture (`training.backbone.BACKBONES`). The student encoder is always a ResNet-18.
        size_hw: network size; it only sets how many pixels the score averages.
        head_width: channels of the segmentation head; 256 is the published one.
        head_fusion_kernel: kernel of the ASPP fusion; 3 is the published one.
        head_level_width, head_stride: see `training.parts.head`; 0 and 4 are published.
    """

    defects: ClassVar[tuple[str, ...]] = ("perlin",)
    batch: ClassVar[int] = PUBLISHED_BATCH
    profiles = PROFILES
    profile_for_minutes = "balanced"  # a head of the published width stays behind

    def __init__(
        self,
        backbone: str = "resnet18",
        size_hw: tuple[int, int] = (256, 256),
        head_width: int = 256,
        head_fusion_kernel: int = 3,
        head_level_width: int = 0,
        head_stride: int = 4,
    ) -> None:
        super().__init__()
        channels = backbone_spec(backbone).channels[:3]
        self.teacher = freeze(ResNetFeatures(backbone, stages=3))
        self.student = DenoisingStudent(channels)
        self.head = SegmentationHead(channels, head_width, head_fusion_kernel, head_level_width, head_stride)
        self.map_spec = MapSpec("sigmoid", 0.0, MapSpec.top_pixels_for(size_hw))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.products(images))

    def products(self, images: Tensor) -> list[Tensor]:
        """What the head reads: a level per stage, N×C×h/4×w/4 to N×C×h/16×w/16."""
        return feature_products(self.teacher(images), self.student(images))

    def phases(self) -> list[Phase]:
        sgd = partial(torch.optim.SGD, lr=0.4, momentum=0.9, weight_decay=1e-4)
        # fused: the update of 25 million weights takes 0.1 s instead of 0.26 on one CPU core, of a step of one second
        adam = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4, fused=True)
        student = list(self.student.parameters())
        return [
            Phase(
                "student",
                StudentObjective(self),
                published=Recipe(sgd, [{"params": student, "lr": 0.4}]),
                short=Recipe(adam, [{"params": student, "lr": 1e-3}]),
                share_of_steps=0.2,
                share_of_time=0.5,
            ),
            head_phase(self, share_of_steps=0.8, share_of_time=0.5),
        ]


class StudentObjective(nn.Module):
    """Cosine distance between T(clean) and S(corrupted)."""

    def __init__(self, model: DeSTSeg) -> None:
        super().__init__()
        self.teacher, self.student = model.teacher, model.student

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            teacher = self.teacher(batch["clean"])
        return PUBLISHED_BATCH * distillation_loss(teacher, self.student(batch["corrupted"]))
