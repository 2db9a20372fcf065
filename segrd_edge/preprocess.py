"""Preprocessing as data: one frozen record that training, evaluation, calibration and the runtime all use.

`Preprocess.resize` is the only resize between a frame and the network. Where an axis shrinks it is area averaging (each
network pixel is the mean of the frame area that it covers, so fine defects are not aliased away); where an axis grows
it is bilinear. Normalisation happens inside the deploy graph (`export.deploy`) and, for training, in `training.maps`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from .errors import OptionError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SIZE_MULTIPLE = 32  # the coarsest feature map of the backbones is 1/32 of the image


@dataclass(frozen=True)
class Placement:
    """Where a frame lies inside the network image, and the way back.

    The frame of `frame_hw` pixels fills the rectangle `top, left, height, width` of a network image of `size_hw`
    pixels; the rest, if any, is letterbox border. Coordinates are pixel edges: (0, 0) is the outer corner of the
    first pixel.
    """

    frame_hw: tuple[int, int]
    size_hw: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Frame pixels per network pixel along x and y."""
        return self.frame_hw[1] / self.width, self.frame_hw[0] / self.height

    def to_frame_xy(self, points_xy: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Network coordinates (…, 2) as x, y → frame coordinates, clipped to the frame."""
        points = np.asarray(points_xy, dtype=np.float64)
        moved = (points - (self.left, self.top)) * self.scale_xy
        return np.clip(moved, 0, (self.frame_hw[1], self.frame_hw[0]))

    def crop(self, network_hw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part of a network-size array (h×w or h×w×c) that the frame covers; a view."""
        return network_hw[self.top : self.top + self.height, self.left : self.left + self.width]

    def map_to_frame(self, network_map: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A map of network size (h×w float32) at the frame's resolution (H×W float32, bilinear)."""
        height, width = self.frame_hw
        inner = np.ascontiguousarray(self.crop(network_map))
        return np.asarray(cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def mask_to_network(self, frame_mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """A boolean mask of frame size (H×W) at network size: True where at least half of the area is; border False."""
        inside = shrink_or_grow(frame_mask.astype(np.uint8) * 255, (self.height, self.width)) >= 128
        mask = np.zeros(self.size_hw, bool)
        self.crop(mask)[...] = inside
        return mask


@dataclass(frozen=True)
class Preprocess:
    """How a frame becomes what the network sees. Stored in the run and in the bundle.

    Raises:
        OptionError: a size that is not a multiple of 32, or an unknown fit or pixel order.
    """

    size_hw: tuple[int, int] = (256, 256)  # network size
    fit: Literal["stretch", "letterbox"] = "stretch"  # stretch ignores the aspect ratio, as the papers do
    pixel_order: Literal["rgb", "bgr"] = "rgb"  # channel order that the network was trained with
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixels / 255, in `pixel_order`
    std: tuple[float, float, float] = IMAGENET_STD
    fill: int = 114  # grey level of the letterbox border
    value_range: tuple[int, int] | None = None  # of 16-bit frames: (black, white); None refuses them

    def __post_init__(self) -> None:
        if len(self.size_hw) != 2 or any(s < SIZE_MULTIPLE or s % SIZE_MULTIPLE for s in self.size_hw):
            raise OptionError(
                f"network size {'x'.join(map(str, self.size_hw))} cannot be used",
                expected=f"height and width that are positive multiples of {SIZE_MULTIPLE}",
                fix="for example --size 256 or --size 256x640 (height x width)",
            )
        if self.fit not in ("stretch", "letterbox"):
            raise OptionError(f"unknown fit {self.fit!r}", expected="'stretch' or 'letterbox'")
        if self.pixel_order not in ("rgb", "bgr"):
            raise OptionError(f"unknown pixel order {self.pixel_order!r}", expected="'rgb' or 'bgr'")

    def placement(self, frame_hw: tuple[int, int]) -> Placement:
        """Where a frame of `frame_hw` pixels lands in the network image."""
        height, width = self.size_hw
        if self.fit == "stretch":
            return Placement(frame_hw, self.size_hw, 0, 0, height, width)
        scale = min(height / frame_hw[0], width / frame_hw[1])
        inner_h = min(height, max(1, round(frame_hw[0] * scale)))
        inner_w = min(width, max(1, round(frame_hw[1] * scale)))
        return Placement(frame_hw, self.size_hw, (height - inner_h) // 2, (width - inner_w) // 2, inner_h, inner_w)

    def resize(self, frame_bgr_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A frame (uint8 H×W×3, BGR) → the network image before normalisation (uint8 h×w×3, BGR), newly allocated."""
        place = self.placement((frame_bgr_u8.shape[0], frame_bgr_u8.shape[1]))
        inner = shrink_or_grow(frame_bgr_u8, (place.height, place.width))
        if (place.height, place.width) == self.size_hw:
            return inner
        image = np.full((*self.size_hw, 3), self.fill, np.uint8)
        place.crop(image)[...] = inner
        return image

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`, also after JSON has turned the tuples into lists."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


def shrink_or_grow(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize H×W or H×W×3 uint8: area averaging along axes that shrink, bilinear along axes that grow.

    OpenCV's INTER_AREA averages only where both axes shrink, so a mixed case takes two passes. A copy is returned even
    where nothing changes, so that the result never aliases the caller's frame.
    """
    height, width = image.shape[:2]
    small = (min(height, size_hw[0]), min(width, size_hw[1]))
    if small != (height, width):
        image = np.asarray(cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    if small != size_hw:
        return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    return image if small != (height, width) else image.copy()
