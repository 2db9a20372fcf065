"""Every registered model, in one body; and what is DeSTSeg's alone."""

from __future__ import annotations

import pytest
import torch

from segrd_edge.errors import OptionError
from segrd_edge.training.backbone import ResNetFeatures
from segrd_edge.training.losses import distillation_loss, focal_loss, head_target
from segrd_edge.training.models import MODELS, build_model
from segrd_edge.training.models.destseg import PUBLISHED_BATCH, DeSTSeg


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size_hw", [(64, 64), (64, 96)])
@pytest.mark.parametrize("recipe_name", ["published", "short"])
def test_a_model_trains_its_phases(name: str, size_hw: tuple[int, int], recipe_name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, size_hw=size_hw)
    images = torch.randn(2, 3, *size_hw)
    batch = {"clean": images, "corrupted": images + 0.1, "mask": (torch.rand(2, 1, *size_hw) > 0.9).float()}
    teacher = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    assert sum(p.share_of_steps for p in model.phases()) == pytest.approx(1)
    assert sum(p.share_of_time for p in model.phases()) == pytest.approx(1)
    for phase in model.phases():
        phase.objective.train()
        recipe = getattr(phase, recipe_name)
        optimiser = recipe.optimiser([dict(g) for g in recipe.groups])
        before = [p.clone() for g in recipe.groups for p in g["params"]]
        phase.objective(batch).backward()
        optimiser.step()
        after = [p for g in recipe.groups for p in g["params"]]
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(v, teacher[k]) for k, v in model.teacher.state_dict().items())
    raw = model.eval()(images)
    assert raw.shape == (2, 1, size_hw[0] // 4, size_hw[1] // 4)


def test_published_size() -> None:
    parameters = sum(p.numel() for p in DeSTSeg().parameters())
    assert parameters == pytest.approx(35.15e6, rel=2e-3)  # algorithms: 35.15 M


@pytest.mark.parametrize(("backbone", "channels"), [("resnet34", 448), ("wide_resnet50_2", 1792)])
def test_other_backbones(backbone: str, channels: int) -> None:
    model = DeSTSeg(backbone, head_width=16).eval()
    assert model.products(torch.randn(1, 3, 64, 64)).shape == (1, channels, 16, 16)


def test_key_names_are_torchvisions() -> None:
    keys = set(ResNetFeatures("resnet18", 4).state_dict())
    for key in (
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.conv2.weight",
        "layer2.0.downsample.0.weight",
        "layer4.1.bn2.bias",
    ):
        assert key in keys
    assert "layer3.5.conv3.weight" in ResNetFeatures("wide_resnet50_2").state_dict()
    assert "layer4.0.conv1.weight" not in ResNetFeatures("resnet18", 3).state_dict()


def test_teacher_stays_in_eval_mode() -> None:
    model = DeSTSeg(head_width=16).train()
    assert not model.teacher.bn1.training
    model.phases()[1].objective.train()
    assert not model.student.encoder.bn1.training  # the head's phase keeps the student's statistics
    assert model.head.residual[0].bn1.training


def test_the_teacher_runs_once() -> None:
    model = DeSTSeg(head_width=16).eval()
    calls = []
    model.teacher.register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(1, 3, 64, 64))
    assert len(calls) == 1


def test_loss_of_the_published_batch_is_its_sum() -> None:
    teacher, student = [torch.randn(PUBLISHED_BATCH, 8, 4, 4)], [torch.randn(PUBLISHED_BATCH, 8, 4, 4)]
    cosine = torch.nn.functional.cosine_similarity(teacher[0], student[0], dim=1)
    published = ((1 - cosine).sum() / 16).item()
    assert PUBLISHED_BATCH * distillation_loss(teacher, student).item() == pytest.approx(published, rel=1e-5)


def test_focal_loss_against_its_definition() -> None:
    logits, target = torch.randn(50) * 3, (torch.rand(50) > 0.5).float()
    p = torch.sigmoid(logits)
    p_true = torch.where(target == 1, p, 1 - p)
    expected = ((1 - p_true) ** 4 * -torch.log(p_true)).mean()
    assert focal_loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-4)


def test_head_target_is_the_mean_of_the_central_pixels() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 0:16, 5] = 1  # a one-pixel line in a central column: 2 of 4 central pixels
    mask[..., 0:16, 8] = 1  # and one in an outer column: vanishes
    target = head_target(mask, (4, 4))[0, 0]
    assert target[:, 1].tolist() == [1, 1, 1, 1]
    assert target[:, 2].tolist() == [0, 0, 0, 0]


def test_unknown_names_and_options() -> None:
    with pytest.raises(OptionError, match="one of destseg"):
        build_model("nope")
    with pytest.raises(OptionError, match="head_width"):
        build_model("destseg", head_with=3)
    with pytest.raises(OptionError, match="resnet18, resnet34, wide_resnet50_2"):
        ResNetFeatures("resnet19")
