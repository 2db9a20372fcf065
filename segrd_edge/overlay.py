"""An inspection drawn on its frame: heat map, region outlines, verdict and score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .errors import FrameError
from .frames import PixelOrder, as_frame
from .inspection import Inspection, Region
from .preprocess import Placement

# BGR. Blue and orange-red stay apart for colour-blind eyes, and the verdict is also a word.
_GOOD, _DEFECT, _WHITE = (120, 70, 0), (30, 60, 200), (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SMALLEST_SCALE = 0.28  # of the font: about 6 px high, the smallest that can be read
_HALO_FROM_PX = 200  # smaller frames would show more halo than region
_HEAT_OPACITY = 0.55
_OUTSIDE_BRIGHTNESS = 0.4  # of what lies outside the crop: still to be recognised, plainly not looked at
# Heat 0..255 with the threshold at 128: what is clearly good stays untouched, and opacity rises towards the threshold.
_OPACITY = np.clip((np.arange(256, dtype=np.float32) - 64) / 64, 0, 1) * np.float32(_HEAT_OPACITY)


def draw_overlay(
    frame: npt.NDArray[Any],
    inspection: Inspection,
    *,
    pixel_order: PixelOrder = "bgr",
    value_range: tuple[int, int] | None = None,
) -> npt.NDArray[np.uint8]:
    """Draw an inspection on the frame that it belongs to.

    Args:
        frame: as given to `Detector.inspect`, with the same `pixel_order` and `value_range`.

    Returns:
        uint8 H×W×3 BGR, newly allocated; ready for `cv2.imwrite`.

    Raises:
        FrameError: the frame is not one, or has another size than the inspected one.
    """
    picture = as_frame(frame, pixel_order=pixel_order, value_range=value_range)
    if picture.shape[:2] != inspection.frame_hw:
        raise FrameError(
            f"a frame of {picture.shape[1]}×{picture.shape[0]} pixels",
            expected="the inspected frame, of {1}×{0} pixels".format(*inspection.frame_hw),
        )
    picture = blend_heat(picture, inspection.anomaly_map, inspection.placement, inspection.threshold)
    draw_regions(picture, inspection.regions)
    _draw_banner(picture, inspection)
    return picture


def blend_heat(
    picture: npt.NDArray[np.uint8], anomaly_map: npt.NDArray[np.float32], placement: Placement, threshold: float
) -> npt.NDArray[np.uint8]:
    """The map in colours over a picture of its frame at any scale: uint8 H×W×3 BGR in and out, h×w map in [0, 1].

    What lies outside the crop, where there is one, is darkened.
    """
    # min and max keep the three points in order where the threshold lies outside the map's range.
    low, high = min(threshold, 0.0), max(threshold, 1.0)
    heat = np.interp(anomaly_map, (low, threshold, high), (0, 128, 255))
    inner = np.ascontiguousarray(placement.covered(np.rint(heat).astype(np.uint8)))
    beneath = np.ascontiguousarray(placement.seen(picture))
    heat_u8 = cv2.resize(inner, beneath.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    opacity = cv2.LUT(heat_u8, _OPACITY)
    colours = cv2.applyColorMap(heat_u8, cv2.COLORMAP_TURBO)
    blended = np.asarray(cv2.blendLinear(beneath, colours, 1 - opacity, opacity), np.uint8)
    if placement.crop_xywh is None:
        return blended
    whole = cv2.convertScaleAbs(picture, alpha=_OUTSIDE_BRIGHTNESS)
    placement.seen(whole)[...] = blended
    return np.asarray(whole, np.uint8)


def draw_regions(picture: npt.NDArray[np.uint8], regions: Sequence[Region], scale: float = 1.0) -> None:
    """Outline regions in place, on a picture of the frame at `scale` (uint8 H×W×3 BGR)."""
    shorter = min(picture.shape[:2])
    thickness = max(1, round(shorter / 300))
    for region in regions:
        # Polygons run along pixel edges; drawing addresses pixel centres.
        points = np.rint(np.array(region.polygon_xy) * scale - 0.5).astype(np.int32)
        if shorter >= _HALO_FROM_PX:
            cv2.polylines(picture, [points], True, _WHITE, thickness + 2, cv2.LINE_AA)
        cv2.polylines(picture, [points], True, _DEFECT, thickness, cv2.LINE_AA)


def _draw_banner(picture: npt.NDArray[np.uint8], inspection: Inspection) -> None:
    """Verdict and score along the top edge, as large as 1/16 of the height and as short as the width demands."""
    height, width = picture.shape[:2]
    sign = ">=" if inspection.is_defect else "<"
    word = inspection.verdict.upper()
    score = f"{word} {inspection.score:.3f}"
    wanted = max(_SMALLEST_SCALE, height / 16 / 40)  # a capital is 22 px high at scale 1; 40 leaves a margin
    for text in (f"{score} {sign} {inspection.threshold:.3f}", score, word):
        (text_width, _), _ = cv2.getTextSize(text, _FONT, wanted, 1)
        scale = min(wanted, wanted * 0.96 * width / text_width)
        if scale >= max(_SMALLEST_SCALE, wanted / 2):
            break
    scale = max(scale, 0.1)
    thickness = max(1, round(scale * 1.5))
    (_, text_height), baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    bottom = min(height, text_height + 2 * baseline)
    picture[:bottom] = _DEFECT if inspection.is_defect else _GOOD
    cv2.putText(picture, text, (baseline // 2, text_height + baseline), _FONT, scale, _WHITE, thickness, cv2.LINE_AA)
