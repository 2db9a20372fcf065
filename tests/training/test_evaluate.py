"""What is evaluated on what: crop, masks, and photographs that no detector of the run can judge."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from segrd_edge.errors import DataError, FrameError
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.data import Photo, scan
from segrd_edge.training.evaluate import Evaluation, _detector_subject, evaluate_photos, photos_of_run
from segrd_edge.training.metrics import downsample_mask

SIZE_HW = (32, 32)
FRAME_HW = (80, 120)
CROP_XYWH = (40, 16, 64, 64)
SPOTS_XYWH = {  # white on black, in frame pixels
    "inside": [(60, 30, 12, 8)],
    "across the edge": [(30, 40, 20, 10)],  # its right half is inside
    "outside": [(4, 4, 12, 8)],
    "both": [(4, 4, 12, 8), (80, 60, 10, 10)],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good frames are black; a defect is white, and its mask is the frame."""
    for name in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (tmp_path / name).mkdir(parents=True)
    for split in ("train", "test"):
        cv2.imwrite(str(tmp_path / split / "good" / "0.png"), np.zeros((*FRAME_HW, 3), np.uint8))
    for name, boxes in SPOTS_XYWH.items():
        frame = np.zeros(FRAME_HW, np.uint8)
        for left, top, width, height in boxes:
            frame[top : top + height, left : left + width] = 255
        cv2.imwrite(str(tmp_path / "test/spot" / f"{name}.png"), frame)
        cv2.imwrite(str(tmp_path / "ground_truth/spot" / f"{name}_mask.png"), frame)
    return tmp_path


def evaluate(folder: Path, preprocess: Preprocess, photos: list[Photo] | None = None) -> Evaluation:
    """With a perfect detector: the map is the brightness of what the network sees, the score its maximum."""

    def predictor(frame: Any) -> tuple[Any, float]:
        anomaly_map = preprocess.resize(frame)[:, :, 0].astype(np.float32) / 255
        return anomaly_map, float(anomaly_map.max())

    return evaluate_photos(predictor, preprocess, scan(folder).evaluation() if photos is None else photos)


def test_without_a_crop_everything_counts(folder: Path) -> None:
    found = evaluate(folder, Preprocess(SIZE_HW))
    assert (found.metrics.images_defect, found.left_out, found.notice) == (4, [], None)
    assert found.metrics.image_auroc == 1
    assert found.to_dict()["images_left_out"] == 0


def test_a_defect_outside_the_crop_is_neither_an_escape_nor_a_good_part(folder: Path) -> None:
    found = evaluate(folder, Preprocess(SIZE_HW, crop_xywh=CROP_XYWH))
    assert [photo.path.stem for photo in found.left_out] == ["outside"]
    assert (found.metrics.images_good, found.metrics.images_defect, found.metrics.images_with_mask) == (1, 3, 3)
    assert found.metrics.defect_instances == 3  # of "both" one
    assert found.metrics.image_auroc == 1  # 5/6 if it counted as an escape
    assert min(found.defect_scores) == 1
    assert found.notice is not None
    assert "1 defect photograph is left out" in found.notice
    assert "outside.png" in found.notice
    assert json.loads(json.dumps(found.to_dict()))["images_left_out"] == 1


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_masks_are_cut_like_their_photographs(folder: Path, fit: Any) -> None:
    left, top, width, height = 40, 16, 70, 50
    preprocess = Preprocess(SIZE_HW, fit=fit, crop_xywh=(left, top, width, height))
    for result in evaluate(folder, preprocess).frames:
        if result.photo.mask is not None:
            mask = read_frame(result.photo.mask)[top : top + height, left : left + width, 0] > 0
            alone = Preprocess(SIZE_HW, fit=fit).placement((height, width))
            np.testing.assert_array_equal(result.mask, downsample_mask(mask, SIZE_HW, alone))


def test_a_defect_without_a_mask_counts_wherever_it_lies(folder: Path) -> None:
    (folder / "ground_truth/spot/outside_mask.png").unlink()
    found = evaluate(folder, Preprocess(SIZE_HW, crop_xywh=CROP_XYWH))
    assert (found.left_out, found.metrics.images_defect, found.metrics.images_without_mask) == ([], 4, 1)
    assert found.defect_scores.count(0) == 1


def test_nothing_to_evaluate(folder: Path) -> None:
    outside = [photo for photo in scan(folder).test if photo.path.stem == "outside"]
    preprocess = Preprocess(SIZE_HW, crop_xywh=CROP_XYWH)
    with pytest.raises(DataError, match="the defects of all 1 lie outside the crop"):
        evaluate(folder, preprocess, outside)
    with pytest.raises(DataError, match="there is no photograph to evaluate"):
        evaluate(folder, preprocess, [])
    only_good = evaluate(folder, preprocess, [photo for photo in scan(folder).test if not photo.is_defect] + outside)
    assert (only_good.metrics.image_auroc, only_good.by_kind, only_good.defect_scores) == (None, {}, [])


def test_a_photograph_that_the_crop_reaches_outside_of_is_named(folder: Path) -> None:
    cv2.imwrite(str(folder / "test/good/small.png"), np.zeros((60, 100, 3), np.uint8))
    with pytest.raises(FrameError, match=r"small\.png: a frame of 100×60 pixels, which the crop 40,16,64,64"):
        evaluate(folder, Preprocess(SIZE_HW, crop_xywh=CROP_XYWH))


@pytest.mark.parametrize("frame_hw", [None, (960, 1440)])
def test_network_images_go_to_the_engine_enlarged_where_its_graph_takes_frames(frame_hw: Any) -> None:
    preprocess = Preprocess((64, 96), fit="letterbox", crop_xywh=(300, 200, 700, 600))
    image = np.full((64, 96, 3), preprocess.fill, np.uint8)
    inner = preprocess.placement((960, 1440)).covered(image)
    inner[...] = np.kron(np.random.default_rng(0).integers(0, 256, (8, 7, 3)), np.ones((8, 11, 1)))[:, : inner.shape[1]]

    def run_engine(item: Any) -> Any:
        assert item.shape == (*(frame_hw or (64, 96)), 3)
        seen = item if frame_hw is None else preprocess.resize(item)
        return SimpleNamespace(anomaly_map=seen.mean(axis=2).astype(np.float32), score=0.5)

    graph = SimpleNamespace(frame_hw=frame_hw)
    manifest = SimpleNamespace(
        preprocess=preprocess.to_dict(), graphs={"fp16": graph}, data={"held_out_sha256": ["a"], "foreground": False},
        model=SimpleNamespace(training=SimpleNamespace(seed=3)),
    )  # fmt: skip
    subject = _detector_subject(
        SimpleNamespace(bundle=SimpleNamespace(manifest=manifest), precision="fp16", run_engine=run_engine)
    )
    assert (subject.held_out_sha256, subject.seed, subject.foreground) == (["a"], 3, False)
    anomaly_map, score = subject.on_images(image)
    assert score == 0.5
    difference = np.abs(anomaly_map - image.mean(axis=2))
    assert difference.max() < 1e-4 if frame_hw is None else difference.mean() < 2


def test_a_mask_of_another_size_is_named(folder: Path) -> None:
    cv2.imwrite(str(folder / "ground_truth/spot/inside_mask.png"), np.zeros((20, 30), np.uint8))
    with pytest.raises(DataError, match=r"inside_mask.png has 30×20 pixels") as caught:
        evaluate(folder, Preprocess(SIZE_HW))
    assert caught.value.expected == "120×80, as inside.png has"


def test_what_training_went_on_without_is_not_evaluated_on(folder: Path) -> None:
    """A mask of another size, and a test image that was trained on as well."""
    cv2.imwrite(str(folder / "ground_truth/spot/inside_mask.png"), np.zeros((20, 30), np.uint8))
    config = SimpleNamespace(data=str(folder))
    held_out: dict[str, Any] = {"held_out": []}
    run = SimpleNamespace(config=config, preprocess=Preprocess(SIZE_HW), data={**held_out, "problems": ["..."]})
    found = {path.path.name for path in photos_of_run(run)}
    assert found == {"across the edge.png", "outside.png", "both.png"}
    run.data["problems"] = []
    assert len(photos_of_run(run)) == 5
