"""Preprocessing as data: one frozen record that training, evaluation, calibration and the runtime all use.

`Preprocess.resize` is the only way from a frame to the network: it cuts the crop out, where there is one, and resizes
it. Where an axis shrinks that is area averaging (each network pixel is the mean of the frame area that it covers, so
fine defects are not aliased away); where an axis grows it is bilinear. Normalisation happens inside the deploy graph
(`export.deploy`) and, for training, in `training.maps`.

What comes out is one network image. With tiles it is the whole frame at the tiles' scale, of which `Preprocess.grid`
makes network images; its map is stitched from theirs.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from .errors import FrameError, OptionError
from .frames import check_value_range
from .tiles import TileGrid, tile_grid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SIZE_MULTIPLE = 32  # the coarsest feature map of the backbones is 1/32 of the image
_ROWS_FIRST = 4  # of the frame to one of the network's: from there on summing rows first is faster, by up to 4 times
_BAND_BYTES = 1_500_000  # of a frame: averaging fewer takes about as long as waking a thread costs
MOST_OVERLAP = 0.75  # of a tile; every pixel is then computed 16 times


@dataclass(frozen=True)
class Placement:
    """Where a frame lies inside the network image, and the way back.

    The crop of a frame of `frame_hw` pixels, or all of it, fills the rectangle `top, left, height, width` of a network
    image of `size_hw` pixels; the rest, if any, is letterbox border. With tiles, the network image is here the resized
    frame that they are cut from, and a network pixel one of its pixels. Coordinates are pixel edges: (0, 0) is the
    outer corner of the first pixel, of the whole frame and not of the crop.
    """

    frame_hw: tuple[int, int]
    size_hw: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    crop_xywh: tuple[int, int, int, int] | None = None  # of the frame, inside it; None is all of it

    @property
    def seen_xywh(self) -> tuple[int, int, int, int]:
        """The rectangle of the frame that the network sees: the crop, or all of it."""
        return self.crop_xywh or (0, 0, self.frame_hw[1], self.frame_hw[0])

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Frame pixels per network pixel along x and y."""
        _, _, width, height = self.seen_xywh
        return width / self.width, height / self.height

    def to_frame_xy(self, points_xy: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Network coordinates (…, 2) as x, y → coordinates of the whole frame, clipped to what the network sees."""
        left, top, width, height = self.seen_xywh
        points = np.asarray(points_xy, dtype=np.float64)
        moved = (points - (self.left, self.top)) * self.scale_xy + (left, top)
        return np.clip(moved, (left, top), (left + width, top + height))

    def seen(self, picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part of the frame, or of a picture of it at any scale (H×W or H×W×c), that the network sees; a view."""
        left, top, width, height = self.seen_xywh
        rows = _scaled(top, height, picture.shape[0], self.frame_hw[0])
        return picture[rows, _scaled(left, width, picture.shape[1], self.frame_hw[1])]

    def covered(self, network_hw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part of a network-size array (h×w or h×w×c) that shows the frame, no letterbox border; a view."""
        return network_hw[self.top : self.top + self.height, self.left : self.left + self.width]

    def map_to_frame(self, network_map: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A map of network size (h×w float32) at the frame's resolution (H×W float32, bilinear); 0 outside the crop."""
        _, _, width, height = self.seen_xywh
        inner = np.ascontiguousarray(self.covered(network_map))
        resized = np.asarray(cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        if self.crop_xywh is None:
            return resized
        frame_map = np.zeros(self.frame_hw, np.float32)
        self.seen(frame_map)[...] = resized
        return frame_map

    def mask_to_network(self, frame_mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """A boolean mask of frame size (H×W) at network size: True where at least half of the area is; border False."""
        inside = shrink_or_grow(self.seen(frame_mask).astype(np.uint8) * 255, (self.height, self.width)) >= 128
        mask = np.zeros(self.size_hw, bool)
        self.covered(mask)[...] = inside
        return mask


@dataclass(frozen=True)
class Preprocess:
    """How a frame becomes what the network sees. Stored in the run and in the bundle.

    Raises:
        OptionError: a size that is not a multiple of 32, an unknown fit or pixel order, an impossible fill, value
            range, crop or tile.
    """

    size_hw: tuple[int, int] = (256, 256)  # network size
    fit: Literal["stretch", "letterbox"] = "stretch"  # stretch ignores the aspect ratio, as the papers do
    pixel_order: Literal["rgb", "bgr"] = "rgb"  # channel order that the network was trained with
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixels / 255, in `pixel_order`
    std: tuple[float, float, float] = IMAGENET_STD
    fill: int = 114  # grey level of the letterbox border
    value_range: tuple[int, int] | None = None  # of 16-bit frames: (black, white); None refuses them
    crop_xywh: tuple[int, int, int, int] | None = None  # left, top, width, height, frame pixels: all that is looked at
    tile_hw: tuple[int, int] | None = None  # frame pixels that a network image shows; None: the whole crop or frame
    overlap: float = 0.25  # share of a tile that neighbours have in common, at least

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
        if not (isinstance(self.fill, int) and 0 <= self.fill <= 255):
            raise OptionError(f"fill={self.fill!r}", expected="a grey level, 0 to 255")
        if self.value_range is not None:
            check_value_range(self.value_range)
        crop = self.crop_xywh
        if crop is not None and (len(crop) != 4 or min(crop[:2]) < 0 or min(crop[2:]) < 1):
            raise OptionError(
                f"crop {','.join(map(str, crop))} cannot be used",
                expected="left >= 0, top >= 0, width >= 1, height >= 1, in frame pixels",
                fix="for example --crop 100,0,1800,1800",
            )
        self._check_tiles()

    @property
    def least_frame_hw(self) -> tuple[int, int]:
        """Height and width of the smallest frame that the crop lies inside of, and that is no smaller than a tile."""
        left, top, width, height = self.crop_xywh or (0, 0, *(self.tile_hw or (1, 1))[::-1])
        return top + height, left + width

    def grid(self, image_hw: tuple[int, int]) -> TileGrid:
        """The network images in what `resize` returns, `image_hw` pixels of it; one, but for frames with tiles."""
        return tile_grid(image_hw, image_hw if self.tile_hw is None else self.size_hw, self.overlap)

    def network_images(self, frame_bgr_u8: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
        """All that the network is shown of a frame (uint8 H×W×3, BGR): one image (uint8 h×w×3, BGR) or a tile each.

        Tiles are views of one array, and overlap.

        Raises:
            FrameError: as `resize`.
        """
        image = self.resize(frame_bgr_u8)
        return self.grid((image.shape[0], image.shape[1])).cut(image)

    def placement(self, frame_hw: tuple[int, int]) -> Placement:
        """Where a frame of `frame_hw` pixels lands in the network image.

        Raises:
            FrameError: the crop reaches outside the frame, or the frame is smaller than a tile.
        """
        self._check_crop(frame_hw)
        if self.tile_hw is not None:
            return self._tiled_placement(frame_hw, self.tile_hw)
        height, width = self.size_hw
        if self.fit == "stretch":
            return Placement(frame_hw, self.size_hw, 0, 0, height, width, self.crop_xywh)
        seen_w, seen_h = self.crop_xywh[2:] if self.crop_xywh else frame_hw[::-1]
        scale = min(height / seen_h, width / seen_w)
        inner_h = min(height, max(1, round(seen_h * scale)))
        inner_w = min(width, max(1, round(seen_w * scale)))
        top, left = (height - inner_h) // 2, (width - inner_w) // 2
        return Placement(frame_hw, self.size_hw, top, left, inner_h, inner_w, self.crop_xywh)

    def resize(self, frame_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A frame (uint8 H×W×3, or H×W grey) → the network image before normalisation (uint8 h×w×3), newly allocated.

        With tiles, the image that `grid` cuts into network images. Channels stay in their order; grey is resized as one
        channel and becomes three equal ones.

        Raises:
            FrameError: the crop reaches outside the frame, or the frame is smaller than a tile.
        """
        place = self.placement((frame_u8.shape[0], frame_u8.shape[1]))
        inner = shrink_or_grow(place.seen(frame_u8), (place.height, place.width))
        if inner.ndim == 2:
            inner = np.asarray(cv2.cvtColor(inner, cv2.COLOR_GRAY2BGR), np.uint8)
        if (place.height, place.width) == place.size_hw:
            return inner
        image = np.full((*self.size_hw, 3), self.fill, np.uint8)
        place.covered(image)[...] = inner
        return image

    def _tiled_placement(self, frame_hw: tuple[int, int], tile_hw: tuple[int, int]) -> Placement:
        seen_hw = (self.crop_xywh[3], self.crop_xywh[2]) if self.crop_xywh else frame_hw
        if seen_hw[0] < tile_hw[0] or seen_hw[1] < tile_hw[1]:
            raise FrameError(
                f"a frame of {frame_hw[1]}×{frame_hw[0]} pixels (width×height)",
                expected=f"at least one tile of {tile_hw[1]}×{tile_hw[0]} frame pixels",
                fix="train with a smaller --tile, or without it for frames this small",
            )
        # The scale is that of the tile, so that a defect has one size in frames of every size.
        height, width = (
            max(size, round(seen * size / tile))
            for seen, size, tile in zip(seen_hw, self.size_hw, tile_hw, strict=True)
        )
        return Placement(frame_hw, (height, width), 0, 0, height, width, self.crop_xywh)

    def _check_tiles(self) -> None:
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise OptionError(f"an overlap of {self.overlap}", expected=f"0 to {MOST_OVERLAP}, a share of a tile")
        if self.tile_hw is None:
            return
        if len(self.tile_hw) != 2 or min(self.tile_hw) < 1:
            raise OptionError(
                f"tiles of {'x'.join(map(str, self.tile_hw))} cannot be used",
                expected="a height and a width of at least 1, in frame pixels",
                fix="for example --tile 512",
            )
        crop = self.crop_xywh
        if crop is not None and (crop[3] < self.tile_hw[0] or crop[2] < self.tile_hw[1]):
            raise OptionError(
                f"tiles of {self.tile_hw[1]}×{self.tile_hw[0]} (width×height) in a crop of {crop[2]}×{crop[3]} pixels",
                expected="a crop of at least one tile",
                fix="choose a smaller --tile, or leave it out: the crop alone then fills the network image",
            )
        if self.fit != "stretch":
            raise OptionError(
                f"fit {self.fit!r} with tiles",
                expected="'stretch': tiles fill the network image",
                fix="leave --fit out; a --tile of the network's proportions keeps those of the frame",
            )

    def _check_crop(self, frame_hw: tuple[int, int]) -> None:
        least_hw = self.least_frame_hw
        if self.crop_xywh is not None and (frame_hw[0] < least_hw[0] or frame_hw[1] < least_hw[1]):
            raise FrameError(
                f"a frame of {frame_hw[1]}×{frame_hw[0]} pixels, which the crop {','.join(map(str, self.crop_xywh))} "
                "(left, top, width, height) reaches outside of",
                expected=f"at least {least_hw[1]}×{least_hw[0]} pixels",
                fix="take frames as the camera gave them in training, or train again with a --crop inside these",
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`, also after JSON has turned the tuples into lists."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


def _scaled(start: int, length: int, size: int, frame_size: int) -> slice:
    """A stretch of one axis of the frame on a picture of another size: to whole pixels, and one at least."""
    first = min(round(start * size / frame_size), size - 1)
    return slice(first, max(first + 1, round((start + length) * size / frame_size)))


def shrink_or_grow(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize H×W or H×W×3 uint8: area averaging along axes that shrink, bilinear along axes that grow.

    OpenCV's INTER_AREA averages only where both axes shrink, so a mixed case takes two passes. A copy is returned even
    where nothing changes, so that the result never aliases the caller's frame.
    """
    height, width = image.shape[:2]
    small = (min(height, size_hw[0]), min(width, size_hw[1]))
    if small != (height, width):
        image = _average(image, small)
    if small != size_hw:
        return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    return image if small != (height, width) else image.copy()


def _average(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Area averaging to a size that is no larger along either axis, within one grey level of the exact mean.

    OpenCV halves many times as fast as it averages over anything else. So where both sides shrink by an even factor,
    one halving goes first: of a frame of 1024×1024 to 256×256 that leaves a quarter of the time. Not more than one,
    because each rounds by up to half a level.

    What shrinks by a large and crooked factor goes by `_average_rows_first`.

    OpenCV averages in a single thread where the result is small, however large the frame. A large one is therefore cut
    into bands, whose edges lie on pixel edges before and after, one for each of OpenCV's threads.
    """
    height, width = image.shape[:2]
    if height % (2 * size_hw[0]) == 0 and width % (2 * size_hw[1]) == 0:
        image = np.asarray(cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.uint8)
        height, width = image.shape[:2]
    if (height, width) == size_hw:
        return image
    is_crooked = height % size_hw[0] != 0 or width % size_hw[1] != 0
    average = _average_rows_first if is_crooked and height >= _ROWS_FIRST * size_hw[0] else _average_at_once
    places = math.gcd(height, size_hw[0])  # where bands may begin
    count = min(places, cv2.getNumThreads(), image.size // _BAND_BYTES)
    if count < 2:
        return average(image, size_hw)
    averaged = np.empty((*size_hw, *image.shape[2:]), np.uint8)
    cuts = [places * i // count for i in range(count + 1)]
    before, after = ([cut * (side // places) for cut in cuts] for side in (height, size_hw[0]))

    def average_band(i: int) -> None:
        band = averaged[after[i] : after[i + 1]]
        band[...] = average(image[before[i] : before[i + 1]], band.shape[:2])

    others = [_threads(os.getpid()).submit(average_band, i) for i in range(1, count)]
    average_band(0)
    for other in others:
        other.result()
    return averaged


def _average_at_once(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _average_rows_first(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The same mean, rounded once, in two passes: rows are summed, which OpenCV does at the pace of memory, and what is
    left is averaged along the columns. Row i of the result is of the rows from i · H / h to (i + 1) · H / h."""
    height, rows = image.shape[0], size_hw[0]
    sums = np.empty((rows, *image.shape[1:]), np.float32)
    for i in range(rows):
        row = sums[i : i + 1]
        first, before = divmod(i * height, rows)  # the row that it begins in, and how much of that lies before, in 1/h
        last, within = divmod((i + 1) * height, rows)
        cv2.reduce(image[first + (before > 0) : last], 0, cv2.REDUCE_SUM, dst=row, dtype=cv2.CV_32F)
        if before:
            cv2.scaleAdd(image[first : first + 1].astype(np.float32), 1 - before / rows, row, dst=row)
        if within:
            cv2.scaleAdd(image[last : last + 1].astype(np.float32), within / rows, row, dst=row)
    averaged = cv2.resize(sums, size_hw[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.convertScaleAbs(averaged, alpha=rows / height), np.uint8)


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """For the bands; of this process, because a fork has none of its parent's threads."""
    return ThreadPoolExecutor(thread_name_prefix="segrd-resize")
