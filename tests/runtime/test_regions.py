from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segrd_edge.inspection import Region
from segrd_edge.preprocess import Preprocess
from segrd_edge.regions import find_regions as find_all


def find_regions(*args: Any, **options: Any) -> tuple[Region, ...]:
    return find_all(*args, **options).regions


PLACE = Preprocess(size_hw=(32, 32)).placement((64, 96))  # 3 frame pixels per network pixel in x, 2 in y


def hand_made_map() -> np.ndarray:
    anomaly_map = np.full((32, 32), 0.1, np.float32)
    anomaly_map[4:7, 10:20] = 0.6  # 10×3 pixels
    anomaly_map[5, 12] = 0.8
    anomaly_map[20, 30] = 0.9  # one pixel
    anomaly_map[28:30, 0:2] = 0.55  # in the corner's neighbourhood, joined diagonally with:
    anomaly_map[30, 2] = 0.5
    return anomaly_map


def test_geometry_of_a_hand_made_map() -> None:
    regions = find_regions(hand_made_map(), PLACE, 0.5, mm_per_px=0.5)
    assert [region.peak for region in regions] == pytest.approx([0.9, 0.8, 0.55])
    pixel, bar, corner = regions

    assert pixel.box_xywh == (90, 40, 3, 2)
    assert set(pixel.polygon_xy) == {(90, 40), (93, 40), (93, 42), (90, 42)}
    assert (pixel.area_px, pixel.area_mm2) == (6, 1.5)

    assert bar.box_xywh == (30, 8, 30, 6)
    assert set(bar.polygon_xy) == {(30, 8), (60, 8), (60, 14), (30, 14)}
    assert bar.area_px == 180
    assert bar.mean == pytest.approx((29 * 0.6 + 0.8) / 30)

    assert corner.box_xywh == (0, 56, 9, 6)  # diagonal neighbours are one region
    assert corner.area_px == 5 * 6


def test_level_is_inclusive() -> None:
    anomaly_map = np.zeros((32, 32), np.float32)
    anomaly_map[3, 3] = 0.5
    assert len(find_regions(anomaly_map, PLACE, 0.5)) == 1
    assert find_regions(anomaly_map, PLACE, float(np.nextafter(np.float32(0.5), np.float32(1)))) == ()


def test_small_regions_are_dropped_by_frame_area() -> None:
    assert [r.area_px for r in find_regions(hand_made_map(), PLACE, 0.5, min_area_px=30)] == [180, 30]
    assert [r.area_px for r in find_regions(hand_made_map(), PLACE, 0.5, min_area_px=30.1)] == [180]


def test_pixels_that_do_not_count_make_no_region() -> None:
    counted = np.ones((32, 32), bool)
    counted[:, 15:] = False
    regions = find_regions(hand_made_map(), PLACE, 0.5, counted=counted)
    assert [region.box_xywh for region in regions] == [(30, 8, 15, 6), (0, 56, 9, 6)]


def test_the_letterbox_border_makes_no_region() -> None:
    place = Preprocess(size_hw=(32, 32), fit="letterbox").placement((64, 32))  # frame in columns 8..24
    anomaly_map = np.zeros((32, 32), np.float32)
    anomaly_map[10:12, 4:10] = 1
    (region,) = find_regions(anomaly_map, place, 0.5)
    assert region.box_xywh == (0, 20, 4, 4)


def test_a_crop_gives_coordinates_of_the_whole_frame() -> None:
    cropped = Preprocess(size_hw=(32, 32), crop_xywh=(100, 50, 96, 64)).placement((300, 400))
    for inside, moved in zip(
        find_regions(hand_made_map(), PLACE, 0.5), find_regions(hand_made_map(), cropped, 0.5), strict=True
    ):
        left, top, width, height = inside.box_xywh
        assert moved.box_xywh == (left + 100, top + 50, width, height)
        assert moved.polygon_xy == tuple((x + 100, y + 50) for x, y in inside.polygon_xy)
        assert (moved.area_px, moved.peak, moved.mean) == (inside.area_px, inside.peak, inside.mean)


def test_whole_map() -> None:
    (region,) = find_regions(np.ones((32, 32), np.float32), PLACE, 0.5)
    assert region.box_xywh == (0, 0, 96, 64)
    assert region.area_px == 96 * 64


def test_polygon_area_is_close_to_the_regions_area() -> None:
    yy, xx = np.mgrid[:32, :32]
    disc = (np.hypot(yy - 15.5, xx - 15.5) < 10).astype(np.float32)
    (region,) = find_regions(disc, PLACE, 0.5)
    x, y = np.array(region.polygon_xy).T
    shoelace = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert shoelace == pytest.approx(region.area_px, rel=0.1)  # half a network pixel along the outline


@pytest.mark.parametrize(
    ("most", "min_area_px", "peaks", "left_out"),
    [
        (None, 0, [0.9, 0.8, 0.55], 0),
        (3, 0, [0.9, 0.8, 0.55], 0),
        (2, 0, [0.9, 0.8], 1),
        (1, 30, [0.8], 1),  # the region of one pixel is too small to count
    ],
)
def test_those_with_the_highest_peaks_are_reported(
    most: int | None, min_area_px: float, peaks: list[float], left_out: int
) -> None:
    found = find_all(hand_made_map(), PLACE, 0.5, most=most, min_area_px=min_area_px)
    assert [region.peak for region in found.regions] == pytest.approx(peaks)
    assert found.left_out == left_out
    assert found.regions == find_regions(hand_made_map(), PLACE, 0.5, min_area_px=min_area_px)[: len(peaks)]
