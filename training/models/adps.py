"""ADPS: asymmetric distillation with post-segmentation (IEEE TNNLS 36(4), 2025; arXiv 2210.10495).

The teacher sees the whole image; the student sees it in patches, each by itself, and learns to give the teacher's
features all the same: alike on good pixels, unlike on pixels with a synthetic defect. Where they are unlike, the
teacher's features pass to a U-Net decoder, which draws the defect at the image's own size. All of it is trained at
once.

From the paper's text: asymmetric input at the image's level, non-overlapping patches (8 or 4 per side are the best),
the gate, the decoder's blocks, both losses with equal weight, Perlin-shaped texture defects as in DRAEM, 256×256, Adam
with 1e-4, batch 32, 300 epochs with ×0.2 at the 240th and the 270th, and a WideResNet-50 "as an example".

Our reconstruction, where the text is silent and no code was found: the student has the teacher's architecture and
random weights; three levels; the decoder starts from the coarsest and has no level to take in at the two largest
sizes; its widths; focal gamma 2; half of the images of a batch have a defect; a level's mask is 1 where at least half
of the cell is defect; each patch is padded with zeros; mean over pixels in the distillation loss.

Ours by choice: patches have a fixed side instead of a fixed number per image, so that crops in training and any size
see the same patches (32 pixels are 8 per side at 256); one logit instead of two channels and a softmax (equal);
transposed convolutions as 1×1 convolutions and DepthToSpace (equal). `head_stride` leaves out the decoder's last
stages, which have no features of their own to add; the loss is then of the enlarged logits. The paper's score is the
largest value of a blurred map, without saying how blurred; here the map stays sharp and the score is the mean of its
highest values, unless `sigma_px` asks for the blur.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrd_edge.errors import OptionError
from segrd_edge.mapspec import MapSpec

from ..backbone import ResNetFeatures, backbone_spec, freeze
from ..losses import cosine_distance, focal_loss
from ..parts import chain
from ..parts.patches import PatchwiseFeatures
from ..parts.postsegmentation import FullSize, PostSegmentation, gated_features
from ..phases import Batch, Phase, Recipe, half_corrupted

FOCAL_GAMMA = 2.0  # DRAEM's


class ADPS(nn.Module):
    """`forward(images N×3×h×w)` → raw anomaly logits N×1×h×w, or fewer with a head_stride.

    Args:
        backbone: architecture of teacher and student (`training.backbone.BACKBONES`).
        size_hw: network size; both sides must be multiples of `patch_px`.
        patch_px: side of the student's patches: 32 are the paper's 8 per side at 256 pixels, 64 its 4.
        head_width: channels of the decoder at h/8; by default 128, or 256 with bottlenecks.
        head_stride: pixels per logit and side: 1 as published, 2 or 4.
        sigma_px: Gaussian of the map; the score is then the map's largest value, as published. 0 keeps the map sharp.
    """

    defects: ClassVar[tuple[str, ...]] = ("perlin",)
    batch: ClassVar[int] = 32
    epochs: ClassVar[int] = 300
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "accurate": {},
        "balanced": {"head_stride": 2},
        "fast": {"head_stride": 4},
    }
    profile_for_minutes = "accurate"

    def __init__(
        self,
        backbone: str = "resnet18",
        size_hw: tuple[int, int] = (256, 256),
        patch_px: int = 32,
        head_width: int | None = None,
        head_stride: int = 1,
        sigma_px: float = 0.0,
    ) -> None:
        super().__init__()
        spec = backbone_spec(backbone)
        channels = spec.channels[:3]
        self.teacher = freeze(ResNetFeatures(backbone, stages=3))
        self.student = chain(encoder=PatchwiseFeatures(backbone, 3, patch_px))
        if any(side % patch_px for side in size_hw):
            raise OptionError(
                f"patches of {patch_px} pixels in images of {size_hw[0]}×{size_hw[1]}",
                expected=f"both sides multiples of {patch_px}",
                fix="--option patch_px=32, or another --size",
            )
        if head_stride not in (1, 2, 4):
            raise OptionError(f"head_stride {head_stride}", expected="1, 2 or 4 pixels per logit and side")
        width = head_width or (256 if spec.bottleneck else 128)
        decoder = PostSegmentation(channels, width, stages=2 if head_stride == 4 else 3)
        self.head: nn.Module
        self.full_size: nn.Module
        if head_stride == 1:
            self.head, self.full_size = decoder, FullSize(decoder.channels)
        else:
            self.head = chain(decoder=decoder, out=nn.Conv2d(decoder.channels, 1, 3, padding=1))
            self.full_size = nn.Identity()
        top = 1 if sigma_px > 0 else MapSpec.top_pixels_for(size_hw)
        self.map_spec = MapSpec("sigmoid", sigma_px, top)

    def forward(self, images: Tensor) -> Tensor:
        return self.full_size(self.head(gated_features(self.teacher(images), self.student(images))))

    def phases(self) -> list[Phase]:
        adam = partial(torch.optim.Adam, lr=1e-4, fused=True)
        short = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4, fused=True)
        parameters = [p for part in (self.student, self.head, self.full_size) for p in part.parameters()]
        return [
            Phase(
                "joint",
                JointObjective(self),
                published=Recipe(adam, [{"params": parameters, "lr": 1e-4}], drops=((0.8, 0.2), (0.9, 0.2))),
                short=Recipe(short, [{"params": parameters, "lr": 1e-3}]),
                share_of_steps=1.0,
                share_of_time=1.0,
            )
        ]


class JointObjective(nn.Module):
    """Asymmetric distillation and focal loss, 1:1, on a batch of which every other image has a defect."""

    def __init__(self, model: ADPS) -> None:
        super().__init__()
        self.teacher, self.student = model.teacher, model.student
        self.head, self.full_size = model.head, model.full_size

    def forward(self, batch: Batch) -> Tensor:
        images, mask = half_corrupted(batch)
        with torch.no_grad():
            teacher = self.teacher(images)
        student = self.student(images)
        logits = self.full_size(self.head(gated_features(teacher, student)))
        if logits.shape != mask.shape:
            logits = F.interpolate(logits, size=mask.shape[2:], mode="bilinear", align_corners=False)
        return asymmetric_loss(teacher, student, mask) + focal_loss(logits, mask, FOCAL_GAMMA)


def asymmetric_loss(teacher: Sequence[Tensor], student: Sequence[Tensor], mask: Tensor) -> Tensor:
    """(1 − Y)·(1 − W) + Y·W with W the cosine per pixel and Y the mask N×1×h×w at the level's size; mean over pixels,
    sum over levels. Eq. 7 of the paper.
    """
    losses = []
    for t, s in zip(teacher, student, strict=True):
        distance = cosine_distance(t, s)
        y = F.avg_pool2d(mask, mask.shape[2] // t.shape[2]) >= 0.5
        losses.append(torch.where(y, 1 - distance, distance).mean())
    return torch.stack(losses).sum()
