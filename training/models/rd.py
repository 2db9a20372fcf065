"""RD: reverse distillation (RD4AD; Deng & Li, CVPR 2022).

The student sees no image. It gets the teacher's features, condensed by the one-class embedding, and restores them from
coarse to fine; having seen good parts only, it restores a defect's features as a good part's. The anomaly map is their
cosine distance.

Differences from the published code: layer4 of the teacher is not run, transposed convolutions are written as 1×1
convolutions and DepthToSpace (equal), the map is the mean over levels where the code has the sum, enlarged with
half-pixel centres (see `training.parts.distance`), the blur is renormalised at the border where SciPy mirrors, and the
last step's weights are kept. The paper uses a WideResNet-50; the recipe for a budget of minutes is ours.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..backbone import ResNetFeatures, freeze
from ..losses import flattened_distillation_loss
from ..parts import chain
from ..parts.distance import DISTANCE_MAP, distance_map
from ..parts.reverse import OneClassEmbedding, ReverseDecoder, reverse_phase
from ..phases import Batch, Phase


class RD(nn.Module):
    """`forward(images N×3×h×w)` → cosine distance N×1×h/4×w/4.

    Args:
        backbone: teacher architecture (`training.backbone.BACKBONES`); the student mirrors it.
        size_hw: network size; nothing depends on it.
    """

    defects: ClassVar[tuple[str, ...]] = ("perlin",)  # its loss never sees them
    batch: ClassVar[int] = 16
    epochs: ClassVar[int] = 200

    def __init__(self, backbone: str = "resnet18", size_hw: tuple[int, int] = (256, 256)) -> None:
        super().__init__()
        self.teacher = freeze(ResNetFeatures(backbone, stages=3))
        self.student = chain(encoder=OneClassEmbedding(backbone), decoder=ReverseDecoder(backbone))
        self.map_spec = DISTANCE_MAP

    def forward(self, images: Tensor) -> Tensor:
        teacher = self.teacher(images)
        return distance_map(teacher, self.student(teacher))

    def phases(self) -> list[Phase]:
        return [reverse_phase(StudentObjective(self), list(self.student.parameters()))]


class StudentObjective(nn.Module):
    """Flattened cosine distance between the teacher's features of the good image and what the student makes of them."""

    def __init__(self, model: RD) -> None:
        super().__init__()
        self.teacher, self.student = model.teacher, model.student

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            teacher = self.teacher(batch["clean"])
        return flattened_distillation_loss(teacher, self.student(teacher))
