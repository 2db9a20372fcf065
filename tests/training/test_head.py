"""The segmentation head: the forms of it that are called the same, its sizes, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrd_edge.errors import OptionError
from segrd_edge.training.models import build_model
from segrd_edge.training.parts.head import SegmentationHead

CHANNELS = (8, 16, 32)


def levels(size: int = 32) -> list[Tensor]:
    return [torch.randn(2, c, size >> i, size >> i) for i, c in enumerate(CHANNELS)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_reducing_before_enlarging_is_a_1x1_convolution_of_the_concatenation() -> None:
    head = SegmentationHead(CHANNELS, 12, 1, level_width=6).eval()
    seen: list[Tensor] = []
    head.residual.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    features = levels()
    head(features)
    # The same on the enlarged levels: per level, then concatenated.
    for i, (reduction, level) in enumerate(zip(head.reduce, features, strict=True)):
        enlarged = F.interpolate(level, size=(32, 32), mode="bilinear", align_corners=False)
        assert torch.allclose(seen[0][:, 6 * i : 6 * i + 6], reduction(enlarged), atol=1e-5)


@pytest.mark.parametrize("stride", [4, 8])
def test_the_map_has_the_finest_levels_size(stride: int) -> None:
    head = SegmentationHead(CHANNELS, 12, level_width=6, stride=stride).eval()
    inside: list[tuple[int, ...]] = []
    head.aspp.register_forward_hook(lambda module, inputs, output: inside.append(tuple(output.shape)))
    assert head(levels()).shape == (2, 1, 32, 32)
    assert inside == [(2, 12, 128 // stride, 128 // stride)]


def test_at_stride_8_every_fine_pixel_counts_and_each_logit_has_its_place() -> None:
    head = SegmentationHead(CHANNELS, 12, level_width=6, stride=8)
    fine = levels()[0].requires_grad_()
    head([fine, *levels()[1:]]).sum().backward()
    assert fine.grad is not None
    assert (fine.grad.abs().sum(dim=(0, 1)) > 0).all()
    last = head.out[1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        assert head.eval()(levels())[0, 0, :2, :4].tolist() == [[1, 2, 1, 2], [3, 4, 3, 4]]


def test_the_optimiser_gets_every_weight_once() -> None:
    head = SegmentationHead(CHANNELS, 12, level_width=6, stride=8)
    both = [*head.residual_parameters, *head.head_parameters]
    assert sorted(map(id, both)) == sorted(map(id, head.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_stride": 8}, "head_stride=8 without head_level_width"),
        ({"head_stride": 16, "head_level_width": 64}, "stride 16"),
        ({"head_fusion_kernel": 5}, "fusion kernel 5"),
        ({"head_width": 0}, "width 0"),
    ],
)
def test_shapes_that_no_head_can_have(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build_model("destseg", **options)
