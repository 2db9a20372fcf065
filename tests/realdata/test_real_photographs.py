"""On the real photographs beside the checkout; everything here skips without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.backbone import ResNetFeatures
from segrd_edge.training.data import check, scan
from segrd_edge.training.evaluate import evaluate_photos
from segrd_edge.training.samples import GoodImages, TrainingSamples
from segrd_edge.training.synthesis import PerlinDefects, TextureFolder, foreground_mask
from segrd_edge.training.teacher import apply_weights, load_teacher


@pytest.mark.parametrize(
    ("category", "train", "good", "defects", "masks"),
    [
        ("mvtec_ad/bottle", 209, 20, 63, 63),
        ("bsdata/ball_screw", 180, 60, 80, 80),
        ("aws_l4v/circuitboard", 30, 20, 50, 0),
    ],
)
def test_layout(shared_data: Path, category: str, train: int, good: int, defects: int, masks: int) -> None:
    folder = scan(shared_data / category)
    assert len(folder.train) == train
    assert sum(not p.is_defect for p in folder.test) == good
    assert sum(p.is_defect for p in folder.test) == defects
    assert folder.counts["masks"] == masks


def test_the_data_check_accepts_a_clean_category(shared_data: Path) -> None:
    checked = check(scan(shared_data / "mpdd/metal_plate"))
    assert [p for p in checked.problems if "duplicate" not in p.what] == []


def test_imagenet_weights_are_a_teacher(shared_data: Path) -> None:
    """Stages 1-3 are all that a teacher needs, and its features tell a bottle from a fabric."""
    import torch

    weights = load_teacher(str(next((shared_data / "weights").glob("*.pth"))), "resnet18")
    assert weights.sha256.startswith("da33a35a")
    teacher = ResNetFeatures("resnet18", 3).eval()
    apply_weights(teacher, weights)
    from segrd_edge.training.maps import normalise

    preprocess = Preprocess()
    paths = [shared_data / name / "train/good" for name in ("mvtec_ad/bottle", "mvtec_ad/bottle", "aitex/fabric01")]
    frames = [read_frame(sorted(p.iterdir())[i]) for i, p in enumerate(paths)]
    images = torch.from_numpy(np.stack([preprocess.resize(f) for f in frames]))
    with torch.inference_mode():
        deep = teacher(normalise(images, preprocess))[2].mean(dim=(2, 3))
    same, other = (torch.cosine_similarity(deep[0], deep[i], dim=0).item() for i in (1, 2))
    assert same > 0.95 > other


def test_frames_of_different_sizes_evaluate(shared_data: Path) -> None:
    """Magnetic tiles differ in size; a predictor that knows the mask's place scores perfectly on pixels."""
    photos = [p for p in scan(shared_data / "magnetic_tile/magnetic_tile").test if p.kind in ("good", "crack")][-40:]
    preprocess = Preprocess(size_hw=(96, 160), fit="letterbox")

    def brightness(frame: np.ndarray) -> tuple[np.ndarray, float]:
        values = 1 - preprocess.resize(frame).mean(axis=2).astype(np.float32) / 255
        return values, float(values.max())

    result = evaluate_photos(brightness, preprocess, photos)
    assert result.metrics.images_good + result.metrics.images_defect == len(photos)


def test_defects_made_of_outside_textures_stay_on_the_bottle(shared_data: Path) -> None:
    preprocess = Preprocess()
    photos = scan(shared_data / "mvtec_ad/bottle").train[:4]
    good = GoodImages.load(photos, preprocess)
    assert all(mask is not None and 0.2 < mask.mean() < 0.9 for mask in good.foregrounds)
    samples = TrainingSamples(good, PerlinDefects(TextureFolder(shared_data / "textures")), seed=0)
    changed = [(samples[k]["clean"] != samples[k]["corrupted"]).numpy().any() for k in range(6)]
    assert sum(changed) >= 4


def test_a_fabric_has_no_foreground(shared_data: Path) -> None:
    path = sorted((shared_data / "aitex/fabric01/train/good").iterdir())[0]
    assert foreground_mask(Preprocess().resize(read_frame(path))) is None
