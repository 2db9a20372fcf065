"""A fine-tune with INT8 in the loop: it rounds as INT8 does, and brings the INT8 form nearer to float."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.training import qat
from segrd_edge.training.backbone import BasicBlock, freeze
from segrd_edge.training.data import scan
from segrd_edge.training.fit import Budget
from segrd_edge.training.maps import normalise
from segrd_edge.training.phases import Batch
from segrd_edge.training.qat import Grid, Grids, Imitation, Rounding, RoundingConv, fine_tune, with_rounding
from segrd_edge.training.run import Run, RunConfig
from segrd_edge.training.samples import TrainingSamples
from segrd_edge.training.train import create_samples

COARSE = Grid(40.0)  # activations reach 2 to 8: few steps are left for them


class Tiny(nn.Module):
    """Raw output: squared distance of two small networks, with BatchNorm and a residual block in one of them."""

    defects: ClassVar[tuple[str, ...]] = ("perlin",)

    def __init__(self) -> None:
        super().__init__()
        self.teacher = freeze(nn.Conv2d(3, 16, 3, 4, 1))
        self.student = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1, bias=False), nn.BatchNorm2d(16), BasicBlock(16, 16))
        self.map_spec = MapSpec("clip", 0.0, 10)

    def forward(self, images: Tensor) -> Tensor:
        return (self.teacher(images) - self.student(images)).square().mean(dim=1, keepdim=True)


@pytest.fixture
def run(tmp_path: Path, photos: Path) -> Run:
    torch.manual_seed(0)
    model = Tiny()
    model.train()
    model(torch.randn(8, 3, 64, 64))  # statistics
    config = RunConfig(data=str(photos), model="destseg", preprocess=Preprocess(size_hw=(64, 64)), batch=4)
    return Run(tmp_path, config, model.eval(), {}, {}, {})


GRIDS = Grids(
    {"student.0": Grid(3.0), "student.2.conv1": COARSE, "student.2.conv2": COARSE, "teacher": Grid(3.0)},
    {"student.2": COARSE},
)


def test_activations_round_to_the_grid_and_pass_the_gradient() -> None:
    x = torch.tensor([0.26, -0.74, 300.0, -300.0]).reshape(1, 4, 1, 1).requires_grad_()
    rounded = Rounding(Grid(127 * 0.5))(x)
    assert rounded.flatten().tolist() == [0.5, -0.5, 63.5, -64.0]
    rounded.sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1, 1, 0, 0]  # none where it is clipped


def test_a_convolution_is_that_of_the_rounded_weights() -> None:
    """By hand, with factors on the input as equalisation puts them there."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 8, 1), torch.randn(1, 4, 5, 5)
    factors = np.array([1, 2, 0.5, 4], np.float32)
    weight = conv.weight.detach().numpy()[:, :, 0, 0] / factors
    scale = np.abs(weight).max(axis=1, keepdims=True) / 127
    inputs = np.clip(np.rint(x.numpy()[0].reshape(4, -1) * factors[:, None] / (5 / 127)), -128, 127) * (5 / 127)
    wanted = (np.rint(weight / scale) * scale) @ inputs
    assert conv.bias is not None
    got = RoundingConv(conv, Grid(5.0, factors))(x)[0].reshape(8, -1) - conv.bias[:, None]
    np.testing.assert_allclose(got.detach().numpy(), wanted, atol=1e-5)


def test_batch_norm_behind_needs_no_folding() -> None:
    """Rounding w and scaling its output channels is scaling and rounding w."""
    torch.manual_seed(0)
    conv, factors = nn.Conv2d(4, 8, 3, bias=False), torch.randn(8, 1, 1, 1)
    folded = nn.Conv2d(4, 8, 3, bias=False)
    folded.weight = nn.Parameter(conv.weight * factors)
    x = torch.randn(1, 4, 7, 7)
    one, other = (RoundingConv(c, Grid(3.0))(x) for c in (conv, folded))
    torch.testing.assert_close(one * factors[:, 0], other, atol=1e-5, rtol=1e-4)


def test_the_copy_has_the_same_state_and_the_model_stays(run: Run) -> None:
    images = torch.randn(1, 3, 64, 64)
    before = run.model(images)
    rounding = with_rounding(run.model, GRIDS)
    assert rounding.state_dict().keys() == run.model.state_dict().keys()
    assert not torch.allclose(rounding(images), before, rtol=1e-2)
    assert torch.equal(run.model(images), before)


def test_the_shortcut_is_rounded_too(run: Run) -> None:
    images = torch.randn(1, 3, 64, 64)
    skip = with_rounding(run.model, Grids({}, {"student.2": COARSE}))
    assert not torch.allclose(skip(images), run.model(images), rtol=1e-2)


def test_a_fine_tune_lowers_the_error_of_int8(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qat, "LEARNING_RATE", 1e-4)  # the network is small, and so is the number of steps
    photos = scan(run.config.data).train
    budget = Budget(steps=60)
    tuned, position = fine_tune(run, GRIDS, [p.path for p in photos], budget, checkpoint=tmp_path / "qat.pt")
    before, after = (error(model, run, create_samples(run.config, photos)) for model in (run.model, tuned))
    assert position.total_steps == 60
    assert after < 0.7 * before
    old, new = run.model.state_dict(), tuned.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert "student.2.conv1.weight" in changed
    assert not any(name.startswith("teacher.") or "running_" in name for name in changed)
    assert not tuned.training


@torch.no_grad()
def error(model: nn.Module, run: Run, samples: TrainingSamples) -> float:
    """Of the model in INT8 from the run's in float, on samples that it did not see."""
    items = [samples[1000 + k] for k in range(8)]
    images = {name: normalise(torch.stack([i[name] for i in items]), run.preprocess) for name in ("clean", "corrupted")}
    mask = torch.stack([item["mask"] for item in items]).unsqueeze(1).float()
    batch = Batch(clean=images["clean"], corrupted=images["corrupted"], mask=mask)
    return float(Imitation(with_rounding(model, GRIDS), run.model)(batch))


@torch.no_grad()
def test_nothing_is_left_to_imitate_without_rounding(run: Run) -> None:
    images = torch.randn(2, 3, 64, 64)
    batch = Batch(clean=images, corrupted=-images, mask=torch.zeros(2, 1, 64, 64))
    assert float(Imitation(run.model, run.model)(batch)) == 0
