from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from segrd_edge.calibration.frames import choose_frames
from segrd_edge.errors import OptionError
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess

PREPROCESS = Preprocess((64, 96))


def good_photos(root: Path) -> list[Path]:
    return sorted((root / "train" / "good").iterdir())


def test_half_good_half_synthetic_each_on_its_own_photograph(photos: Path) -> None:
    frames = choose_frames(good_photos(photos), PREPROCESS, count=20)
    assert [frame.kind for frame in frames] == ["good"] * 10 + ["synthetic"] * 10
    assert len({frame.path for frame in frames}) == 20
    for frame in frames:
        assert frame.image_bgr_u8.shape == (64, 96, 3)
        assert frame.sha256 == hashlib.sha256(frame.path.read_bytes()).hexdigest()
        clean = PREPROCESS.resize(read_frame(frame.path))
        assert np.array_equal(frame.image_bgr_u8, clean) == (frame.kind == "good")
        changed = (frame.image_bgr_u8 != clean).any(axis=2)
        assert (frame.mask is None) == (frame.kind == "good")
        assert frame.mask is None or not (changed & ~frame.mask).any()


def test_calibration_frames_are_cropped_like_all_others(photos: Path) -> None:
    preprocess = Preprocess((64, 96), crop_xywh=(11, 5, 60, 40))
    for frame in choose_frames(good_photos(photos), preprocess, count=4):
        if frame.kind == "good":
            alone = np.ascontiguousarray(read_frame(frame.path)[5:45, 11:71])
            np.testing.assert_array_equal(frame.image_bgr_u8, PREPROCESS.resize(alone))


def test_few_photographs_give_more_defects_not_the_same_good_image_twice(photos: Path) -> None:
    frames = choose_frames(good_photos(photos)[:3], PREPROCESS, count=10)
    assert [frame.kind for frame in frames] == ["good"] * 3 + ["synthetic"] * 7
    assert len({frame.image_bgr_u8.tobytes() for frame in frames}) == 10


def test_the_choice_is_seeded(photos: Path) -> None:
    def choice(seed: int) -> list[tuple[Path, bytes]]:
        frames = choose_frames(good_photos(photos), PREPROCESS, count=6, seed=seed)
        return [(frame.path, frame.image_bgr_u8.tobytes()) for frame in frames]

    assert choice(4) == choice(4)
    assert choice(4) != choice(5)


def test_textures_from_a_folder(photos: Path) -> None:
    own, outside = (
        choose_frames(good_photos(photos), PREPROCESS, count=4, textures=textures)[-1].image_bgr_u8
        for textures in (None, photos / "test" / "spot")
    )
    assert not np.array_equal(own, outside)


@pytest.mark.parametrize(("count", "available"), [(1, 20), (0, 20), (64, 0)])
def test_what_cannot_work(photos: Path, count: int, available: int) -> None:
    with pytest.raises(OptionError, match=f"{count} calibration frames from {available} photographs"):
        choose_frames(good_photos(photos)[:available], PREPROCESS, count=count)
