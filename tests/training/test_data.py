"""What a folder of photographs is taken for, and what the data check says of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from segrd_edge.errors import DataError, OptionError
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.data import MINIMUM_GOOD, check, scan


def test_mvtec_layout(photos: Path) -> None:
    folder = scan(photos)
    assert folder.layout == "mvtec"
    assert folder.counts == {"train/good": 20, "test/good": 4, "test/spot": 4, "masks": 4}
    assert all(p.mask is not None for p in folder.test if p.is_defect)


def test_plain_folder_of_good_images(photos: Path) -> None:
    folder = scan(photos / "train" / "good")
    assert (folder.layout, len(folder.train), folder.test) == ("plain", 20, [])


def test_plain_folder_with_defects_evaluates_on_held_out_good(photos: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    (photos / "train").joinpath("good").rename(tmp_path / "good")
    plain.mkdir()
    (tmp_path / "good").rename(plain / "good")
    (photos / "test" / "spot").rename(plain / "spot")
    (photos / "ground_truth").rename(plain / "masks")
    folder = scan(plain)
    train, held_out = folder.split(seed=0)
    assert {p.path for p in train}.isdisjoint(p.path for p in held_out)
    assert len(train) + len(held_out) == 20
    kinds = [p.kind for p in folder.evaluation(held_out)]
    assert kinds.count("good") == len(held_out)
    assert kinds.count("spot") == 4


def test_dotted_names_find_their_masks(photos: Path) -> None:
    (photos / "test/spot/000.png").rename(photos / "test/spot/cam1.000.png")
    (photos / "ground_truth/spot/000_mask.png").rename(photos / "ground_truth/spot/cam1.000_mask.png")
    assert all(p.mask is not None for p in scan(photos).test if p.is_defect)


def test_split_is_seeded(photos: Path) -> None:
    folder = scan(photos)
    assert folder.split(3) == folder.split(3)
    assert folder.split(3) != folder.split(4)


@pytest.mark.parametrize("share", [-1.0, 0.0, 1.0, 1.5, float("nan")])
def test_a_share_to_hold_out_that_is_none(photos: Path, share: float) -> None:
    with pytest.raises(OptionError, match="--held-out"):
        scan(photos).split(seed=1, share=share)


def test_something_is_left_to_train_on(photos: Path) -> None:
    with pytest.raises(DataError, match=r"[0-7] of \d+ good images are left to train on, with \d+ held out"):
        scan(photos).split(seed=1, share=0.9)


def test_check_lists_every_problem_at_once(photos: Path) -> None:
    good = photos / "train/good"
    (good / "000.png").write_bytes(b"not an image")
    (good / "002.png").write_bytes((good / "001.png").read_bytes())
    cv2.imwrite(str(good / "003.png"), np.full((80, 80), 4000, np.uint16))
    cv2.imwrite(str(photos / "ground_truth/spot/000_mask.png"), np.full((40, 80), 255, np.uint8))
    cv2.imwrite(str(photos / "ground_truth/spot/001_mask.png"), np.zeros((80, 80), np.uint8))
    checked = check(scan(photos))
    text = "\n".join(map(str, checked.problems))
    for expected in (
        "000.png: cannot be read as an image (12 bytes)",
        "002.png: duplicate of",
        "003.png: a frame of dtype uint16",
        "--range 0:65535",
        "000_mask.png: mask is 40×80, its image 000.png is 80×80",
        "001_mask.png: empty mask for the defect image 001.png",
    ):
        assert expected in text
    assert len(checked.problems) == 5
    assert (len(checked.train), len(checked.test)) == (17, 6)


def test_16_bit_with_range_is_fine(photos: Path) -> None:
    image = (np.random.default_rng(0).random((80, 80)) * 4095).astype(np.uint16)
    cv2.imwrite(str(photos / "train/good/000.png"), image)
    assert check(scan(photos), Preprocess(value_range=(0, 4095))).problems == []


def test_photographs_that_the_crop_reaches_outside_of(photos: Path) -> None:
    cv2.imwrite(str(photos / "train/good/003.png"), np.zeros((60, 70, 3), np.uint8))
    checked = check(scan(photos), Preprocess(crop_xywh=(0, 20, 80, 60)))
    assert [problem.path.name for problem in checked.problems] == ["003.png"]
    for expected in ("a frame of 70×60 pixels", "the crop 0,20,80,60", "give a --crop inside it"):
        assert expected in checked.problems[0].what
    assert len(checked.train) == 19


def test_too_few_good_images(photos: Path) -> None:
    for i in range(10):
        (photos / f"train/good/{i:03d}.png").unlink()
    assert "10 usable good images, fewer than the minimum" in str(check(scan(photos)).problems[-1])
    with pytest.raises(DataError, match=f"at least {MINIMUM_GOOD}"):
        scan(photos).split(0)


@pytest.mark.parametrize(("make", "message"), [(False, "is not a folder"), (True, "no good images in")])
def test_no_photographs(tmp_path: Path, make: bool, message: str) -> None:
    root = tmp_path / "x"
    if make:
        root.mkdir()
    with pytest.raises(DataError, match=message):
        scan(root)
