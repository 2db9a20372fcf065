"""The parts that models are composed of, each against an independent form of itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from segrd_edge.errors import OptionError
from segrd_edge.training.backbone import BACKBONES, ResNetFeatures, backbone_spec, l2_normalise
from segrd_edge.training.losses import (
    cosine_distance,
    flattened_distance,
    flattened_distillation_loss,
    hierarchical_context_loss,
)
from segrd_edge.training.maps import gaussian_blur
from segrd_edge.training.parts.distance import distance_map
from segrd_edge.training.parts.fusion import AttentionFusion, LevelFusion
from segrd_edge.training.parts.head import ASPP
from segrd_edge.training.parts.masking import FeatureMask
from segrd_edge.training.parts.normality import HybridAttention, NormalityFusion
from segrd_edge.training.parts.patches import PatchwiseFeatures, from_patches, to_patches
from segrd_edge.training.parts.postsegmentation import FullSize, PostSegmentation, gated_features
from segrd_edge.training.parts.projection import InstanceNorm, ProjectionLayers, projection_loss, transport_loss
from segrd_edge.training.parts.prototypes import PrototypeBank, spread_out
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
        (lambda: NormalityFusion((64, 128, 256), 64, 10.0), 0.36 + 2 * 64 * (64 + 128 + 256) / 1e6),
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


def test_a_product_of_levels_has_the_ranks_of_stfpms_product() -> None:
    teacher, student = levels(size_hw=(16, 16)), levels(size_hw=(16, 16))
    maps = [cosine_distance(t, s) for t, s in zip(teacher, student, strict=True)]
    enlarged = [F.interpolate(m, size=(16, 16), mode="bilinear", align_corners=False) for m in maps]
    product = enlarged[0] * enlarged[1] * enlarged[2]
    got = distance_map(teacher, student, "product")
    assert torch.allclose(got**3, product, rtol=1e-4)
    assert torch.isfinite(distance_map(teacher, [1.0001 * t for t in teacher], "product")).all()


def test_patches_there_and_back() -> None:
    images = torch.randn(2, 3, 64, 96)
    patches = to_patches(images, (2, 3))
    assert patches.shape == (12, 3, 32, 32)
    assert torch.equal(patches[6 + 3 + 2], images[1, :, 32:, 64:])  # second image, second row, third column
    assert torch.equal(from_patches(patches, (2, 3)), images)


def test_a_patchwise_network_sees_each_patch_alone() -> None:
    whole, patchwise = ResNetFeatures("resnet18").eval(), PatchwiseFeatures("resnet18", patch_px=32).eval()
    patchwise.load_state_dict(whole.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        got, alone, seen = patchwise(images), whole(images[..., 32:, 32:64]), whole(images)
    for level, (g, a, s) in enumerate(zip(got, alone, seen, strict=True)):
        side = 8 >> level
        assert g.shape == s.shape
        assert torch.allclose(g[..., side:, side : 2 * side], a, atol=1e-4)
        assert not torch.allclose(g, s, atol=1e-2)
    with pytest.raises(OptionError, match="48×64 cannot be cut into patches of 32"):
        patchwise(torch.randn(1, 3, 48, 64))
    with pytest.raises(OptionError, match="a multiple of 16"):
        PatchwiseFeatures("resnet18", patch_px=24)


def test_features_pass_the_gate_where_teacher_and_student_disagree() -> None:
    teacher = levels()
    student = [t.clone() for t in teacher]
    student[0][..., 3, 5] *= -1
    gated = gated_features(teacher, student)
    assert torch.allclose(gated[0][..., 3, 5], 2 * teacher[0][..., 3, 5], atol=1e-5)
    assert float(gated[1].abs().max()) < 1e-5
    assert float(gated[0].abs().sum()) == pytest.approx(float(gated[0][..., 3, 5].abs().sum()), rel=1e-3)


def test_one_logit_is_a_softmax_over_two_channels() -> None:
    head, full_size, two = PostSegmentation((64, 128, 256), 32), FullSize(32).eval(), nn.Conv2d(32, 2, 3, padding=1)
    full_size.load(two)
    with torch.no_grad():
        features = head.eval()(levels())
        got = torch.sigmoid(full_size(features))
        wanted = torch.softmax(two(full_size.fuse(full_size.up(features))), dim=1)[:, 1:]
    assert got.shape == (2, 1, 64, 96)
    assert torch.allclose(got, wanted, atol=1e-6)


def test_blocks_are_hidden_behind_tokens_and_never_the_same_twice() -> None:
    mask, teacher = FeatureMask((64, 128, 256)), levels(size_hw=(64, 64))
    assert all(a is b for a, b in zip(mask(teacher), teacher, strict=True))
    resumed = FeatureMask((64, 128, 256))
    resumed.load_state_dict(mask.state_dict())
    first, second, again = mask.hide(teacher), mask.hide(teacher), resumed.hide(teacher)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])
    for level, side in enumerate((8, 4, 2)):
        hidden = (first[level] == mask.tokens[level]).all(dim=1)
        blocks = hidden.reshape(2, 8, side, 8, side)
        assert torch.equal(blocks.all(4).all(2), blocks.any(4).any(2))  # a block is hidden or not, as a whole
        shown = ~hidden[:, None].expand_as(teacher[level])
        assert torch.equal(first[level][shown], teacher[level][shown])
        assert all(0.19 < float(share) < 0.51 for share in hidden.float().mean(dim=(1, 2)))
        assert torch.equal(blocks.any(4).any(2), (first[0] == mask.tokens[0]).all(1)[:, ::8, ::8])


def filled_bank(count: int = 4, temperature: float = 10.0) -> tuple[PrototypeBank, torch.Tensor, torch.Tensor]:
    """A bank after some steps on four kinds of feature, the features, and their kind per pixel."""
    directions = torch.eye(8)[:4] * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    kind = torch.arange(2 * 8 * 8).remainder(4).reshape(2, 8, 8)
    features = (directions[kind] + 0.02 * torch.randn(2, 8, 8, 8)).permute(0, 3, 1, 2)
    bank = PrototypeBank(8, count, temperature)
    descent = torch.optim.SGD(bank.parameters(), lr=0.5)
    for _ in range(20):
        descent.zero_grad()
        bank.clustering_loss(features).backward()
        descent.step()
    return bank, features, kind


def test_prototypes_are_the_means_of_their_clusters() -> None:
    bank, features, kind = filled_bank(count=5)
    pixels, kinds = features.permute(0, 2, 3, 1).reshape(-1, 8), kind.reshape(-1)
    for k in range(4):
        members = pixels[kinds == k]
        mean, mean_unit = members.mean(0), F.normalize(members, dim=1).mean(0)
        assert float((bank.keys.weight.detach()[:, :, 0, 0] - mean_unit).norm(dim=1).min()) < 0.03
        assert float((bank.values.weight.detach()[:, :, 0, 0].t() - mean).norm(dim=1).min()) < 0.1


def test_one_step_of_rate_one_is_a_step_of_k_means() -> None:
    features = torch.randn(3, 6, 4, 4)
    bank = PrototypeBank(6, 5, 10.0)
    bank.clustering_loss(features)  # takes its prototypes
    before = bank.keys.weight[:, :, 0, 0].detach().numpy().copy()
    bank.clustering_loss(features).backward()
    torch.optim.SGD(bank.parameters(), lr=1.0).step()
    unit = F.normalize(features, dim=1).permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    nearest = ((unit[:, None] - before[None]) ** 2).sum(2).argmin(1)
    wanted = np.stack([unit[nearest == j].mean(0) for j in range(5)])
    np.testing.assert_allclose(bank.keys.weight[:, :, 0, 0].detach().numpy(), wanted, atol=1e-5)


def test_a_bank_is_read_by_attention_and_with_a_high_temperature_by_the_nearest_neighbour() -> None:
    bank, _, _ = filled_bank()
    query = l2_normalise(torch.randn(2, 8, 5, 7))
    keys, values = bank.keys.weight[:, :, 0, 0], bank.values.weight[:, :, 0, 0].t()
    cosine = torch.einsum("nchw,kc->nkhw", query, keys)
    wanted = torch.einsum("nkhw,kc->nchw", torch.softmax(10 * cosine, dim=1), values)
    assert torch.allclose(bank(3 * query), wanted, atol=1e-5)
    bank.temperature = 1e5
    best, second = cosine.topk(2, dim=1).values.unbind(1)
    clear = best - second > 1e-3
    assert clear.float().mean() > 0.9
    nearest = values[cosine.argmax(1)]
    assert torch.allclose(bank(query).permute(0, 2, 3, 1)[clear], nearest[clear], atol=1e-4)


def test_hybrid_attention_against_its_formula() -> None:
    block = HybridAttention(32).eval()
    s, n = torch.randn(2, 32, 5, 6), torch.randn(2, 32, 5, 6)
    with torch.no_grad():
        u = block.join(torch.cat([s, n], 1))
        w_c = torch.sigmoid(block.channel[2](F.relu(block.channel[0](F.adaptive_avg_pool2d(u, 1)))))
        w_s = torch.sigmoid(block.spatial[0](torch.cat([u.mean(1)[:, None], u.max(1).values[:, None]], 1)))
        wanted = s + block.out(torch.cat([w_c * u, w_s * u], 1))
        assert torch.allclose(block(s, n), wanted, atol=1e-5)


def test_first_prototypes_are_of_every_kind_however_rare() -> None:
    kinds = torch.eye(6)
    vectors = torch.cat([kinds[:1].repeat(500, 1), kinds[1:]])
    assert sorted(spread_out(vectors, 6).clamp_min(499).tolist()) == list(range(499, 505))
    assert len(spread_out(kinds[:2], 5)) == 5  # fewer kinds than prototypes


@pytest.mark.parametrize("size_hw", [(8, 8), (8, 12)])
def test_a_pooled_branch_that_is_expanded_is_the_one_that_is_resized(size_hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    aspp = ASPP(8, rates=(1, 2)).eval()
    x = torch.randn(2, 8, *size_hw)
    pooled = F.interpolate(aspp.pooled(F.adaptive_avg_pool2d(x, 1)), size_hw, mode="bilinear", align_corners=True)
    published = aspp.fusion(torch.cat([pooled, *(branch(x) for branch in aspp.dilated)], dim=1))
    torch.testing.assert_close(aspp(x), published)
