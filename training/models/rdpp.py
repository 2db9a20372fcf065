"""RD++: reverse distillation with projection layers (Tien et al., CVPR 2023).

RD with projection layers between the teacher and the embedding. They see the clean image and one with simplex noise,
and learn to take the noise out; the rest of the student learns as in RD, on the clean image's projections.

Differences from the published code beside those of RD: the projections are normalised by BatchNorm (`projection_norm`;
"instance" is published) and begin with He's initialisation instead of PyTorch's, the transport term is left out because
it is zero (`training.parts.projection`), every batch makes a step where the code makes one for every second, and the
noise is clipped to 8-bit pixels. The paper selects its epoch by the test set; here the last step counts.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..backbone import ResNetFeatures, backbone_spec, freeze
from ..losses import flattened_distillation_loss
from ..parts import chain
from ..parts.distance import DISTANCE_MAP, distance_map
from ..parts.projection import Norm, ProjectionLayers, ProjectionObjective, projected_phase
from ..parts.reverse import OneClassEmbedding, ReverseDecoder
from ..phases import Phase


class RDPlusPlus(nn.Module):
    """`forward(images N×3×h×w)` → cosine distance N×1×h/4×w/4.

    Args:
        backbone: teacher architecture (`training.backbone.BACKBONES`); the student mirrors it.
        size_hw: network size; nothing depends on it.
        projection_norm: "batch" or "instance".
        transport: compute the published transport term, which is zero.
    """

    defects: ClassVar[tuple[str, ...]] = ("simplex",)
    batch: ClassVar[int] = 16
    epochs: ClassVar[int] = 200  # RD's; the published code has 10 to 300, by category

    def __init__(
        self,
        backbone: str = "resnet18",
        size_hw: tuple[int, int] = (256, 256),
        projection_norm: Norm = "batch",
        transport: bool = False,
    ) -> None:
        super().__init__()
        channels = backbone_spec(backbone).channels[:3]
        self.teacher = freeze(ResNetFeatures(backbone, stages=3))
        self.student = chain(
            encoder=chain(
                projection=ProjectionLayers(channels, projection_norm),
                embedding=OneClassEmbedding(backbone),
            ),
            decoder=ReverseDecoder(backbone),
        )
        self.transport = transport
        self.map_spec = DISTANCE_MAP

    def forward(self, images: Tensor) -> Tensor:
        teacher = self.teacher(images)
        return distance_map(teacher, self.student(teacher))

    def phases(self) -> list[Phase]:
        objective = ProjectionObjective(self.teacher, self.student, flattened_distillation_loss, self.transport)
        return [projected_phase(objective, share_of_steps=1.0, share_of_time=1.0)]
