"""SegRD++: RD++ with fused levels and DeSTSeg's head (Zhang & Cao, J. Zhejiang Univ. (Sci. Ed.) 52(1), 2025).

Four changes to RD++, as its abstract names them: a segmentation head instead of a hand-made sum of distances,
attention-based fusion in the student, a hierarchical context loss, and more natural pseudo-anomalies, which its code
shows to be Perlin-shaped texture patches in place of simplex noise.

Of this paper we have the abstract and the code (JRZhang323/SegRRD at cbec07c), not the body and no results. What the
code does is kept except where it cannot be deployed or judged: no weights are selected by the test set, the fusion
takes any size, the teacher runs once and without layer4, training and evaluation resize alike, and the head's weights
are saved. The projections are normalised by BatchNorm (`projection_norm`; "instance" is the code's), the transport
term is left out because it is zero (`training.parts.projection`), and WideResNet-50 teachers, with RD++'s widths, are
our extension: the code has ResNet-18 only. The recipe for a budget of minutes is ours.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from segrd_edge.mapspec import MapSpec

from ..backbone import ResNetFeatures, backbone_spec, freeze
from ..losses import hierarchical_context_loss
from ..parts import chain
from ..parts.fusion import LevelFusion
from ..parts.head import PROFILES, SegmentationHead, feature_products, head_phase
from ..parts.projection import Norm, ProjectionLayers, ProjectionObjective, projected_phase
from ..parts.reverse import OneClassEmbedding, ReverseDecoder
from ..phases import Phase


class SegRDPlusPlus(nn.Module):
    """`forward(images N×3×h×w)` → raw anomaly logits N×1×h/4×w/4.

    Args:
        backbone: teacher architecture (`training.backbone.BACKBONES`); the student mirrors it.
        size_hw: network size; nothing depends on it, as the score is the map's largest value.
        head_width: channels of the segmentation head; 256 is the published one.
        head_fusion_kernel: kernel of the ASPP fusion; 3 is the published one.
        head_level_width, head_stride: see `training.parts.head`; 0 and 4 are published.
        projection_norm: "batch" or "instance".
        transport: compute the published transport term, which is zero.
    """

    defects: ClassVar[tuple[str, ...]] = ("perlin",)
    batch: ClassVar[int] = 16
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
            fusion=LevelFusion(channels),
        )
        self.head = SegmentationHead(channels, head_width, head_fusion_kernel, head_level_width, head_stride)
        self.transport = transport
        self.map_spec = MapSpec("sigmoid", 0.0, top_pixels=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.products(images))

    def products(self, images: Tensor) -> list[Tensor]:
        """What the head reads: a level per stage, N×C×h/4×w/4 to N×C×h/16×w/16."""
        teacher = self.teacher(images)
        return feature_products(teacher, self.student(teacher))

    def phases(self) -> list[Phase]:
        objective = ProjectionObjective(self.teacher, self.student, hierarchical_context_loss, self.transport)
        return [
            projected_phase(objective, share_of_steps=0.6, share_of_time=0.5),
            head_phase(self, share_of_steps=0.4, share_of_time=0.5),
        ]
