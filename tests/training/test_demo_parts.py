"""The renderer: reproducible, with masks that lie where the pixels differ, in the layout of MVTec AD."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from segrd_edge.errors import OptionError
from segrd_edge.frames import read_pixels
from segrd_edge.training.demo_parts import DEFECTS, render_part, write_demo_dataset


def difference(index: int, defect: str, size_px: int = 384) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.bool_]]:
    """Largest grey-level difference that the defect makes to each pixel of the same photograph, and its mask."""
    good, _ = render_part(np.random.default_rng(index), size_px)
    frame, mask = render_part(np.random.default_rng(index), size_px, defect)
    return np.abs(frame.astype(int) - good.astype(int)).max(axis=2), mask


def test_the_same_generator_gives_the_same_photograph() -> None:
    for defect in (None, *DEFECTS):
        first, again = (render_part(np.random.default_rng([3, 1]), 128, defect) for _ in range(2))
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
    assert (
        render_part(np.random.default_rng([3, 2]), 128)[0] != render_part(np.random.default_rng([3, 1]), 128)[0]
    ).any()


def test_good_parts() -> None:
    frame, mask = render_part(np.random.default_rng(0), 200)
    assert frame.dtype == np.uint8
    assert frame.shape == (200, 200, 3)
    assert mask.dtype == np.bool_
    assert mask.shape == (200, 200)
    assert not mask.any()


@pytest.mark.parametrize("defect", DEFECTS)
def test_masks_lie_where_the_defect_is_seen(defect: str) -> None:
    """10 grey levels are 4 standard deviations of the camera noise."""
    for index in range(6):
        changed, mask = difference(index, defect)
        seen = changed >= 10
        assert seen.any()
        assert (seen & mask).sum() >= 0.97 * seen.sum(), "the mask misses a part of the defect"
        assert (changed[mask] >= 3).mean() >= 0.4, "the mask is much larger than the defect"
        far = cv2.dilate(mask.astype(np.uint8), np.ones((13, 13))) == 0
        assert (changed[far] > 0).mean() < 0.001, "the defect changed the scene or the noise around it"


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_has_a_mask_and_varies(defect: str) -> None:
    masks = [render_part(np.random.default_rng([9, index]), 192, defect)[1] for index in range(10)]
    areas = [int(mask.sum()) for mask in masks]
    assert min(areas) >= 20
    assert max(areas) > 1.5 * min(areas)
    assert max(areas) < 0.05 * 192 * 192
    assert np.any(masks, axis=0).sum() > 2 * max(areas)  # in several places


def test_defects_range_from_faint_to_clear() -> None:
    contrasts = []
    for index in range(8):
        for defect in DEFECTS:
            changed, mask = difference(index, defect, 192)
            contrasts.append(changed[mask].mean())
    assert min(contrasts) < 12
    assert max(contrasts) > 35


def test_dataset_layout(tmp_path: Path) -> None:
    root = write_demo_dataset(tmp_path / "Prüfteile", train_good=2, test_good=1, per_defect=2, seed=1, size_px=64)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*.*")}
    expected = {"train/good/000.png", "train/good/001.png", "test/good/000.png"}
    for defect in DEFECTS:
        for number in ("000", "001"):
            expected |= {f"test/{defect}/{number}.png", f"ground_truth/{defect}/{number}_mask.png"}
    assert files == expected | {f"frames/{number:03}.png" for number in range(12)}
    pixels = read_pixels(root / "ground_truth/stain/000_mask.png")
    assert pixels.shape == (64, 64)
    assert set(np.unique(pixels)) == {0, 255}


def test_a_larger_dataset_contains_the_smaller_one(tmp_path: Path) -> None:
    small = write_demo_dataset(tmp_path / "small", train_good=1, test_good=1, per_defect=1, size_px=64)
    large = write_demo_dataset(tmp_path / "large", train_good=3, test_good=2, per_defect=2, size_px=64)
    other = write_demo_dataset(tmp_path / "other", train_good=1, test_good=1, per_defect=1, size_px=64, seed=1)
    for path in small.rglob("*.png"):
        name = path.relative_to(small)
        assert (large / name).read_bytes() == path.read_bytes(), name
        assert "ground_truth" in name.parts or (other / name).read_bytes() != path.read_bytes(), name


@pytest.mark.parametrize(("size_px", "defect", "message"), [(384, "rust", "'rust'"), (32, None, "32 pixels")])
def test_refusals(size_px: int, defect: str | None, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        render_part(np.random.default_rng(0), size_px, defect)
