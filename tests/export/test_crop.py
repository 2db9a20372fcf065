"""The crop from segrd-train to the Detector: one rectangle, cut by every station."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segrd_edge.detector import Detector
from segrd_edge.export.bundle import export_bundle
from segrd_edge.export.report import write_report
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.backbone import ResNetFeatures
from segrd_edge.training.data import read_mask
from segrd_edge.training.evaluate import evaluate
from segrd_edge.training.predict import predict
from segrd_edge.training.run import RunConfig
from segrd_edge.training.train import train

from ..conftest import write_photos

CROP_XYWH = (40, 10, 40, 60)


def test_the_crop_of_a_run_is_the_crop_of_its_bundle(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    torch.manual_seed(0)
    torch.save(ResNetFeatures("resnet18", 3).state_dict(), tmp_path / "teacher.pth")
    preprocess = Preprocess((64, 64), fit="letterbox", crop_xywh=CROP_XYWH)
    config = RunConfig(
        data=str(photos),
        options={"head_width": 16, "head_fusion_kernel": 1},
        teacher=str(tmp_path / "teacher.pth"),
        preprocess=preprocess,
        steps=3,
        batch=4,
    )
    run = train(config, tmp_path / "run")
    assert run is not None
    assert run.preprocess == preprocess
    said: list[str] = []
    result = export_bundle(run, tmp_path / "part.segrd", int8=False, said=said.append)
    assert result.manifest.preprocess["crop_xywh"] == CROP_XYWH

    outside = sum(not read_mask(path)[10:70, 40:].any() for path in (photos / "ground_truth/spot").iterdir())
    assert outside > 0
    assert [f"{outside} defect photograph" in line for line in said if "left out" in line] == [True]
    by_run, by_bundle = (evaluate(model, photos) for model in (tmp_path / "run", result.path))
    assert len(by_run.left_out) == len(by_bundle.left_out) == outside
    np.testing.assert_allclose(by_run.defect_scores, by_bundle.defect_scores, atol=1e-4)
    metrics = result.manifest.graphs["fp32"].metrics
    assert metrics is not None
    assert metrics["images_left_out"] == outside

    frame = read_frame(photos / "test/spot/000.png")
    with Detector(result.path, threshold=0.0) as detector:  # everything is a region
        detector.self_test()
        (region,) = detector.inspect(frame).regions
        changed = frame.copy()
        changed[:, :40] = changed[:10] = changed[70:] = 0
        assert detector.inspect(changed).score == detector.inspect(frame).score
        assert detector.inspect(frame).score == pytest.approx(
            next(predict(run.model, preprocess, [frame])).score, abs=1e-4
        )
    assert region.box_xywh == CROP_XYWH

    for photograph in (photos / "test").glob("*/*.png"):
        photograph.unlink()
    for photograph in (photos / "train/good").iterdir():
        photograph.unlink()
    page = write_report(tmp_path / "part.html", run, result).read_text(encoding="utf-8")  # times a golden image
    assert "nothing else is looked at" in page
    assert "--crop 40,10,40,60" in page
