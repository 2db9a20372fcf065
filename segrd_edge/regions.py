"""From an anomaly map to regions: connected areas at or above a level, measured in frame pixels.

The work is done at network resolution, where it takes a fraction of a millisecond; only coordinates are scaled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .inspection import Region
from .preprocess import Placement

Point = tuple[float, float]  # x, y
_CORNERS = np.ones((2, 2), np.uint8)
_OUTLINE_TOLERANCE = 0.5  # network pixels that a polygon may lie away from the true outline


class FoundRegions(NamedTuple):
    regions: tuple[Region, ...]  # highest peak first
    left_out: int  # of those that are large enough


def find_regions(
    anomaly_map: npt.NDArray[np.float32],
    placement: Placement,
    level: float,
    *,
    counted: npt.NDArray[np.bool_] | None = None,
    min_area_px: float = 0,
    mm_per_px: float | None = None,
    most: int | None = None,
) -> FoundRegions:
    """Regions of the map at or above `level`, 8-connected, highest peak first.

    Args:
        anomaly_map: float32 h×w at network resolution.
        placement: where the frame lies in the network image; letterbox border never makes a region.
        counted: bool h×w, False where the map is to be ignored; None counts all of it.
        min_area_px: smallest area to report, in frame pixels.
        mm_per_px: size of a frame pixel in mm, for `area_mm2`.
        most: how many to report at most, those with the highest peaks; None: all.
    """
    hot = np.zeros(anomaly_map.shape, np.uint8)
    placement.covered(hot)[...] = placement.covered(anomaly_map) >= level
    if counted is not None:
        hot &= counted
    x, y, width, height = cv2.boundingRect(hot)  # most maps are hot in one small place
    if width == 0:
        return FoundRegions((), 0)
    window = slice(y, y + height), slice(x, x + width)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(hot[window], connectivity=8)
    peaks, means = _values(anomaly_map[window], labels, stats)
    areas_px = stats[:, cv2.CC_STAT_AREA] * math.prod(placement.scale_xy)
    large = np.flatnonzero(areas_px >= min_area_px)
    large = large[large > 0]  # 0 is what is not hot
    order = np.lexsort((*stats[large, :2].T[::-1], -areas_px[large], -peaks[large]))  # as they are sorted below
    kept = large[order][:most].tolist()
    if not kept:
        return FoundRegions((), len(large))
    # What numpy does for all regions at once costs hardly more than for one.
    outlines_xy = [np.add(_outline(labels, label, stats[label, :4]), (x, y)) for label in kept]
    starts_xy, sizes_wh = np.add(stats[kept, :2], (x, y)), stats[kept, 2:4]
    boxes = _whole_pixels(placement.to_frame_xy(np.stack([starts_xy, starts_xy + sizes_wh], axis=1)))
    regions = [
        Region(
            box_xywh=box,
            polygon_xy=polygon,
            area_px=float(areas_px[label]),
            area_mm2=None if mm_per_px is None else float(areas_px[label]) * mm_per_px**2,
            peak=float(peaks[label]),
            mean=float(means[label]),
        )
        for label, box, polygon in zip(kept, boxes, _in_frame(outlines_xy, placement), strict=True)
    ]
    regions.sort(key=lambda region: (-region.peak, -region.area_px, region.box_xywh))
    return FoundRegions(tuple(regions), len(large) - len(kept))


def _values(
    anomaly_map: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], stats: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Peak and mean of the map in every component, by its label; of the background nothing is counted."""
    inside = labels > 0
    owners, values = labels[inside], anomaly_map[inside]
    peaks = np.zeros(len(stats), np.float32)
    np.maximum.at(peaks, owners, values)
    return peaks, np.bincount(owners, values, len(stats)) / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)


def _whole_pixels(ends_xy: npt.NDArray[np.float64]) -> list[tuple[int, int, int, int]]:
    """The smallest boxes of whole pixels around pairs of corners (n×2×2); rounding noise does not cost a pixel."""
    first = np.floor(ends_xy[:, 0] + 1e-6)
    sizes = np.ceil(ends_xy[:, 1] - 1e-6) - first
    return [(x, y, w, h) for x, y, w, h in np.concatenate([first, sizes], axis=1).astype(int).tolist()]


def _in_frame(outlines_xy: list[npt.NDArray[np.int32]], placement: Placement) -> Iterator[tuple[Point, ...]]:
    """Outlines in network coordinates (K×2 each) as polygons in the frame's, to a hundredth of a pixel."""
    points = iter(placement.to_frame_xy(np.concatenate(outlines_xy)).round(2).tolist())
    for outline_xy in outlines_xy:
        yield tuple((x, y) for x, y in islice(points, len(outline_xy)))


def _outline(labels: npt.NDArray[np.int32], label: int, box_xywh: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Outer outline of one component along pixel edges: K×2 x, y.

    `cv2.findContours` runs through pixel centres, half a pixel inside the region, and a single pixel would have no
    extent. Its contour of the pixels' corners, a mask of (h+1)×(w+1), runs along the edges.
    """
    left, top, width, height = box_xywh.tolist()
    inside = cv2.inRange(labels[top : top + height, left : left + width], label, label)
    corners = cv2.dilate(cv2.copyMakeBorder(inside, 0, 1, 0, 1, cv2.BORDER_CONSTANT), _CORNERS)
    contours, _ = cv2.findContours(corners, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    polygon = cv2.approxPolyDP(contours[0], _OUTLINE_TOLERANCE, closed=True)
    return np.asarray(polygon, np.int32).reshape(-1, 2)
