"""Which pixels of a frame count: the region of interest and the ignore mask."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import OptionError
from .preprocess import Placement

_MOST_KEPT = 16  # more frame sizes than the cameras of one line have


class Counting:
    """Which network pixels count, worked out once per frame size.

    Args:
        roi_xywh: region of interest in frame pixels (left, top, width, height), or None.
        ignore_mask: H×W bool or uint8 of the frame's size, not zero where the frame is to be ignored, or None.

    Raises:
        OptionError: either cannot be one.
    """

    def __init__(self, roi_xywh: tuple[int, int, int, int] | None, ignore_mask: npt.NDArray[Any] | None) -> None:
        self._roi_xywh = None if roi_xywh is None else _roi(roi_xywh)
        self._ignored = None if ignore_mask is None else _ignored(ignore_mask)
        self._by_placement: dict[Placement, npt.NDArray[np.bool_]] = {}

    def at_network_size(self, placement: Placement) -> npt.NDArray[np.bool_] | None:
        """Bool h×w, or None where every pixel counts. Not to be written to."""
        if self._roi_xywh is None and self._ignored is None:
            return None
        counted = self._by_placement.get(placement)
        if counted is None:
            counted = placement.mask_to_network(self._in_frame(placement.frame_hw))
            if not counted.any():
                crop = placement.crop_xywh
                inside = (
                    "" if crop is None else f" inside the crop {','.join(map(str, crop))} (left, top, width, height)"
                )
                raise OptionError(
                    "the region of interest and the ignore mask leave no pixel to inspect",
                    expected=f"at least one pixel of the network's {placement.size_hw} (height, width){inside}",
                    fix="enlarge the region of interest, or train with a larger --size",
                )
            if len(self._by_placement) >= _MOST_KEPT:
                self._by_placement.clear()
            self._by_placement[placement] = counted
        return counted

    def _in_frame(self, frame_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
        counted = np.ones(frame_hw, bool)
        if self._roi_xywh is not None:
            left, top, width, height = self._roi_xywh
            if left + width > frame_hw[1] or top + height > frame_hw[0]:
                raise OptionError(
                    f"roi_xywh={self._roi_xywh} reaches outside a frame of {frame_hw[1]}×{frame_hw[0]} pixels",
                    expected=f"left + width <= {frame_hw[1]} and top + height <= {frame_hw[0]}",
                )
            counted[...] = False
            counted[top : top + height, left : left + width] = True
        if self._ignored is not None:
            if self._ignored.shape != frame_hw:
                raise OptionError(
                    "an ignore mask of {1}×{0} pixels".format(*self._ignored.shape)
                    + f" for a frame of {frame_hw[1]}×{frame_hw[0]}",
                    expected="a mask of the frame's own size",
                )
            counted &= ~self._ignored
        return counted


def _roi(roi_xywh: Any) -> tuple[int, int, int, int]:
    try:
        left, top, width, height = map(index, roi_xywh)
    except (TypeError, ValueError):  # no whole numbers, or not four
        left = top = width = height = -1
    if min(left, top) < 0 or min(width, height) < 1:
        raise OptionError(
            f"roi_xywh={roi_xywh!r}",
            expected="whole frame pixels: left >= 0, top >= 0, width >= 1, height >= 1",
        )
    return left, top, width, height


def _ignored(mask: Any) -> npt.NDArray[np.bool_]:
    """A copy: the caller's may change."""
    expected = "bool or uint8, H×W of the frame's size; not zero where the frame is to be ignored"
    if not isinstance(mask, np.ndarray):
        raise OptionError(f"an ignore mask of type {type(mask).__name__}", expected=f"a numpy array: {expected}")
    if mask.ndim != 2 or mask.dtype not in (np.bool_, np.uint8):
        raise OptionError(f"an ignore mask of dtype {mask.dtype} and shape {mask.shape}", expected=expected)
    return np.asarray(mask != 0)
