"""segrd-train and segrd-eval as a user types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from segrd_edge.commands import ENTRIES
from segrd_edge.console import build_app
from segrd_edge.errors import OptionError
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import shrink_or_grow
from segrd_edge.training import cli
from segrd_edge.training.data import read_mask
from segrd_edge.training.evaluate import evaluate
from segrd_edge.training.models import MODELS, build_model, profile_options
from segrd_edge.training.run import Run
from segrd_edge.training.train import default_options

SMALL = ["--steps", "3", "--batch", "4", "--size", "64", "--option", "head_width=16"]


def run(program: str, *arguments: str | Path) -> Result:
    entry = ENTRIES[program]
    command = cli.train if program == "segrd-train" else cli.evaluate
    app = build_app(command, name=program, example=entry.example, extra=entry.extra)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def last_json(result: Result) -> dict[str, object]:
    value = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(value, dict)
    return value


def test_train_then_evaluate(photos: Path, tmp_path: Path) -> None:
    trained = run("segrd-train", photos, "--out", tmp_path / "run", *SMALL, "--json")
    assert trained.exit_code == 0, trained.output
    assert last_json(trained)["steps"] == 3
    evaluated = run("segrd-eval", tmp_path / "run", photos, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    values = last_json(evaluated)
    for metric in cli.METRICS:
        assert 0 <= values[metric] <= 1  # type: ignore[operator]
    assert (values["images_good"], values["images_defect"], values["images_with_mask"]) == (4, 4, 4)


def test_the_synthetic_defects_are_the_models_own_or_those_asked_for(photos: Path, tmp_path: Path) -> None:
    def first_defects(name: str, *options: str) -> np.ndarray:
        small = ["--steps", "1", "--batch", "2", "--size", "64", "--model", "rdpp", *options]
        trained = run("segrd-train", photos, "--out", tmp_path / name, *small)
        assert trained.exit_code == 0, trained.output
        pictures = (cv2.imread(str(path)) for path in sorted((tmp_path / name / "synthetic").iterdir()))
        return np.array([picture[:, 64:128] for picture in pictures])  # of clean, corrupted and mask

    own = first_defects("a")
    assert np.array_equal(own, first_defects("b", "--defects", "simplex"))
    assert not np.array_equal(own, first_defects("c", "--defects", "nsa,perlin"))
    assert json.loads((tmp_path / "c/config.json").read_text())["defects"] == "nsa,perlin"
    assert Run.load(tmp_path / "c").map_spec.activation == "clip"
    wrong = run("segrd-train", photos, "--out", tmp_path / "d", "--defects", "smudge", "--steps", "1")
    assert isinstance(wrong.exception, OptionError) or "unknown synthetic defects 'smudge'" in wrong.output


def test_the_help_names_every_model() -> None:
    text = " ".join(run("segrd-train", "--help").output.split())
    assert [name for name in MODELS if name not in text] == []


def test_a_crop_trains_evaluates_and_says_what_it_leaves_out(photos: Path, tmp_path: Path) -> None:
    masks = [read_mask(path) for path in sorted((photos / "ground_truth/spot").iterdir())]
    inside = [mask[10:70, 40:80].any() for mask in masks]
    assert 0 < sum(inside) < len(inside)  # of the crop 40,10,40,60
    trained = run("segrd-train", photos, "--out", tmp_path / "run", *SMALL, "--crop", "40,10,40,60", "--json")
    assert trained.exit_code == 0, trained.output
    written = json.loads((tmp_path / "run/config.json").read_text())["preprocess"]
    assert written["crop_xywh"] == [40, 10, 40, 60]
    synthetic = cv2.imread(str(tmp_path / "run/synthetic/000.png"))  # the clean image is its left third
    cut = [read_frame(path)[10:70, 40:80] for path in (photos / "train/good").iterdir()]
    assert min(np.abs(synthetic[:, :64].astype(int) - shrink_or_grow(image, (64, 64))).max() for image in cut) <= 1
    evaluated = run("segrd-eval", tmp_path / "run", photos, "--json")
    values = last_json(evaluated)
    assert (values["images_defect"], values["images_left_out"]) == (sum(inside), len(inside) - sum(inside))
    assert "left out of the metrics" in evaluated.stderr


def test_metrics_without_masks_are_null(photos: Path, tmp_path: Path) -> None:
    for mask in (photos / "ground_truth/spot").iterdir():
        mask.unlink()
    run("segrd-train", photos, "--out", tmp_path / "run", *SMALL)
    values = last_json(run("segrd-eval", tmp_path / "run", photos, "--json"))
    assert values["image_auroc"] is not None
    assert [values[m] for m in ("pixel_auroc", "pixel_ap", "aupro", "iap", "iap90")] == [None] * 5


def test_without_defects_there_are_synthetic_ones_on_the_held_out_images(photos: Path, tmp_path: Path) -> None:
    for name in ("test", "ground_truth"):
        shutil.rmtree(photos / name)
    folder = tmp_path / "run"
    options = ["--fit", "letterbox", "--crop", "10,10,60,50"]
    assert run("segrd-train", photos, "--out", folder, *SMALL, *options).exit_code == 0
    refused = run("segrd-eval", folder, photos)
    assert refused.exit_code == 2
    assert "has no photographs of defects" in refused.stderr
    assert f"segrd-eval {folder} {photos} --synthetic" in refused.stderr

    evaluated = run("segrd-eval", folder, photos, "--synthetic", "--json")
    assert evaluated.exit_code == 0, evaluated.output
    values = last_json(evaluated)
    assert values["source"] == "synthetic defects on 8 held-out good images"
    assert (values["images_good"], values["images_without_mask"]) == (8, 0)
    assert set(values["by_kind"]) == {"synthetic perlin", "synthetic nsa", "synthetic simplex"}  # type: ignore[call-overload]
    assert "can do better on them than on real ones" in evaluated.stderr

    found = evaluate(folder, photos, synthetic=True)
    trained = Run.load(folder)
    assert {frame.photo.path for frame in found.frames} == set(trained.photo_paths("held_out"))
    good = [frame.score for frame in found.frames if not frame.photo.is_defect]
    assert np.allclose(good, trained.threshold["scores"], atol=1e-6)  # network images are taken as they are

    for path in trained.photo_paths("held_out"):
        path.unlink()
    gone = run("segrd-eval", folder, photos, "--synthetic")
    assert (gone.exit_code, "none of the 8 good images held out from training" in gone.stderr) == (2, True)


def test_a_profile_stands_for_options_and_an_option_wins(photos: Path, tmp_path: Path) -> None:
    small = ["--model", "destseg", "--steps", "1", "--batch", "2", "--size", "64", "--profile", "fast"]
    small += ["--option", "head_width=16"]
    trained = run("segrd-train", photos, "--out", tmp_path / "run", *small)
    assert trained.exit_code == 0, trained.output
    options = Run.load(tmp_path / "run").config.options
    assert options == {**profile_options("destseg", "fast"), "head_width": 16}
    assert options["head_fusion_kernel"] == 1


def test_minutes_bring_a_smaller_head_and_steps_the_published_one() -> None:
    assert default_options("segrdpp", minutes=None) == {}
    assert default_options("segrdpp", minutes=8) == profile_options("segrdpp", "balanced") != {}
    assert default_options("adps", minutes=8) == {}
    assert default_options("rd", minutes=8) == {}  # it has no head


@pytest.mark.parametrize("name", ["destseg", "segrdpp"])
def test_each_profile_takes_less_than_the_one_before(name: str) -> None:
    with torch.device("meta"):
        accurate, balanced, fast = (
            sum(p.numel() for p in build_model(name, **profile_options(name, profile)).head.parameters())
            for profile in ("accurate", "balanced", "fast")
        )
    assert accurate > 4 * balanced > 8 * fast


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "100"], "network size 100x100 cannot be used"),
        (["--size", "large"], "--size large"),
        (["--crop", "0,0,40"], "--crop 0,0,40"),
        (["--crop", "0,0,40,0"], "crop 0,0,40,0 cannot be used"),
        (["--crop", "20,0,61,80"], "a frame of 80×80 pixels, which the crop 20,0,61,80"),
        (["--steps", "3", "--minutes", "1"], "a budget of steps=3 and minutes=1.0"),
        (["--minutes", "nan"], "--minutes nan"),
        (["--minutes", "inf"], "--minutes inf"),
        (["--steps", "0"], "--steps 0"),
        (["--false-reject", "50"], "50"),
        (["--teacher", "nowhere.pth"], "neither a known name nor a file"),
        (["--model", "segrd"], "unknown model 'segrd'"),
        (["--batch", "1"], "a batch of 1"),
        (["--rotation", "some"], "--rotation some"),
        (["--option", "head_width"], "--option head_width"),
        (["--profile", "quick", "--model", "destseg"], "the model destseg has no profile 'quick'"),
        (["--profile", "fast", "--model", "rd"], "a model that has profiles: destseg, segrdpp, adps"),
        (["--textures", "nowhere"], "no pictures in the texture folder"),
    ],
)
def test_bad_options(photos: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    small = [] if arguments[0] in ("--steps", "--size", "--minutes") else SMALL
    result = run("segrd-train", photos, "--out", tmp_path / "run", *small, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_bad_folders(photos: Path, tmp_path: Path) -> None:
    nowhere = run("segrd-train", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert (nowhere.exit_code, "is not a folder" in nowhere.stderr) == (2, True)
    no_run = run("segrd-eval", photos, photos)
    assert (no_run.exit_code, "is not a run" in no_run.stderr) == (2, True)


def test_options_are_read_as_json() -> None:
    assert cli.parse_options(["a=1", "b=x", "c=true"]) == {"a": 1, "b": "x", "c": True}
    with pytest.raises(OptionError, match="NAME=VALUE"):
        cli.parse_options(["=1"])
