"""Every registered model, in one body; and what is DeSTSeg's alone."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from segrd_edge.errors import OptionError
from segrd_edge.training.backbone import ResNetFeatures, l2_normalise
from segrd_edge.training.losses import distillation_loss, flattened_distillation_loss, focal_loss, head_target
from segrd_edge.training.models import MODELS, build_model, published_steps
from segrd_edge.training.models.destseg import PUBLISHED_BATCH, DeSTSeg
from segrd_edge.training.phases import half_corrupted
from segrd_edge.training.synthesis import DEFECTS
from segrd_edge.training.train import default_batch


def small(name: str, **options: Any) -> Any:
    """A model with a narrow head and few prototypes where it has them."""
    taken = inspect.signature(MODELS[name]).parameters
    narrow = {option: 16 for option in ("head_width", "prototypes") if option in taken}
    return build_model(name, **narrow, **options)


def small_batch(size_hw: tuple[int, int] = (64, 64), count: int = 2) -> Any:
    images = torch.randn(count, 3, *size_hw)
    mask = (torch.rand(count, 1, *size_hw) > 0.9).float()
    return {"clean": images, "corrupted": images + 2 * mask, "mask": mask}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size_hw", [(64, 64), (64, 96)])
@pytest.mark.parametrize("recipe_name", ["published", "short"])
def test_a_model_trains_its_phases(name: str, size_hw: tuple[int, int], recipe_name: str) -> None:
    torch.manual_seed(0)
    model = small(name, size_hw=size_hw)
    images = torch.randn(2, 3, *size_hw)
    batch = small_batch(size_hw)
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
    assert raw.shape in [(2, 1, size_hw[0] // shrunk, size_hw[1] // shrunk) for shrunk in (1, 4)]


def test_both_readings_of_reconstruction_based_distillation() -> None:
    """What each loss is made of, by hand."""
    torch.manual_seed(0)
    model = small("rbd", degraded="images", consistency=0.5).eval()
    batch = small_batch()
    loss = model.phases()[0].objective(batch).item()
    images, _ = half_corrupted(batch)
    with torch.no_grad():
        clean, seen = model.teacher(batch["clean"]), model.teacher(images)
        predicted, goal = model.student(seen), model.student(clean)
        wanted = flattened_distillation_loss(clean, predicted) + 0.5 * distillation_loss(goal, predicted)
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    assert not [name for name, _ in model.named_parameters() if "mask" in name]  # nothing is hidden
    with pytest.raises(OptionError, match="degraded='pixels'"):
        small("rbd", degraded="pixels")


@pytest.mark.parametrize(("name", "batch"), [("destseg", 32), ("stfpm", 32), ("rd", 16), ("rdpp", 16), ("segrdpp", 16)])
def test_steps_take_the_published_batch(name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_batch(name, None) == batch
    for has_gpu, expected in ((False, 4), (True, batch)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert default_batch(name, 8.0) == expected


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_exactly_the_parameters_of_a_phase(name: str) -> None:
    torch.manual_seed(0)
    model = small(name)
    trained = set()
    for phase in model.phases():
        wanted = {id(p) for group in phase.published.groups for p in group["params"]}
        assert wanted == {id(p) for group in phase.short.groups for p in group["params"]}
        model.requires_grad_(False)
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in wanted)
            parameter.grad = None
        phase.objective.train()
        phase.objective(small_batch()).backward()
        reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        missed = {name for name, p in model.named_parameters() if id(p) in wanted} - reached
        # A bias in front of a normalisation has no effect. Clean and corrupted image are normalised together.
        assert not {m for m in missed if not m.startswith("student.encoder.projection")}
        assert not any(m.endswith(".weight") for m in missed)
        trained |= wanted
    assert trained == {id(p) for n, p in model.named_parameters() if not n.startswith("teacher.")}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_two_images(name: str) -> None:
    torch.manual_seed(0)
    model, batch = small(name), small_batch()
    for phase in model.phases():
        optimiser = phase.short.optimiser([dict(g) for g in phase.short.groups])
        phase.objective.train()
        losses = []
        for _ in range(8):
            optimiser.zero_grad()
            loss = phase.objective(batch)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert min(losses[-3:]) < 0.95 * losses[0], phase.name


@pytest.mark.parametrize("name", MODELS)
def test_an_image_gives_the_same_in_any_batch_and_after_training_mode(name: str) -> None:
    torch.manual_seed(0)
    model, images = small(name).eval(), torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        alone = model(images[1:2])
        assert torch.allclose(model(images)[1:2], alone, atol=1e-4 * float(alone.abs().max()))
        assert torch.equal(model.train().eval()(images[1:2]), alone)
    assert not any(module.training for module in model.train().teacher.modules())


@pytest.mark.parametrize("name", MODELS)
def test_parts_are_named_as_the_calibration_scopes_expect(name: str) -> None:
    model = small(name)
    parts = {n.split(".")[0] for n, _ in model.named_parameters()}
    assert {"teacher", "student"} <= parts <= {"teacher", "student", "head", "full_size"}
    students = {n.split(".")[1] for n, _ in model.named_parameters() if n.startswith("student.")}
    assert {"encoder"} <= students <= {"encoder", "decoder", "fusion"}
    stages = {n.split(".")[2] for n, _ in model.named_parameters() if n.startswith("student.decoder.")}
    assert not stages or {"stage1", "stage2", "stage3"} <= stages
    assert set(model.defects) <= set(DEFECTS)


@pytest.mark.parametrize("name", MODELS)
def test_the_model_takes_a_wide_teacher(name: str) -> None:
    with torch.device("meta"):  # shapes alone: a hundred million weights take their time
        model = build_model(name, backbone="wide_resnet50_2").eval()
        assert model(torch.randn(1, 3, 32, 96)).shape in [(1, 1, 8, 24), (1, 1, 32, 96)]


@pytest.mark.parametrize(
    ("name", "backbone", "million"),  # algorithms
    [
        ("destseg", "resnet18", 35.15),
        ("rd", "resnet18", 18.17),
        ("rd", "wide_resnet50_2", 108.7),
        ("rdpp", "wide_resnet50_2", 124.2),
        ("segrdpp", "resnet18", 27.25),
        ("rbd", "resnet18", 18.17),
        ("stfpm", "resnet18", 5.57),
        ("adps", "wide_resnet50_2", 54.0),
    ],
)
def test_published_sizes(name: str, backbone: str, million: float) -> None:
    with torch.device("meta"):
        model = build_model(name, backbone=backbone)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(million, rel=3e-3)


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


@pytest.mark.parametrize(("stride", "end"), [(1, "full_size.out"), (2, "head.out"), (4, "head.out")])
def test_adps_with_fewer_logits_than_pixels(stride: int, end: str) -> None:
    torch.manual_seed(0)
    model = small("adps", size_hw=(64, 96), head_stride=stride)
    assert model.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 1, 64 // stride, 96 // stride)
    assert [n for n, module in model.named_modules() if getattr(module, "out_channels", 0) == 1] == [end]
    (phase,) = model.phases()
    optimiser = phase.short.optimiser(phase.short.groups)
    batch, losses = small_batch((64, 96)), []
    for _ in range(12):
        loss = phase.objective.train()(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_stride_that_adps_has_no_stage_for() -> None:
    with pytest.raises(OptionError, match="head_stride 8\nexpected: 1, 2 or 4"):
        small("adps", head_stride=8)


@pytest.mark.parametrize("name", MODELS)
def test_the_teacher_runs_once(name: str) -> None:
    model = small(name).eval()
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


@pytest.mark.parametrize(
    ("name", "images", "batch", "steps"),
    [
        ("destseg", 200, 32, 5000),
        ("segrdpp", 10, 16, 5000),
        ("adps", 209, 32, 1960),
        ("rd", 209, 16, 2613),
        ("stfpm", 8, 32, 25),
    ],
)
def test_a_published_schedule_is_in_steps_or_epochs(name: str, images: int, batch: int, steps: int) -> None:
    assert published_steps(name, images, batch) == steps


def test_an_all_zero_pixel_has_a_finite_gradient() -> None:
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    l2_normalise(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
