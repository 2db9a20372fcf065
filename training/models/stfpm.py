"""STFPM: student-teacher feature pyramid matching (Wang et al., BMVC 2021), the simplest of the family.

The student has the teacher's architecture and learns, from good images alone, to give the teacher's features. The map
is the product of the levels' distances. Differences from the published code (gdwang08/STFPM): the product is drawn back
to the scale of one level by its root before it is enlarged, and the last step's weights are kept where the code selects
by a fifth of the images. The recipe for a budget of minutes is ours.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from segrd_edge.mapspec import MapSpec

from ..backbone import ResNetFeatures, freeze
from ..losses import distillation_loss
from ..parts import chain
from ..parts.distance import distance_map
from ..phases import Batch, Phase, Recipe


class STFPM(nn.Module):
    """`forward(images N×3×h×w)` → geometric mean of the levels' cosine distances N×1×h/4×w/4.

    Args:
        backbone: architecture of teacher and student (`training.backbone.BACKBONES`).
        size_hw: network size; nothing depends on it.
    """

    defects: ClassVar[tuple[str, ...]] = ("perlin",)  # its loss never sees them
    batch: ClassVar[int] = 32
    epochs: ClassVar[int] = 100

    def __init__(self, backbone: str = "resnet18", size_hw: tuple[int, int] = (256, 256)) -> None:
        super().__init__()
        self.teacher = freeze(ResNetFeatures(backbone, stages=3))
        self.student = chain(encoder=ResNetFeatures(backbone, stages=3))
        self.map_spec = MapSpec("clip", sigma_px=0.0, top_pixels=1)

    def forward(self, images: Tensor) -> Tensor:
        return distance_map(self.teacher(images), self.student(images), "product")

    def phases(self) -> list[Phase]:
        sgd = partial(torch.optim.SGD, lr=0.4, momentum=0.9, weight_decay=1e-4)
        short = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4, fused=True)
        student = list(self.student.parameters())
        return [
            Phase(
                "student",
                MatchingObjective(self),
                published=Recipe(sgd, [{"params": student, "lr": 0.4}]),
                short=Recipe(short, [{"params": student, "lr": 1e-3}]),
                share_of_steps=1.0,
                share_of_time=1.0,
            )
        ]


class MatchingObjective(nn.Module):
    """Sum over levels of the mean over pixels of |t̂ − ŝ|² = 2·(1 − cos)."""

    def __init__(self, model: STFPM) -> None:
        super().__init__()
        self.teacher, self.student = model.teacher, model.student

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            teacher = self.teacher(batch["clean"])
        return 2 * distillation_loss(teacher, self.student(batch["clean"]))
