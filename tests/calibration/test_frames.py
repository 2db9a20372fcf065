from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from segrd_edge.calibration.frames import FEWEST, MOST, check_count, choose_frames, farthest_points
from segrd_edge.errors import OptionError
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.synthesis.patches import VISIBLE_CHANGE

PREPROCESS = Preprocess((64, 96))


def good_photos(root: Path) -> list[Path]:
    return sorted((root / "train" / "good").iterdir())


def write(folder: Path, images: list[np.ndarray]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        assert cv2.imwrite(str(path), image)
    return paths


def test_half_good_half_synthetic_each_on_its_own_photograph(photos: Path) -> None:
    frames = choose_frames(good_photos(photos), PREPROCESS, count=20)
    assert [frame.kind for frame in frames] == ["good"] * 10 + ["synthetic"] * 10
    assert len({frame.path for frame in frames}) == 20
    for frame in frames:
        assert frame.image_bgr_u8.shape == (64, 96, 3)
        assert frame.sha256 == hashlib.sha256(frame.path.read_bytes()).hexdigest()
        assert frame.pixels_sha256 == hashlib.sha256(frame.image_bgr_u8.tobytes()).hexdigest()
        clean = PREPROCESS.resize(read_frame(frame.path))
        assert np.array_equal(frame.image_bgr_u8, clean) == (frame.kind == "good")
        assert (frame.mask is None) == (frame.defect is None) == (frame.kind == "good")
        change = np.abs(frame.image_bgr_u8.astype(int) - clean).max(axis=2)
        assert frame.mask is None or change[~frame.mask].mean() < VISIBLE_CHANGE


def test_every_kind_of_defect_has_its_turn(photos: Path) -> None:
    frames = choose_frames(good_photos(photos), PREPROCESS, count=20)
    defects = [frame.defect for frame in frames if frame.defect]
    assert {name: defects.count(name) for name in defects} == {"nsa": 4, "simplex": 3, "perlin": 3}
    painted = [frame.mask for frame in frames if frame.defect in ("perlin", "simplex")]
    assert all(mask is not None and mask.any() for mask in painted)


def test_good_frames_alone(photos: Path) -> None:
    frames = choose_frames(good_photos(photos)[:6], PREPROCESS, count=10, synthetic=False)
    assert [frame.kind for frame in frames] == ["good"] * 6


def test_calibration_frames_are_cropped_like_all_others(photos: Path) -> None:
    preprocess = Preprocess((64, 96), crop_xywh=(11, 5, 60, 40))
    for frame in choose_frames(good_photos(photos), preprocess, count=4):
        if frame.kind == "good":
            alone = np.ascontiguousarray(read_frame(frame.path)[5:45, 11:71])
            np.testing.assert_array_equal(frame.image_bgr_u8, PREPROCESS.resize(alone))


def test_few_photographs_give_more_defects_not_the_same_good_image_twice(photos: Path) -> None:
    frames = choose_frames(good_photos(photos)[:3], PREPROCESS, count=10)
    assert [frame.kind for frame in frames] == ["good"] * 3 + ["synthetic"] * 7
    assert len({frame.pixels_sha256 for frame in frames}) == 10


def test_a_burst_of_one_part_counts_once(photos: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    different = good_photos(photos)[:8]
    still = read_frame(different[0])
    noisy = [np.clip(still + rng.normal(0, 3, still.shape), 0, 255).astype(np.uint8) for _ in range(30)]
    burst = write(tmp_path / "burst", [still, *noisy])  # the first has the same pixels in another file
    frames = choose_frames([*burst, *different], PREPROCESS, count=16, seed=1)
    taken = {frame.path for frame in frames}
    assert len(taken & {different[0], *burst}) == 1
    assert set(different[1:]) <= taken
    assert len({frame.path for frame in frames if frame.kind == "good"}) == 8


def test_rare_kinds_of_parts_are_taken_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    shades = [60] * 57 + [120, 180, 240]  # 57 parts of one colour, and one each of three others
    images = [np.clip(shade + rng.normal(0, 25, (8, 12, 3)), 0, 255).astype(np.uint8) for shade in shades]
    paths = write(tmp_path / "parts", [cv2.resize(image, (96, 64)) for image in images])
    for seed in range(3):
        taken = {frame.path for frame in choose_frames(paths, PREPROCESS, count=4, seed=seed)}
        assert set(paths[-3:]) <= taken


def test_farthest_points_cover_better_than_chance() -> None:
    points = np.random.default_rng(7).normal(0, 1, (300, 5)).astype(np.float32)

    def reach(chosen: list[int]) -> float:
        """How far the worst served point is from its nearest chosen one."""
        away = np.linalg.norm(points[:, None] - points[chosen][None], axis=2)
        return float(away.min(axis=1).max())

    by_chance = [list(np.random.default_rng(seed).permutation(300)[:20]) for seed in range(20)]
    chosen = farthest_points(points, 20, 0)
    assert len(set(chosen)) == 20
    assert reach(chosen) < min(map(reach, by_chance))


def test_the_choice_is_seeded(photos: Path) -> None:
    def choice(seed: int) -> list[tuple[Path, str]]:
        frames = choose_frames(good_photos(photos), PREPROCESS, count=6, seed=seed)
        return [(frame.path, frame.pixels_sha256) for frame in frames]

    assert choice(4) == choice(4)
    assert choice(4) != choice(5)


def test_progress_is_told_of_every_photograph_read(photos: Path) -> None:
    told: list[tuple[str, list[Path]]] = []

    def track(items: Sequence[Path], description: str) -> Sequence[Path]:
        told.append((description, sorted(items)))
        return items

    choose_frames(good_photos(photos), PREPROCESS, count=4, track=track)
    assert told == [("reading photographs", good_photos(photos))]


def test_textures_from_a_folder(photos: Path) -> None:
    own, outside = (
        next(frame for frame in frames if frame.defect == "perlin").image_bgr_u8
        for frames in (
            choose_frames(good_photos(photos), PREPROCESS, count=6, textures=textures)
            for textures in (None, photos / "test" / "spot")
        )
    )
    assert not np.array_equal(own, outside)


@pytest.mark.parametrize(("count", "available"), [(1, 20), (0, 20), (64, 0)])
def test_what_cannot_work(photos: Path, count: int, available: int) -> None:
    with pytest.raises(OptionError, match=f"{count} calibration frames from {available} photographs"):
        choose_frames(good_photos(photos)[:available], PREPROCESS, count=count)


@pytest.mark.parametrize("count", [FEWEST - 1, MOST + 1, 0, -4])
def test_counts_that_calibration_refuses(count: int) -> None:
    with pytest.raises(OptionError, match=f"^{count} calibration frames") as caught:
        check_count(count)
    assert "32 to 512" in caught.value.expected
    assert "--calibration-images" in caught.value.fix


@pytest.mark.parametrize("count", [FEWEST, 64, MOST])
def test_counts_that_calibration_takes(count: int) -> None:
    check_count(count)
