"""NFERD: reverse distillation with a bank of normal features (Electronics 2024, 13(20), 4125): our reconstruction.

RD whose student gets normality twice: by distillation, and from a bank of the teacher's features of good images, one
per level, that is fused with the decoder's levels by channel and spatial attention in parallel.

We know the abstract and the first paragraphs of section 3.1, from which all of the above is; there the teacher is a
WideResNet-50. Our reconstruction is all that they leave open: what the bank holds and how it is read
(`training.parts.prototypes`: K clusters per level, read by attention; the paper may as well store whole images), how
it is filled, the formula of the attention (`training.parts.normality`), that the fusion stands behind the decoder and
is asked with the student's features, the loss, that no synthetic defects are used, and the recipe and the map, which
are RD's. So a result of this model says nothing of theirs.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..backbone import ResNetFeatures, backbone_spec, freeze
from ..losses import flattened_distillation_loss
from ..parts import chain
from ..parts.distance import DISTANCE_MAP, distance_map
from ..parts.normality import NormalityFusion
from ..parts.prototypes import ClusteringObjective, PrototypeBank
from ..parts.reverse import OneClassEmbedding, ReverseDecoder, reverse_phase
from ..phases import Batch, Phase, Recipe

UNFUSED_WEIGHT = 0.1  # of the distillation of the decoder's own levels
BANK_SHARE = 0.05  # of the training


class NFERD(nn.Module):
    """`forward(images N×3×h×w)` → cosine distance N×1×h/4×w/4.

    Args:
        backbone: teacher architecture (`training.backbone.BACKBONES`); the student mirrors it.
        size_hw: network size; nothing depends on it.
        prototypes: clusters per level; by default 64, or 128 with bottlenecks.
        temperature: how sharply the bank is read. Many prototypes and a high temperature let the fused student copy
            any texture, defects included.
    """

    defects: ClassVar[tuple[str, ...]] = ("perlin",)  # its loss never sees them
    batch: ClassVar[int] = 16  # RD's
    epochs: ClassVar[int] = 200  # RD's

    def __init__(
        self,
        backbone: str = "resnet18",
        size_hw: tuple[int, int] = (256, 256),
        prototypes: int | None = None,
        temperature: float = 10.0,
    ) -> None:
        super().__init__()
        spec = backbone_spec(backbone)
        self.teacher = freeze(ResNetFeatures(backbone, stages=3))
        self.student = chain(
            encoder=OneClassEmbedding(backbone),
            decoder=ReverseDecoder(backbone),
            fusion=NormalityFusion(spec.channels[:3], prototypes or (128 if spec.bottleneck else 64), temperature),
        )
        self.map_spec = DISTANCE_MAP

    def forward(self, images: Tensor) -> Tensor:
        teacher = self.teacher(images)
        return distance_map(teacher, self.student(teacher))

    def phases(self) -> list[Phase]:
        fusion = cast("NormalityFusion", self.student.get_submodule("fusion"))
        bank = list(fusion.bank.parameters())
        in_bank = {id(p) for p in bank}
        # The rates are shares of the way to a cluster's mean, see PrototypeBank.
        descent = partial(torch.optim.SGD, lr=0.1)
        return [
            Phase(
                "bank",
                ClusteringObjective(self.teacher, [cast("PrototypeBank", b) for b in fusion.bank]),
                published=Recipe(descent, [{"params": bank, "lr": 0.1}]),
                short=Recipe(descent, [{"params": bank, "lr": 0.3}]),
                share_of_steps=BANK_SHARE,
                share_of_time=BANK_SHARE,
            ),
            reverse_phase(
                FusedObjective(self),
                [p for p in self.student.parameters() if id(p) not in in_bank],
                share_of_steps=1 - BANK_SHARE,
                share_of_time=1 - BANK_SHARE,
            ),
        ]


class FusedObjective(nn.Module):
    """Flattened cosine distance of the fused levels, and a tenth of it for the levels before the fusion."""

    def __init__(self, model: NFERD) -> None:
        super().__init__()
        self.teacher = model.teacher
        self.decode = nn.Sequential(*list(model.student.children())[:2])
        self.fusion = model.student.get_submodule("fusion")

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            teacher = self.teacher(batch["clean"])
        levels = self.decode(teacher)
        fused = flattened_distillation_loss(teacher, self.fusion(levels))
        return fused + UNFUSED_WEIGHT * flattened_distillation_loss(teacher, levels)
