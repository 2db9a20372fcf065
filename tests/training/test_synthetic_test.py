"""The test set of synthetic defects: what is in it, where they lie, and what detectors get on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segrd_edge.errors import DataError, FrameError, OptionError
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess
from segrd_edge.training import synthetic_test
from segrd_edge.training.evaluate import Evaluation
from segrd_edge.training.synthesis import DEFECTS
from segrd_edge.training.synthesis.patches import VISIBLE_CHANGE
from segrd_edge.training.synthetic_test import (
    MOST_PHOTOGRAPHS,
    SyntheticFrame,
    evaluate_frames,
    synthetic_frames,
)

from ..conftest import texture

FRAME_HW = (96, 144)
PREPROCESSES = {
    "stretch": Preprocess((64, 96)),
    "crop": Preprocess((64, 64), crop_xywh=(30, 20, 70, 60)),
    "letterbox": Preprocess((96, 96), fit="letterbox"),
    "letterboxed crop": Preprocess((128, 160), fit="letterbox", crop_xywh=(30, 20, 50, 60)),
}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return _write(tmp_path_factory.mktemp("held_out"), 6)


def _write(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(2)
    paths = [folder / f"{i:03d}.png" for i in range(count)]
    for path in paths:
        cv2.imwrite(str(path), texture(rng, FRAME_HW))
    return paths


def _change(frame: SyntheticFrame, preprocess: Preprocess) -> Any:
    """Largest difference of a pixel's channels from the photograph that the defect was painted on."""
    before = preprocess.resize(read_frame(frame.photo.path))
    return np.abs(frame.image_bgr_u8.astype(int) - before).max(axis=2)


def test_every_photograph_is_there_as_it_is_and_once_with_each_kind(held_out: list[Path]) -> None:
    frames = synthetic_frames(PREPROCESSES["stretch"], held_out)
    for kind in ("good", "synthetic perlin", "synthetic nsa", "synthetic simplex"):
        assert [frame.photo.path for frame in frames if frame.photo.kind == kind] == held_out
    assert len(frames) == 4 * len(held_out)
    assert all(f.image_bgr_u8.shape == (64, 96, 3) and f.image_bgr_u8.dtype == np.uint8 for f in frames)
    assert [kind.removeprefix("synthetic ") for kind in dict.fromkeys(f.photo.kind for f in frames)][1:] == [*DEFECTS]


@pytest.mark.parametrize("name", PREPROCESSES)
def test_masks_are_what_changed_and_never_the_border(held_out: list[Path], name: str) -> None:
    preprocess = PREPROCESSES[name]
    border = np.ones(preprocess.size_hw, bool)
    preprocess.placement(FRAME_HW).covered(border)[...] = False
    assert border.any() == ("letterbox" in name)
    for frame in synthetic_frames(preprocess, held_out):
        change = _change(frame, preprocess)
        if not frame.photo.is_defect:
            assert frame.mask is None
            assert not change.any()
            continue
        assert frame.mask is not None
        assert (change[frame.mask] >= VISIBLE_CHANGE).any()
        assert not frame.mask[border].any()
        assert not change[border].any()
        outside = change[~frame.mask]
        if frame.photo.kind == "synthetic nsa":  # what a patch changes a little is no defect; its label is smoothed
            assert (outside >= VISIBLE_CHANGE).mean() < 0.02
        else:
            assert not outside.any()


def test_defects_keep_to_the_object_unless_told_otherwise(tmp_path: Path) -> None:
    frame = np.full((*FRAME_HW, 3), 30, np.uint8)
    frame[24:72, 40:100] = texture(np.random.default_rng(0), (48, 60))
    cv2.imwrite(str(tmp_path / "part.png"), frame)
    away = np.ones(FRAME_HW, bool)
    away[12:84, 28:112] = False  # a margin for what the mask of the object is dilated by
    preprocess = Preprocess((96, 160))

    def strayed(*, foreground: bool) -> int:
        paths = [tmp_path / "part.png"] * 12
        frames = synthetic_frames(preprocess, paths, foreground=foreground, kinds=["perlin", "simplex"])
        far = cv2.resize(away.astype(np.uint8), (160, 96), interpolation=cv2.INTER_NEAREST) > 0
        return sum(bool(f.mask[far].any()) for f in frames if f.mask is not None)

    assert strayed(foreground=True) == 0
    assert strayed(foreground=False) > 5


def test_it_is_a_function_of_photographs_and_seed(held_out: list[Path]) -> None:
    preprocess = PREPROCESSES["stretch"]
    first, again, other = (synthetic_frames(preprocess, held_out, seed=seed) for seed in (3, 3, 4))
    assert [f.photo for f in first] == [f.photo for f in again]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image_bgr_u8, b.image_bgr_u8)
        assert a.mask is None or np.array_equal(a.mask, b.mask)
    painted = [(a, b) for a, b in zip(first, other, strict=True) if a.photo.is_defect]
    assert not any(np.array_equal(a.image_bgr_u8, b.image_bgr_u8) for a, b in painted)
    # A kind is painted alike whichever others are asked for.
    alone = synthetic_frames(preprocess, held_out, seed=3, kinds=["simplex"])[len(held_out) :]
    for a, b in zip(alone, (f for f in first if f.photo.kind == "synthetic simplex"), strict=True):
        np.testing.assert_array_equal(a.image_bgr_u8, b.image_bgr_u8)


def test_of_many_photographs_a_choice_is_taken(tmp_path: Path) -> None:
    paths = _write(tmp_path, MOST_PHOTOGRAPHS + 8)
    chosen = [[f.photo.path for f in synthetic_frames(Preprocess((32, 32)), paths, seed=s, kinds=["perlin"])
               if not f.photo.is_defect] for s in (0, 0, 1)]  # fmt: skip
    assert len(chosen[0]) == len(set(chosen[0])) == MOST_PHOTOGRAPHS
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(chosen[0])


def test_a_defect_that_cannot_be_seen_is_drawn_again(held_out: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []

    def defects(image: Any, rng: Any, foreground: Any) -> Any:
        """Nothing, then a mask without a change, then a defect."""
        draws.append(len(draws) % 3)
        corrupted, mask = image.copy(), np.zeros(image.shape[:2], bool)
        mask[:4, :4] = draws[-1] > 0
        corrupted[:4, :4] ^= np.uint8(128) * (draws[-1] == 2)
        return corrupted, mask

    monkeypatch.setattr(synthetic_test, "create_defects", lambda names, images, textures: defects)
    frames = synthetic_frames(PREPROCESSES["stretch"], held_out, kinds=["perlin"])
    assert len(draws) == 3 * len(held_out)
    assert all(_change(f, PREPROCESSES["stretch"])[:4, :4].min() > 60 for f in frames if f.photo.is_defect)


def test_parts_on_which_no_patch_shows_are_left_out_for_that_kind(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "plain.png"), np.full((*FRAME_HW, 3), 90, np.uint8))
    frames = synthetic_frames(Preprocess((64, 64)), [tmp_path / "plain.png"], kinds=["nsa", "simplex"])
    assert [f.photo.kind for f in frames] == ["good", "synthetic simplex"]


def test_textures_come_from_a_folder_where_there_is_one(held_out: list[Path], tmp_path: Path) -> None:
    green = np.zeros((50, 50, 3), np.uint8)
    green[..., 1] = 255
    cv2.imwrite(str(tmp_path / "green.png"), green)
    preprocess = PREPROCESSES["stretch"]
    frames = synthetic_frames(preprocess, held_out, textures=tmp_path, kinds=["perlin"])
    for frame in frames[len(held_out) :]:
        shift = frame.image_bgr_u8[frame.mask].astype(int) - preprocess.resize(read_frame(frame.photo.path))[frame.mask]
        assert (shift[:, 1] > 0).all()
        assert (shift[:, [0, 2]] < 0).all()


def _perfect(frames: list[SyntheticFrame]) -> Evaluation:
    """By a detector that reads the mask."""
    masks = {f.image_bgr_u8.tobytes(): f.mask for f in frames}

    def predictor(image: Any) -> tuple[Any, float]:
        mask = masks[image.tobytes()]
        anomaly_map = np.zeros(image.shape[:2], np.float32) if mask is None else mask.astype(np.float32)
        return anomaly_map, float(anomaly_map.max())

    return evaluate_frames(predictor, frames)


@pytest.mark.parametrize("name", PREPROCESSES)
def test_a_perfect_detector_is_perfect(held_out: list[Path], name: str) -> None:
    found = _perfect(synthetic_frames(PREPROCESSES[name], held_out))
    assert set(found.by_kind) == {"synthetic perlin", "synthetic nsa", "synthetic simplex"}
    for metrics in (found.metrics, *found.by_kind.values()):
        assert (metrics.image_auroc, metrics.pixel_auroc, metrics.pixel_ap, metrics.f1) == (1, 1, 1, 1)
        assert metrics.images_good == len(held_out)
        assert metrics.images_without_mask == 0
    assert found.metrics.images_defect == 3 * len(held_out)


def test_a_detector_that_sees_nothing_has_half(held_out: list[Path]) -> None:
    preprocess = PREPROCESSES["crop"]

    def constant(image: Any) -> tuple[Any, float]:
        assert image.shape == (64, 64, 3)  # a network image, whatever the crop of a frame
        return np.full(image.shape[:2], 0.25, np.float32), 0.25

    found = evaluate_frames(constant, synthetic_frames(preprocess, held_out))
    assert (found.metrics.image_auroc, found.metrics.pixel_auroc) == (0.5, 0.5)
    assert found.metrics.images_defect == 3 * len(held_out)


def test_where_it_comes_from_is_said_wherever_it_goes(held_out: list[Path]) -> None:
    found = _perfect(synthetic_frames(PREPROCESSES["stretch"], held_out))
    assert found.is_synthetic
    assert found.source == "synthetic defects on 6 held-out good images"
    assert found.caution is not None
    assert found.source in found.caution
    assert json.loads(json.dumps(found.to_dict()))["source"] == found.source
    for frame in found.frames:
        assert (frame.painted_bgr_u8 is not None) == frame.photo.is_defect


def test_what_cannot_work_is_refused(held_out: list[Path], tmp_path: Path) -> None:
    preprocess = PREPROCESSES["stretch"]
    with pytest.raises(OptionError, match="0 held-out photographs and 3 kinds"):
        synthetic_frames(preprocess, [])
    with pytest.raises(OptionError, match="6 held-out photographs and 0 kinds"):
        synthetic_frames(preprocess, held_out, kinds=())
    with pytest.raises(OptionError, match="unknown synthetic defects 'smudge'"):
        synthetic_frames(preprocess, held_out, kinds=["smudge"])
    with pytest.raises(DataError, match="no pictures in the texture folder"):
        synthetic_frames(preprocess, held_out, textures=tmp_path)
    with pytest.raises(FrameError, match=r"000\.png: a frame of 144×96 pixels, which the crop"):
        synthetic_frames(Preprocess((64, 64), crop_xywh=(0, 0, 200, 90)), held_out)
