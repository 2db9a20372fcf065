from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segrd_edge.errors import FrameError, OptionError
from segrd_edge.frames import as_frame, read_frame

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"dtype float32 and shape \(4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int16), "dtype int16"),
        (np.zeros((4, 4, 3), bool), "dtype bool"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((3, 4, 4), np.uint8), r"shape \(3, 4, 4\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4), np.uint16), "without a value range"),
        ([[1, 2], [3, 4]], "type list"),
        ("frame.png", "type str"),
        (None, "type NoneType"),
    ],
)
def test_anything_else_is_an_error_with_what_was_got_and_expected(frame: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message) as caught:
        as_frame(frame)
    assert caught.value.expected


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (COLOUR, COLOUR),
        (np.asfortranarray(COLOUR), COLOUR),
        (COLOUR[::-1, ::2], COLOUR[::-1, ::2].copy()),
        (COLOUR[..., 0], np.repeat(COLOUR[..., :1], 3, axis=2)),
        (COLOUR[..., :1], np.repeat(COLOUR[..., :1], 3, axis=2)),
    ],
)
def test_every_accepted_form_gives_the_same_pixels(frame: Any, expected: Any) -> None:
    converted = as_frame(frame)
    np.testing.assert_array_equal(converted, expected)
    assert converted.flags.c_contiguous
    assert converted.dtype == np.uint8


def test_rgb_is_turned_into_bgr() -> None:
    np.testing.assert_array_equal(as_frame(COLOUR, pixel_order="rgb"), COLOUR[..., ::-1])


def test_16_bit_uses_the_stated_range() -> None:
    levels = np.array([[0, 64, 64 + 16, 4095, 65535]], np.uint16)
    # (80 - 64) * 255 / (4095 - 64) = 1.01; outside values are clipped
    np.testing.assert_array_equal(as_frame(levels, value_range=(64, 4095))[0, :, 0], [0, 0, 1, 255, 255])


@pytest.mark.parametrize("value_range", [(0, 4095), (64, 4095), (0, 65535), (1000, 1001), (300, 60000)])
def test_16_bit_is_exact_for_every_value(value_range: tuple[int, int]) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    black, white = value_range
    exact = np.clip(np.rint((levels.astype(np.float64) - black) * 255 / (white - black)), 0, 255)
    np.testing.assert_array_equal(as_frame(levels, value_range=value_range)[..., 0], exact)
    three = as_frame(np.dstack([levels, levels[::-1], levels]), value_range=value_range)
    np.testing.assert_array_equal(three, np.dstack([exact, exact[::-1], exact]))


@pytest.mark.parametrize("value_range", [(5, 5), (-1, 10), (0, 65536), (10, 5), (0, 1, 2), ("0", "9"), 5])
def test_an_impossible_range_is_refused(value_range: Any) -> None:
    with pytest.raises(OptionError, match="value_range"):
        as_frame(np.zeros((2, 2), np.uint16), value_range=value_range)


@pytest.mark.parametrize(
    ("shape", "fix"), [((4, 4, 4), "[:, :, :3]"), ((2, 4, 4, 3), "inspect_batch"), ((3, 4, 5), "channels come last")]
)
def test_the_fix_is_that_of_the_shape(shape: tuple[int, ...], fix: str) -> None:
    with pytest.raises(FrameError) as caught:
        as_frame(np.zeros(shape, np.uint8))
    assert fix in caught.value.fix


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_files_come_back_as_frames(tmp_path: Path, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / f"ä{suffix}"), COLOUR)
    np.testing.assert_array_equal(read_frame(tmp_path / f"ä{suffix}"), COLOUR)


def test_alpha_is_dropped_and_bad_files_are_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([COLOUR, COLOUR[..., :1]]))
    np.testing.assert_array_equal(read_frame(tmp_path / "alpha.png"), COLOUR)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    cv2.imwrite(str(tmp_path / "deep.png"), COLOUR.astype(np.uint16))
    for name in ("empty.png", "text.png", "deep.png", "absent.png"):
        with pytest.raises(FrameError, match=name):
            read_frame(tmp_path / name)
