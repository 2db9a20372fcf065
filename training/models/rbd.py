"""Reconstruction-based distillation (Zhao & Guo, Computers & Graphics 132, 2025): our reading of its abstract.

Only the abstract is known to us. It says that the student reconstructs features instead of imitating them, and that a
prediction consistency loss makes its predictions agree between training and inference. Everything else is our
reconstruction, so a result of this model says nothing of theirs: the network, which is RD's; what is degraded and how;
both losses; their weights; and the recipe, which is RD's too.

Two readings of the abstract:

    features  (the default) Half of the images have a defect, and of all images blocks of the teacher's features are
              hidden. The student reconstructs the clean image's features. Blocks are hidden in training only, and
              consistency means that without hiding it predicts the same.
    images    Half of the images have a defect and nothing is hidden. The student reconstructs the clean image's
              features, and consistency means that it predicts the same for the corrupted and for the clean image.

At inference both are RD: nothing is degraded, nothing is added to the graph.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from segrd_edge.errors import OptionError

from ..backbone import ResNetFeatures, backbone_spec, freeze
from ..losses import distillation_loss, flattened_distillation_loss
from ..parts import chain
from ..parts.distance import DISTANCE_MAP, distance_map
from ..parts.masking import FeatureMask
from ..parts.reverse import OneClassEmbedding, ReverseDecoder, reverse_phase
from ..phases import Batch, Phase, half_corrupted

Degraded = Literal["features", "images"]


class ReconstructionDistillation(nn.Module):
    """`forward(images N×3×h×w)` → cosine distance N×1×h/4×w/4.

    Args:
        backbone: teacher architecture (`training.backbone.BACKBONES`); the student mirrors it.
        size_hw: network size; nothing depends on it.
        degraded: "features" or "images", see above.
        consistency: weight of the prediction consistency loss beside the reconstruction loss.
    """

    defects: ClassVar[tuple[str, ...]] = ("perlin",)
    batch: ClassVar[int] = 16  # RD's
    epochs: ClassVar[int] = 200  # RD's

    def __init__(
        self,
        backbone: str = "resnet18",
        size_hw: tuple[int, int] = (256, 256),
        degraded: Degraded = "features",
        consistency: float = 1.0,
    ) -> None:
        super().__init__()
        if degraded not in get_args(Degraded):
            raise OptionError(f"degraded={degraded!r}", expected="one of " + ", ".join(get_args(Degraded)))
        self.teacher = freeze(ResNetFeatures(backbone, stages=3))
        embedding = OneClassEmbedding(backbone)
        if degraded == "features":
            encoder = chain(mask=FeatureMask(backbone_spec(backbone).channels[:3]), embedding=embedding)
        else:
            encoder = chain(embedding=embedding)
        self.student = chain(encoder=encoder, decoder=ReverseDecoder(backbone))
        self.degraded, self.consistency = degraded, consistency
        self.map_spec = DISTANCE_MAP

    def forward(self, images: Tensor) -> Tensor:
        teacher = self.teacher(images)
        return distance_map(teacher, self.student(teacher))

    def phases(self) -> list[Phase]:
        return [reverse_phase(ReconstructionObjective(self), list(self.student.parameters()))]


class ReconstructionObjective(nn.Module):
    """L_reconstruct + consistency · L_consistent, with F a teacher's features and R the student.

    L_reconstruct: flattened cosine distance between R(degraded F of the image that may have a defect) and F(clean).
    L_consistent: cosine distance per pixel between what training and inference predict. Of the two predictions one
    is the goal and gets no gradient: hiding blocks, the prediction with hidden blocks; else that for the clean image.
    """

    def __init__(self, model: ReconstructionDistillation) -> None:
        super().__init__()
        self.teacher, self.student, self.consistency = model.teacher, model.student, model.consistency
        self.mask = model.student.get_submodule("encoder.mask") if model.degraded == "features" else None

    def forward(self, batch: Batch) -> Tensor:
        images, _ = half_corrupted(batch)
        count = len(images)
        with torch.no_grad():
            features = self.teacher(torch.cat([batch["clean"], images]))
        clean, seen = [f[:count] for f in features], [f[count:] for f in features]
        if isinstance(self.mask, FeatureMask):
            degraded, other = self.mask.hide(seen), seen
        else:
            degraded, other = seen, clean
        # One pass for both, so that BatchNorm sees in training what its running statistics are of.
        both = self.student([torch.cat(pair) for pair in zip(degraded, other, strict=True)])
        prediction, other_prediction = [b[:count] for b in both], [b[count:] for b in both]
        goal, follower = (prediction, other_prediction) if self.mask is not None else (other_prediction, prediction)
        consistent = distillation_loss([g.detach() for g in goal], follower)
        return flattened_distillation_loss(clean, prediction) + self.consistency * consistent
