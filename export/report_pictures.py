"""The pictures of the report: small, and inline as data URIs so that the page is one file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from segrd_edge.errors import SegrdError
from segrd_edge.frames import read_frame
from segrd_edge.overlay import blend_heat, draw_regions
from segrd_edge.preprocess import Placement, Preprocess
from segrd_edge.regions import find_regions
from segrd_edge.training.evaluate import FrameResult

_LONGEST_PX = 300  # of a picture; shown at half of that, sharp on dense screens
_SYNTHETIC_PX = 220
_QUALITY = 84

_Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CasePictures:
    """Data URIs of one evaluated photograph. None where there is nothing to show."""

    frame: str | None  # None: the file is gone
    heat: str | None
    mask: str | None  # None: a good part, or a defect without a mask


def case_pictures(result: FrameResult, preprocess: Preprocess, threshold: float) -> CasePictures:
    """Frame, heat map with the outline of what reaches the threshold, and mask.

    A synthetic defect is painted on the network image; it is shown, enlarged, where that lies in the frame.
    """
    try:
        frame = read_frame(result.photo.path, value_range=preprocess.value_range)
    except SegrdError:
        return CasePictures(None, None, None)
    placement = preprocess.placement((frame.shape[0], frame.shape[1]))
    if result.painted_bgr_u8 is not None:
        seen = placement.seen(frame)
        painted = np.ascontiguousarray(placement.covered(result.painted_bgr_u8))
        seen[...] = cv2.resize(painted, seen.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    mask = None if result.mask is None else _to_png(_mask_picture(result.mask, placement))
    return CasePictures(_to_jpeg(_shrink(frame)), _to_jpeg(_heat_picture(frame, result, placement, threshold)), mask)


def synthetic_pictures(folder: Path, count: int = 9) -> list[list[str]]:
    """The strips that training wrote, taken apart: photograph, synthetic defect, mask, as JPEG data URIs."""
    strips = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in sorted(folder.glob("*.png"))[:count]]
    parts = [np.split(np.asarray(strip, np.uint8), 3, axis=1) for strip in strips if strip is not None]
    return [[_to_jpeg(_shrink(picture, _SYNTHETIC_PX)) for picture in pictures] for pictures in parts]


def frame_sizes_hw(paths: Sequence[Path], value_range: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Distinct sizes of these photographs, the most frequent first; unreadable ones are passed over."""
    counts: dict[tuple[int, int], int] = {}
    for path in paths:
        try:
            height, width = read_frame(path, value_range=value_range).shape[:2]
        except SegrdError:
            continue
        counts[height, width] = counts.get((height, width), 0) + 1
    return sorted(counts, key=lambda size: -counts[size])


def _heat_picture(frame: _Picture, result: FrameResult, placement: Placement, threshold: float) -> _Picture:
    picture = blend_heat(_shrink(frame), result.anomaly_map, placement, threshold)
    if result.score >= threshold:  # as in an inspection: a frame that is called good has no regions
        scale = picture.shape[1] / placement.frame_hw[1]
        draw_regions(picture, find_regions(result.anomaly_map, placement, threshold).regions, scale)
    return picture


def _mask_picture(mask: npt.NDArray[np.bool_], placement: Placement) -> _Picture:
    """White on black, in the frame's proportions; what lies outside the crop is cut off from the mask as well."""
    height, width = placement.frame_hw
    scale = min(1.0, _LONGEST_PX / max(height, width))
    inner = np.ascontiguousarray(placement.covered(mask)).astype(np.uint8) * 255
    picture = np.zeros((max(1, round(height * scale)), max(1, round(width * scale))), np.uint8)
    seen = placement.seen(picture)
    seen[...] = cv2.resize(inner, seen.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return picture


def _shrink(picture: _Picture, longest_px: int = _LONGEST_PX) -> _Picture:
    scale = min(1.0, longest_px / max(picture.shape[:2]))
    if scale == 1.0:
        return picture
    size_wh = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return np.asarray(cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def _to_jpeg(picture: _Picture) -> str:
    return _to_uri(picture, "jpeg", [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])


def _to_png(picture: _Picture) -> str:
    return _to_uri(picture, "png", [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _to_uri(picture: _Picture, kind: str, parameters: list[int]) -> str:
    _, encoded = cv2.imencode(f".{kind}", picture, parameters)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
