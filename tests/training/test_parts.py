"""The parts that models are composed of, each against an independent form of itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from segrd_edge.errors import OptionError
from segrd_edge.training.backbone import BACKBONES, backbone_spec
from segrd_edge.training.losses import (
    cosine_distance,
    flattened_distance,
    flattened_distillation_loss,
    hierarchical_context_loss,
)
from segrd_edge.training.maps import gaussian_blur
from segrd_edge.training.parts.distance import distance_map
from segrd_edge.training.parts.fusion import AttentionFusion, LevelFusion
from segrd_edge.training.parts.projection import InstanceNorm, ProjectionLayers, projection_loss, transport_loss
from segrd_edge.training.parts.reverse import OneClassEmbedding, ReverseDecoder, TransposedConv
from segrd_edge.training.parts.transport import sinkhorn_divergence


def levels(channels: tuple[int, ...] = (64, 128, 256), batch: int = 2, size_hw: tuple[int, int] = (16, 24)) -> list:
    height, width = size_hw
    return [torch.randn(batch, c, height >> i, width >> i) for i, c in enumerate(channels)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_a_transposed_convolution_is_a_1x1_convolution_and_depth_to_space() -> None:
    reference = nn.ConvTranspose2d(12, 20, 2, 2, bias=False)
    ours = TransposedConv(12, 20)
    ours.load(reference.weight)
    x = torch.randn(2, 12, 5, 7)
    assert torch.allclose(ours(x), reference(x), atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_student_has_its_teachers_shapes(backbone: str) -> None:
    with torch.device("meta"):
        teacher = levels(backbone_spec(backbone).channels[:3], 1)
        embedding = OneClassEmbedding(backbone).eval()(teacher)
        assert embedding.shape == (1, backbone_spec(backbone).channels[3], 2, 3)
        assert [x.shape for x in ReverseDecoder(backbone).eval()(embedding)] == [x.shape for x in teacher]


@pytest.mark.parametrize(
    ("part", "million"),  # algorithms: embedding and decoder of a ResNet-18, of a WideResNet-50 the embedding
    [
        (lambda: OneClassEmbedding("resnet18"), 11.68),
        (lambda: ReverseDecoder("resnet18"), 3.70),
        (lambda: OneClassEmbedding("wide_resnet50_2"), 58.9),
        (lambda: ProjectionLayers((64, 128, 256), "instance"), 0.97),
        (lambda: LevelFusion((64, 128, 256)), 0.41),
    ],
)
def test_published_sizes(part: object, million: float) -> None:
    with torch.device("meta"):
        module = part()  # type: ignore[operator]
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(million, rel=6e-3)


def test_instance_norm_is_torchs() -> None:
    x = torch.randn(2, 8, 5, 7) * 3 + 1
    assert torch.allclose(InstanceNorm()(x), nn.InstanceNorm2d(8)(x), atol=1e-5)


def test_projections_keep_shapes_and_take_known_norms_only() -> None:
    teacher = levels()
    for norm in ("batch", "instance"):
        assert [x.shape for x in ProjectionLayers((64, 128, 256), norm)(teacher)] == [x.shape for x in teacher]  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="one of batch, instance"):
        ProjectionLayers((64,), "layer")  # type: ignore[arg-type]


def test_fusion_weighs_the_level_and_the_deeper_one_per_pixel() -> None:
    fusion = AttentionFusion(8, 16).eval()
    level, deeper = torch.randn(2, 8, 4, 6), torch.randn(2, 16, 2, 3)
    x, y = fusion.reduce(level), deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    z = torch.sigmoid(fusion.attention(torch.cat([x, y], 1)))
    wanted = fusion.out(x * z[:, 0:1] + y * z[:, 1:2])
    assert torch.allclose(fusion(level, deeper), wanted, atol=1e-6)
    assert [x.shape for x in LevelFusion((64, 128, 256))(levels())] == [x.shape for x in levels()]


def test_flattened_distance_is_not_the_mean_of_the_distances_per_pixel() -> None:
    a, b = torch.randn(2, 3, 8, 4, 4).abs()
    by_hand = [1 - float(x.reshape(-1) @ y.reshape(-1) / x.norm() / y.norm()) for x, y in zip(a, b, strict=True)]
    assert float(flattened_distance(a, b)) == pytest.approx(np.mean(by_hand), abs=1e-6)
    assert float(flattened_distance(a, b)) != pytest.approx(float(cosine_distance(a, b).mean()), abs=1e-3)


def test_hierarchical_context_loss_against_its_definition() -> None:
    t, s = torch.randn(2, 8, 16, 16), torch.randn(2, 8, 16, 16)
    pooled = [(F.adaptive_avg_pool2d(t, 16 // k), F.adaptive_avg_pool2d(s, 16 // k)) for k in (1, 2, 4, 8)]
    distances = [float(flattened_distance(*pair)) for pair in pooled]
    wanted = np.dot(distances, [1, 1 / 2, 1 / 4, 1 / 8]) / 1.875
    assert float(hierarchical_context_loss([t], [s])) == pytest.approx(wanted, abs=1e-6)
    assert float(hierarchical_context_loss(levels(), levels())) > 0  # level 3 is 4×6: cells stick out
    same = levels()
    assert float(hierarchical_context_loss(same, same)) == pytest.approx(0, abs=1e-5)
    assert float(flattened_distillation_loss(same, same)) == pytest.approx(0, abs=1e-5)


def test_projection_loss_against_its_definition() -> None:
    raw, bad, good = levels(), levels(), [x.abs() for x in levels()]
    raw[0] = good[0] + 0.1  # one level beyond the margin
    reconstruct = sum(float((1 - F.cosine_similarity(b, g)).mean()) for b, g in zip(bad, good, strict=True))
    target = -torch.ones(2)
    contrast = sum(
        float(F.cosine_embedding_loss(r.flatten(1), g.flatten(1), target, margin=0.5))
        for r, g in zip(raw, good, strict=True)
    )
    assert contrast > 0.3
    wanted = (0.01 * reconstruct + 0.1 * contrast) / 1.11
    assert float(projection_loss(raw, bad, good, transport=False)) == pytest.approx(wanted, rel=1e-4)


def test_sinkhorn_divergence_of_points_far_apart_is_their_transport() -> None:
    x = torch.tensor([[0.0, 0.0], [10.0, 0.0]], dtype=torch.float64, requires_grad=True)
    y = x.detach().flip(0) + torch.tensor([1.0, 2.0], dtype=torch.float64)
    divergence = sinkhorn_divergence(x, y)
    assert divergence.item() == pytest.approx((1 + 4) / 2, rel=1e-3)  # every point moves by (1, 2)
    divergence.backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.tensor([-0.5, -1.0], dtype=torch.float64).expand(2, 2), atol=1e-3)


def test_the_published_transport_term_and_its_gradient_are_zero() -> None:
    projected = [(3 * x.double()).requires_grad_() for x in levels(batch=5)]
    others = [torch.softmax(x.flatten(1), 1).detach().flip(1) for x in projected]
    loss = transport_loss(projected)
    loss.backward()
    assert abs(loss.item()) < 1e-9
    assert all(x.grad is not None and float(x.grad.abs().max()) < 1e-9 for x in projected)
    clouds = [torch.softmax(x.flatten(1), 1).detach() for x in projected]
    assert float(sinkhorn_divergence(clouds[2], others[2])) > 1e-6  # other points do have a distance


def test_distance_map_is_the_mean_over_levels() -> None:
    teacher, student = levels(), levels()
    assert distance_map(teacher, student).shape == (2, 1, 16, 24)
    assert float(distance_map(teacher, [2 * x for x in teacher]).abs().max()) < 1e-5
    student = [t.clone() for t in teacher]
    student[1] = -student[1]  # one level at the largest distance, 2
    assert torch.allclose(distance_map(teacher, student), torch.full((2, 1, 16, 24), 2 / 3), atol=1e-5)


def test_the_blur_is_scipys_inside_and_the_mean_of_what_lies_inside_at_the_border() -> None:
    values = torch.rand(1, 1, 48, 60)
    got = gaussian_blur(values, 1.5)[0, 0].numpy()
    wanted = gaussian_filter(values[0, 0].double().numpy(), 1.5)
    assert np.abs(got - wanted)[6:-6, 6:-6].max() < 1e-5
    inside = gaussian_filter(np.ones((48, 60)), 1.5, mode="constant")
    zero_padded = gaussian_filter(values[0, 0].double().numpy(), 1.5, mode="constant")
    assert np.abs(got - zero_padded / inside).max() < 1e-5
    assert torch.allclose(gaussian_blur(torch.ones(1, 1, 32, 40), 4.0), torch.ones(1, 1, 32, 40), atol=1e-5)
