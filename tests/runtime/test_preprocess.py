from __future__ import annotations

import json
from multiprocessing import get_context
from typing import Any

import cv2
import numpy as np
import pytest

from segrd_edge import preprocess as preprocess_module
from segrd_edge.errors import FrameError, OptionError
from segrd_edge.preprocess import Placement, Preprocess, _average_rows_first, shrink_or_grow


def axis_weights(source: int, target: int) -> np.ndarray:
    """target×source weights of one axis, written from the definition: box average when shrinking, bilinear with
    half-pixel centres when growing."""
    weights = np.zeros((target, source))
    for t in range(target):
        if target <= source:
            low, high = t * source / target, (t + 1) * source / target
            for s in range(source):
                weights[t, s] = max(0.0, min(high, s + 1) - max(low, s))
        else:
            centre = np.clip((t + 0.5) * source / target - 0.5, 0, source - 1)
            left = int(centre)
            weights[t, left] += 1 - (centre - left)
            weights[t, min(left + 1, source - 1)] += centre - left
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("source_hw", "target_hw"),
    [
        ((128, 192), (64, 96)),  # whole ratio, and even: halved at once
        ((256, 384), (64, 96)),  # halved before it is averaged
        ((384, 1152), (64, 96)),
        ((192, 384), (64, 96)),  # odd in height, even in width
        ((101, 157), (64, 96)),  # fractional ratio
        ((300, 40), (64, 96)),  # shrinks in height, grows in width
        ((40, 300), (64, 96)),  # the other way round
        ((20, 30), (64, 96)),  # grows in both
        ((64, 200), (64, 96)),  # one axis already right
        ((64, 96), (64, 96)),
    ],
)
def test_resize_equals_its_definition_within_one_grey_level(
    source_hw: tuple[int, int], target_hw: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*source_hw, 3), np.uint8)
    rows, columns = axis_weights(source_hw[0], target_hw[0]), axis_weights(source_hw[1], target_hw[1])
    reference = np.einsum("th,hwc,sw->tsc", rows, image.astype(np.float64), columns, optimize=True)
    resized = shrink_or_grow(image, target_hw)
    assert resized.shape == (*target_hw, 3)
    assert np.abs(resized.astype(int) - np.rint(reference)).max() <= 1


@pytest.mark.parametrize("frame_hw", [(1000, 1500), (1001, 1500), (1280, 2000), (960, 1400)])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_bands_give_the_same_pixels(
    frame_hw: tuple[int, int], threads: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "getNumThreads", lambda: threads)
    monkeypatch.setattr(preprocess_module, "_BAND_BYTES", 1000)
    shape = frame_hw if channels == 1 else (*frame_hw, channels)
    frame = np.random.default_rng(4).integers(0, 256, shape, np.uint8)
    found = shrink_or_grow(frame, (64, 96))
    monkeypatch.setattr(cv2, "getNumThreads", lambda: 1)
    np.testing.assert_array_equal(found, shrink_or_grow(frame, (64, 96)))


@pytest.mark.parametrize("frame_hw", [(333, 500), (480, 500), (1001, 1500), (2048, 131), (640, 100), (321, 97)])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_first_is_the_exact_mean(frame_hw: tuple[int, int], channels: int) -> None:
    """Of the area that a network pixel covers, in double precision; held to the rounding of one grey level."""
    frame = np.random.default_rng(6).integers(0, 256, (*frame_hw, 3)[: 2 + (channels == 3)], np.uint8)
    height, width = frame_hw
    rows, columns = (_shares(side, size) for side, size in ((height, 64), (width, 96)))
    exact = np.einsum("ih,hw...,jw->ij...", rows, frame.astype(np.float64), columns)
    found = _average_rows_first(frame, (64, 96))
    padded = np.pad(frame, [(1, 2), (3, 4), (0, 0)][: frame.ndim])
    np.testing.assert_array_equal(_average_rows_first(padded[1:-2, 3:-4], (64, 96)), found)  # a crop
    assert np.abs(found - exact).max() <= 0.5 + 1e-3
    assert np.abs(shrink_or_grow(frame, (64, 96)) - exact).max() <= 1


def _shares(side: int, size: int) -> np.ndarray:
    """size×side: how much of every pixel lies in each of the larger ones, as shares of these."""
    edges = np.arange(size + 1) * side / size
    low, high = np.arange(side), np.arange(side) + 1
    covered = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    return np.clip(covered, 0, None) * size / side


def test_a_fork_resizes_in_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of the parent's has no threads in it, and would never answer."""
    monkeypatch.setattr(cv2, "getNumThreads", lambda: 2)
    monkeypatch.setattr(preprocess_module, "_BAND_BYTES", 1000)
    frame = np.random.default_rng(5).integers(0, 256, (1000, 1500, 3), np.uint8)
    expected = shrink_or_grow(frame, (64, 96))
    with get_context("fork").Pool(1) as pool:
        found = pool.apply_async(shrink_or_grow, (frame, (64, 96))).get(timeout=60)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("frame_hw", [(200, 100), (100, 200), (100, 150), (7, 500)])
def test_letterbox_keeps_the_aspect_ratio_and_fills_the_border(frame_hw: tuple[int, int]) -> None:
    preprocess = Preprocess(size_hw=(64, 96), fit="letterbox", fill=7)
    frame = np.random.default_rng(2).integers(100, 256, (*frame_hw, 3), np.uint8)
    image, place = preprocess.resize(frame), preprocess.placement(frame_hw)
    inner = place.covered(image)
    scale = min(64 / frame_hw[0], 96 / frame_hw[1])
    assert inner.shape[:2] == (max(1, round(frame_hw[0] * scale)), max(1, round(frame_hw[1] * scale)))
    np.testing.assert_array_equal(inner, shrink_or_grow(frame, inner.shape[:2]))
    border = np.ones(image.shape[:2], bool)
    place.covered(border)[...] = False
    assert (image[border] == 7).all()
    assert border.sum() == 64 * 96 - inner.shape[0] * inner.shape[1]


@pytest.mark.parametrize("frame_hw", [(256, 384), (101, 157), (20, 30), (64, 96)])
def test_grey_is_resized_as_one_channel_to_the_same_pixels(frame_hw: tuple[int, int]) -> None:
    grey = np.random.default_rng(3).integers(0, 256, frame_hw, np.uint8)
    cropped = Preprocess((64, 96), crop_xywh=(2, 1, 25, 18))
    for preprocess in (Preprocess((64, 96)), Preprocess((64, 96), fit="letterbox"), cropped):
        np.testing.assert_array_equal(preprocess.resize(grey), preprocess.resize(np.dstack([grey] * 3)))


def test_the_network_image_never_aliases_the_frame() -> None:
    frame = np.zeros((64, 96, 3), np.uint8)
    assert not np.shares_memory(Preprocess(size_hw=(64, 96)).resize(frame), frame)


def test_coordinates_go_back_to_the_frame() -> None:
    place = Placement(frame_hw=(200, 100), size_hw=(64, 96), top=0, left=32, height=64, width=32)
    assert place.scale_xy == (3.125, 3.125)
    np.testing.assert_allclose(
        place.to_frame_xy([(32, 0), (64, 64), (48, 32), (0, 0)])[:3], [(0, 0), (100, 200), (50, 100)]
    )
    np.testing.assert_allclose(place.to_frame_xy([(0, 70)]), [(0, 200)])  # the border is clipped to the frame


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("crop_xywh", [(13, 7, 150, 61), (0, 0, 33, 120), (170, 119, 10, 1), (0, 0, 180, 120)])
def test_a_crop_is_the_frame_cut_beforehand(fit: Any, crop_xywh: tuple[int, int, int, int]) -> None:
    frame = np.random.default_rng(3).integers(0, 256, (120, 180, 3), np.uint8)
    left, top, width, height = crop_xywh
    alone = np.ascontiguousarray(frame[top : top + height, left : left + width])
    cropping, plain = Preprocess((64, 96), fit=fit, crop_xywh=crop_xywh), Preprocess((64, 96), fit=fit)
    np.testing.assert_array_equal(cropping.resize(frame), plain.resize(alone))
    assert not np.shares_memory(cropping.resize(frame), frame)
    place, inside = cropping.placement((120, 180)), plain.placement((height, width))
    assert place.scale_xy == inside.scale_xy
    corners_xy = [(0, 0), (96, 64), (48.5, 31), (-3, 70)]
    moved_xy = inside.to_frame_xy(corners_xy) + np.array((left, top))
    np.testing.assert_allclose(place.to_frame_xy(corners_xy), moved_xy)
    np.testing.assert_array_equal(place.seen(frame), alone)


def test_maps_and_masks_of_a_crop() -> None:
    place = Preprocess((32, 64), fit="letterbox", crop_xywh=(20, 10, 60, 60)).placement((90, 100))
    anomaly_map = np.random.default_rng(0).random((32, 64), np.float32) + 1
    frame_map = place.map_to_frame(anomaly_map)
    assert (frame_map.shape, frame_map.dtype) == ((90, 100), np.float32)
    outside = np.ones((90, 100), bool)
    outside[10:70, 20:80] = False
    assert (frame_map[outside] == 0).all()
    uncropped = Preprocess((32, 64), fit="letterbox").placement((60, 60))
    np.testing.assert_array_equal(frame_map[10:70, 20:80], uncropped.map_to_frame(anomaly_map))

    mask = np.random.default_rng(1).random((90, 100)) > 0.5
    np.testing.assert_array_equal(place.mask_to_network(mask), uncropped.mask_to_network(mask[10:70, 20:80]))
    assert place.mask_to_network(~outside).sum() == 32 * 32
    assert not place.mask_to_network(outside).any()


def test_a_point_comes_back_to_where_it_was_in_the_frame() -> None:
    """By pixels rather than by formulas: what is white in the frame is white at its network coordinates."""
    preprocess = Preprocess((64, 96), fit="letterbox", crop_xywh=(50, 20, 120, 100))
    frame = np.zeros((200, 300, 3), np.uint8)
    frame[70:80, 90:110] = 255
    rows, columns = np.nonzero(preprocess.resize(frame)[:, :, 0] > 200)
    place = preprocess.placement((200, 300))
    white_xy = np.stack([columns, rows], axis=1) + 0.5
    np.testing.assert_allclose(place.to_frame_xy(white_xy).mean(axis=0), (100, 75), atol=0.8)


@pytest.mark.parametrize("frame_hw", [(119, 180), (120, 179), (10, 10)])
def test_a_frame_that_the_crop_reaches_outside_of(frame_hw: tuple[int, int]) -> None:
    preprocess = Preprocess((64, 96), crop_xywh=(30, 20, 150, 100))
    preprocess.placement((120, 180))
    for attempt in (lambda: preprocess.placement(frame_hw), lambda: preprocess.resize(np.zeros((*frame_hw, 3), "u1"))):
        with pytest.raises(FrameError, match=f"{frame_hw[1]}×{frame_hw[0]} pixels, which the crop 30,20,150,100") as e:
            attempt()
        assert e.value.expected == "at least 180×120 pixels"
        assert "--crop" in e.value.fix


@pytest.mark.parametrize("crop_xywh", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (1, 2, 3)])
def test_impossible_crops_are_refused(crop_xywh: Any) -> None:
    with pytest.raises(OptionError, match=f"crop {','.join(map(str, crop_xywh))} cannot be used"):
        Preprocess(crop_xywh=crop_xywh)


@pytest.mark.parametrize("crop_xywh", [None, (1, 2, 30, 40)])
def test_survives_json(crop_xywh: Any) -> None:
    preprocess = Preprocess(size_hw=(32, 64), fit="letterbox", value_range=(0, 4095), crop_xywh=crop_xywh)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


@pytest.mark.parametrize(
    "changes",
    [
        {"size_hw": (33, 64)},
        {"size_hw": (0, 64)},
        {"fit": "crop"},
        {"pixel_order": "x"},
        {"fill": 300},
        {"fill": 0.5},
        {"value_range": (9, 0)},
        {"value_range": (0, 1, 2)},
    ],
)
def test_impossible_values_are_refused(changes: dict) -> None:
    with pytest.raises(OptionError):
        Preprocess(**changes)
