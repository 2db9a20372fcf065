"""The fit loop: budgets, exact resume, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segrd_edge.errors import DataError, OptionError, TrainingError
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.backbone import ResNetFeatures
from segrd_edge.training.fit import Budget, StepReport
from segrd_edge.training.run import Run, RunConfig
from segrd_edge.training.samples import TrainingSamples
from segrd_edge.training.train import train


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> RunConfig:
    torch.manual_seed(0)
    torch.save(ResNetFeatures("resnet18", 3).state_dict(), tmp_path / "teacher.pth")
    return RunConfig(
        data=str(photos),
        model="destseg",
        teacher=str(tmp_path / "teacher.pth"),
        options={"head_width": 16, "head_fusion_kernel": 1},
        preprocess=Preprocess(size_hw=(64, 64)),
        steps=5,
        batch=4,
    )


def test_an_interrupted_run_ends_as_an_uninterrupted_one(config: RunConfig, tmp_path: Path) -> None:
    assert train(config, tmp_path / "a") is not None
    assert train(config, tmp_path / "b", stop_after=3) is None  # within the second phase
    assert train(config, tmp_path / "b", resume=True) is not None
    with pytest.raises(TrainingError, match="has finished: there is nothing to resume"):
        train(config, tmp_path / "b", resume=True)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
    logs = [(tmp_path / name / "log.csv").read_text() for name in "ab"]
    assert logs[0] == logs[1]
    assert len(logs[0].splitlines()) == 1 + 5


def test_the_student_learns(config: RunConfig, tmp_path: Path) -> None:
    reports: list[StepReport] = []
    train(replace(config, steps=40), tmp_path / "run", listener=reports.append)
    student = [r.loss for r in reports if r.phase == "student"]
    assert len(student) == 8
    assert student[-1] < 0.9 * student[0]


def test_minutes_are_kept_and_end_with_a_small_rate(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which every step takes 0.3 s."""
    ticks = count(0, 0.1)
    monkeypatch.setattr("segrd_edge.training.fit.time.monotonic", lambda: next(ticks))
    reports: list[StepReport] = []
    run = train(replace(config, steps=None, minutes=0.1), tmp_path / "run", listener=reports.append)
    assert run is not None
    assert run.record["seconds"] == pytest.approx(6, abs=0.5)
    for phase in ("student", "head"):
        rates = [r.rate for r in reports if r.phase == phase]
        assert len(rates) > 10
        assert rates[-1] < 0.1 * max(rates)
        assert max(rates) <= 1e-3


def test_making_the_samples_is_part_of_the_budget(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that only samples move, by 0.1 s each: six seconds are sixty samples, fifteen steps of four."""
    passed = [0.0]
    item = TrainingSamples.__getitem__

    def slow(samples: TrainingSamples, k: int) -> dict[str, torch.Tensor]:
        passed[0] += 0.1
        return item(samples, k)

    monkeypatch.setattr(TrainingSamples, "__getitem__", slow)
    monkeypatch.setattr("segrd_edge.training.fit.time.monotonic", lambda: passed[0])
    run = train(replace(config, steps=None, minutes=0.1), tmp_path / "run")
    assert run is not None
    assert run.record["steps"] == pytest.approx(15, abs=1)


def test_without_a_budget_training_is_as_long_as_published(config: RunConfig, tmp_path: Path) -> None:
    said: list[str] = []
    plain = replace(config, model="stfpm", options={}, steps=None)
    assert train(plain, tmp_path / "run", stop_after=1, said=said.append) is None
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    train_images = len(json.loads((tmp_path / "run" / "data.json").read_text())["train"])
    assert written["steps"] == 100 * train_images / 4
    assert any(line.startswith(f"{written['steps']} steps") for line in said)
    with pytest.raises(OptionError, match="a budget of steps=5 and minutes=1"):
        train(replace(config, minutes=1), tmp_path / "both")


def test_processor_minutes_do_not_count_what_others_take(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock runs a hundred times as fast; a step still counts what the processor's clock says."""
    walls, processor = count(0, 10.0), count(0, 0.1)
    monkeypatch.setattr("segrd_edge.training.fit.time.monotonic", lambda: next(walls))
    monkeypatch.setattr("segrd_edge.training.fit.time.process_time", lambda: next(processor))
    run = train(replace(config, steps=None, minutes=0.05, clock="processor"), tmp_path / "run")
    assert run is not None
    assert run.record["seconds"] == pytest.approx(3, abs=0.2)
    assert run.record["steps"] == pytest.approx(30, abs=1)


def test_a_run_says_what_it_was_made_of(config: RunConfig, photos: Path, tmp_path: Path) -> None:
    train(config, tmp_path / "run")
    run = Run.load(tmp_path / "run")
    assert run.config == config
    assert run.record["steps"] == 5
    assert len(run.data["train"]) + len(run.data["held_out"]) == 20
    assert len(run.threshold["scores"]) == run.threshold["n_good"] == 8
    assert len(list((tmp_path / "run/synthetic").glob("*.png"))) == 12
    assert not (tmp_path / "run/checkpoint.pt").exists()
    (photos / "train/good" / Path(run.data["train"][0]["file"]).name).unlink()
    with pytest.raises(TrainingError, match=r"1 of 12 train photographs .* are gone"):
        run.photo_paths("train")


def test_bad_photographs_stop_a_run_unless_told(config: RunConfig, photos: Path, tmp_path: Path) -> None:
    (photos / "train/good/003.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"003\.png: cannot be read"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = train(config, tmp_path / "run", skip_bad=True)
    assert run is not None
    assert len(run.data["train"]) + len(run.data["held_out"]) == 19


def test_a_run_is_not_overwritten(config: RunConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run", stop_after=1)
    with pytest.raises(TrainingError, match="has not finished"):
        Run.load(tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run already"):
        train(config, tmp_path / "run")
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(config, tmp_path / "other", resume=True)


def test_a_run_is_not_resumed_on_other_photographs(config: RunConfig, photos: Path, tmp_path: Path) -> None:
    train(config, tmp_path / "run", stop_after=1)
    (photos / "train/good/004.png").unlink()
    with pytest.raises(TrainingError, match="are not those that the run"):
        train(config, tmp_path / "run", resume=True)


def test_a_damaged_checkpoint(config: RunConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run", stop_after=1)
    (tmp_path / "run/checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(TrainingError, match="cannot be resumed"):
        train(config, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("steps", "minutes", "said"),
    [
        (None, None, "budget"),
        (10, 1.0, "budget"),
        (0, None, "--steps 0"),
        (None, -1.0, "--minutes -1"),
        (None, float("nan"), "--minutes nan"),
    ],
)
def test_budgets_that_make_no_sense(steps: int | None, minutes: float | None, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Budget(steps, minutes)


def test_a_budget_of_steps_keeps_the_published_rate() -> None:
    assert {Budget(steps=100).rate_factor(p) for p in (0, 0.5, 0.99)} == {1.0}


def test_a_recipe_drops_its_rates_where_it_says(photos: Path, tmp_path: Path) -> None:
    """ADPS: a fifth from 80 % of the steps on, a fifth of that from 90 %."""
    torch.manual_seed(0)
    torch.save(ResNetFeatures("resnet18", 3).state_dict(), tmp_path / "teacher.pth")
    config = RunConfig(
        data=str(photos),
        model="adps",
        teacher=str(tmp_path / "teacher.pth"),
        options={"head_width": 16},
        preprocess=Preprocess(size_hw=(32, 32)),
        steps=10,
        batch=4,
    )
    reports: list[StepReport] = []
    train(config, tmp_path / "run", listener=reports.append)
    assert [r.rate for r in reports] == pytest.approx([1e-4] * 8 + [2e-5, 4e-6])


@pytest.mark.parametrize("model", ["rbd", "nferd"])
def test_what_a_phase_draws_and_fills_survives_an_interruption(config: RunConfig, tmp_path: Path, model: str) -> None:
    config = replace(config, model=model, options={})
    assert train(config, tmp_path / "a") is not None
    assert train(config, tmp_path / "b", stop_after=2) is None
    assert train(config, tmp_path / "b", resume=True) is not None
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
