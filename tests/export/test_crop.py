"""The crop from segrd-train to the Detector: one rectangle, cut by every station."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.detector import Detector
from segrd_edge.export.bundle import export_bundle
from segrd_edge.export.target import Target
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
        model="destseg",
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
    target = Target("tensorrt", frame_hw=(80, 80), batch=2)
    result = export_bundle(
        run, tmp_path / "part.segrd", int8=False, target=target, settings=Int8Settings(frames=4), said=said.append
    )
    assert result.manifest.preprocess["crop_xywh"] == CROP_XYWH

    outside = sum(not read_mask(path)[10:70, 40:].any() for path in (photos / "ground_truth/spot").iterdir())
    assert outside > 0
    assert [f"{outside} defect photograph" in line for line in said if "left out" in line] == [True]
    assert len(evaluate(tmp_path / "run", photos).left_out) == outside
    for record in result.manifest.graphs.values():
        assert record.metrics is not None
        assert record.metrics["images_left_out"] == outside

    frame = read_frame(photos / "test/spot/000.png")
    with Detector(result.path, precision="fp32", threshold=0.0) as detector:  # everything is a region
        detector.self_test()
        inspection = detector.inspect(frame)
        (region,) = inspection.regions
        changed = frame.copy()
        changed[:, :40] = changed[:10] = changed[70:] = 0
        assert detector.inspect(changed).score == inspection.score
        assert inspection.score == pytest.approx(next(predict(run.model, preprocess, [frame])).score, abs=1e-4)
    assert region.box_xywh == CROP_XYWH
    with Detector(result.path, engine="onnxruntime", precision="fp16", threshold=0.0) as detector:
        assert (detector.takes_frames, detector.batch) == (True, 2)  # the graph cuts and resizes, two frames at once
        detector.self_test()
        whole, other = detector.inspect_batch([frame, changed])
        # ONNX Runtime sums an item in another order with its place in the batch, on several threads.
        assert whole.score == pytest.approx(other.score, abs=1e-6)
        assert whole.score == pytest.approx(inspection.score, abs=5e-3)
        assert whole.regions[0].box_xywh == CROP_XYWH
