"""From an anomaly map to regions: connected areas at or above a level, measured in frame pixels.

The work is done at network resolution, where it takes a fraction of a millisecond; only coordinates are scaled.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from .inspection import Region
from .preprocess import Placement

_CORNERS = np.ones((2, 2), np.uint8)
_OUTLINE_TOLERANCE = 0.5  # network pixels that a polygon may lie away from the true outline


def find_regions(
    anomaly_map: npt.NDArray[np.float32],
    placement: Placement,
    level: float,
    *,
    counted: npt.NDArray[np.bool_] | None = None,
    min_area_px: float = 0,
    mm_per_px: float | None = None,
) -> tuple[Region, ...]:
    """Regions of the map at or above `level`, 8-connected, highest peak first.

    Args:
        anomaly_map: float32 h×w at network resolution.
        placement: where the frame lies in the network image; letterbox border never makes a region.
        counted: bool h×w, False where the map is to be ignored; None counts all of it.
        min_area_px: smallest area to report, in frame pixels.
        mm_per_px: size of a frame pixel in mm, for `area_mm2`.
    """
    hot = np.zeros(anomaly_map.shape, np.uint8)
    placement.covered(hot)[...] = placement.covered(anomaly_map) >= level
    if counted is not None:
        hot &= counted
    scale_x, scale_y = placement.scale_xy
    total, labels, stats, _ = cv2.connectedComponentsWithStats(hot, connectivity=8)
    regions = []
    for label in range(1, total):
        area_px = float(stats[label, cv2.CC_STAT_AREA]) * scale_x * scale_y
        if area_px >= min_area_px:
            left, top, width, height = (int(v) for v in stats[label, :4])
            inside = labels[top : top + height, left : left + width] == label
            values = anomaly_map[top : top + height, left : left + width][inside]
            corners_xy = placement.to_frame_xy([(left, top), (left + width, top + height)])
            outline_xy = placement.to_frame_xy(_outline(inside) + np.array((left, top)))
            regions.append(
                Region(
                    box_xywh=_whole_pixels(corners_xy),
                    polygon_xy=tuple((round(float(x), 2), round(float(y), 2)) for x, y in outline_xy),
                    area_px=area_px,
                    area_mm2=None if mm_per_px is None else area_px * mm_per_px**2,
                    peak=float(values.max()),
                    mean=float(values.mean()),
                )
            )
    return tuple(sorted(regions, key=lambda region: (-region.peak, -region.area_px, region.box_xywh)))


def _whole_pixels(corners_xy: npt.NDArray[np.float64]) -> tuple[int, int, int, int]:
    """The smallest box of whole pixels around two corners; rounding noise does not cost a pixel."""
    left, top = (math.floor(v + 1e-6) for v in corners_xy[0])
    right, bottom = (math.ceil(v - 1e-6) for v in corners_xy[1])
    return left, top, right - left, bottom - top


def _outline(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Outer outline of one component (bool h×w) along pixel edges: K×2 x, y.

    `cv2.findContours` runs through pixel centres, half a pixel inside the region, and a single pixel would have no
    extent. Its contour of the pixels' corners, a mask of (h+1)×(w+1), runs along the edges.
    """
    corners = cv2.dilate(np.pad(inside.astype(np.uint8), ((0, 1), (0, 1))), _CORNERS)
    contours, _ = cv2.findContours(corners, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygon = cv2.approxPolyDP(contours[0], _OUTLINE_TOLERANCE, closed=True)
    return np.asarray(polygon, np.float64).reshape(-1, 2)
