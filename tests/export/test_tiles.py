"""The tile plan from segrd-train to the Detector: photographs of several sizes, cut by every station alike."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segrd_edge import memory
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.detector import Detector
from segrd_edge.errors import DataError, OptionError
from segrd_edge.export.bundle import export_bundle
from segrd_edge.export.target import Target
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.backbone import ResNetFeatures
from segrd_edge.training.data import check, scan
from segrd_edge.training.evaluate import evaluate
from segrd_edge.training.run import Run, RunConfig
from segrd_edge.training.samples import GoodImages
from segrd_edge.training.train import train

from ..conftest import texture, write_photos

PREPROCESS = Preprocess((64, 64), tile_hw=(96, 96), overlap=0.25)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Most photographs are 240×150 pixels (three by two tiles), some 96×150 (one by two)."""
    root = write_photos(tmp_path_factory.mktemp("tiles") / "photos", test_good=2, defects=3, size_hw=(150, 240))
    for seed, name in enumerate(("train/good/000.png", "test/good/000.png")):
        cv2.imwrite(str(root / name), texture(np.random.default_rng(seed), (150, 96)))
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    torch.save(ResNetFeatures("resnet18", 3).state_dict(), folder / "teacher.pth")
    teacher = str(folder / "teacher.pth")
    config = RunConfig(data=str(photos), model="stfpm", teacher=teacher, preprocess=PREPROCESS, steps=3, batch=4)
    trained = train(config, folder / "run")
    assert trained is not None
    return trained


def test_every_tile_trains(photos: Path) -> None:
    good = GoodImages.load(scan(photos).train, PREPROCESS)
    assert {image.shape for image in good.images} == {(64, 64, 3)}
    assert len(good.images) == len(good.foregrounds) == 19 * 6 + 2


def test_a_run_with_tiles_becomes_a_detector_with_tiles(run: Run, photos: Path, tmp_path: Path) -> None:
    result = export_bundle(run, tmp_path / "part.segrd", settings=Int8Settings(frames=32))
    assert Preprocess.from_dict(result.manifest.preprocess) == PREPROCESS
    calibration = result.manifest.calibration
    assert calibration is not None
    tiles = [tile for path in run.photo_paths("train") for tile in PREPROCESS.network_images(read_frame(path))]
    good = [chosen.pixels_sha256 for chosen in calibration.frames if chosen.kind == "good"]
    assert len(set(good)) == 16
    assert set(good) <= {hashlib.sha256(tile.tobytes()).hexdigest() for tile in tiles}
    frame = read_frame(photos / "test/spot/000.png")
    with Detector(result.path, precision="fp32", threshold=0.0) as detector:
        detector.self_test()
        inspection = detector.inspect(frame)
    assert inspection.anomaly_map.shape == (100, 160)
    assert inspection.map_in_frame().shape == (150, 240)
    in_torch, on_engine = evaluate(run.folder, photos), evaluate(result.path, photos, precision="fp32")
    assert [f.score for f in in_torch.frames] == pytest.approx([f.score for f in on_engine.frames], abs=1e-4)
    assert sorted({f.anomaly_map.shape for f in in_torch.frames}) == [(100, 64), (100, 160)]
    recorded = result.manifest.graphs["fp32"].metrics
    assert recorded is not None
    assert recorded["pixel_ap"] == pytest.approx(on_engine.metrics.pixel_ap, abs=1e-3)
    synthetic = evaluate(result.path, photos, precision="fp32", synthetic=True)
    masks = [f.mask for f in synthetic.frames if f.mask is not None]
    assert max(mask.shape[1] for mask in masks) == 160
    # A synthetic defect stays within the window of one tile's size that it was painted into.
    assert max(int(np.ptp(np.flatnonzero(mask.any(axis=0)))) for mask in masks) < 64


def test_small_photographs_are_found_by_the_check(photos: Path) -> None:
    preprocess = Preprocess((64, 64), tile_hw=(100, 100))
    problems = check(scan(photos), preprocess).problems
    assert sorted(problem.path.name for problem in problems) == ["000.png", "000.png"]
    assert "96×150" in str(problems[0])
    assert "one tile of 100×100" in str(problems[0])


def test_what_the_memory_does_not_hold_is_refused_beforehand(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 20 * 100 * 160 * 4 - 1)
    with pytest.raises(DataError, match="keeping 20 photographs of 160×100 pixels") as caught:
        GoodImages.load([*scan(photos).train[1:], *scan(photos).train[1:2]], PREPROCESS)
    assert "--tile" in caught.value.fix


def test_tiles_are_not_cut_inside_a_graph() -> None:
    with pytest.raises(OptionError, match="a network with tiles"):
        Target("tensorrt", frame_hw=(150, 240)).check(PREPROCESS)
