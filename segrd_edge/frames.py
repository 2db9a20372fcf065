"""The frame contract: what a camera or a file may deliver, checked once, converted once.

A frame is uint8 H×W×3 (BGR unless told otherwise) or uint8 H×W grey, any size, any memory layout. 16-bit frames are
accepted with a stated value range, because nothing in the pixels says whether white is 4095 or 65535. Everything else
is an error that says what was got and what was expected; the pixel scale is never guessed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from .errors import FrameError, OptionError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
PixelOrder = Literal["bgr", "rgb"]
_EXPECTED = "uint8 H×W×3, uint8 H×W grey, or uint16 of these shapes with value_range=(black, white)"


def as_frame(
    array: Any, *, pixel_order: PixelOrder = "bgr", value_range: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """Check a frame against the contract and bring it to one form.

    Args:
        array: H×W×3, H×W×1 or H×W numpy array; uint8, or uint16 when `value_range` is given.
        pixel_order: channel order of a colour `array`.
        value_range: (black, white) of a uint16 frame; values outside are clipped.

    Returns:
        uint8 H×W×3 BGR, C-contiguous. It shares memory with `array` where nothing had to change.

    Raises:
        FrameError: anything that is not such an array, or an empty one.
        OptionError: a `value_range` that cannot be one.
    """
    return to_bgr(np.ascontiguousarray(as_pixels(array, value_range=value_range)), pixel_order)


def as_pixels(array: Any, *, value_range: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """The first half of `as_frame`: check a frame, and leave its channels and memory layout as they are.

    Returns:
        uint8 H×W×3, or H×W grey. It shares memory with `array` where that is of uint8.

    Raises:
        FrameError, OptionError: as `as_frame`.
    """
    check_frame(array, value_range)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.uint16 and value_range is not None:
        return _to_uint8(array, value_range)
    return np.asarray(array, np.uint8)


def to_bgr(pixels: npt.NDArray[np.uint8], pixel_order: PixelOrder) -> npt.NDArray[np.uint8]:
    """The second half: uint8 H×W×3 in `pixel_order`, or H×W grey → H×W×3 BGR, itself where it is that."""
    if pixels.ndim == 2:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8)
    if pixel_order == "rgb":
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
    return pixels


def read_frame(path: str | Path, *, value_range: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Read a photograph (jpg, png, bmp, tif; grey or colour; 8- or 16-bit) as a frame: uint8 H×W×3 BGR.

    An alpha channel is dropped. EXIF rotation is ignored: a line's camera does not turn, and neither do its masks.

    Raises:
        FrameError: no such file, not an image, or 16-bit without a `value_range`.
    """
    image = read_pixels(path)
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[:, :, :3]
    try:
        return as_frame(image, value_range=value_range)
    except FrameError as error:
        raise FrameError(f"{path}: {error.what}", expected=error.expected, fix=error.fix) from None


def read_pixels(path: str | Path) -> npt.NDArray[Any]:
    """The file's own pixels, unchanged (OpenCV order: BGR or BGRA)."""
    path = Path(path)
    if not path.is_file():
        raise FrameError(f"{path}: no such file")
    # Through a buffer, because OpenCV opens no path with non-ASCII letters on Windows.
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    if image is None:
        raise FrameError(
            f"{path}: cannot be read as an image ({data.size} bytes)",
            expected="an intact " + ", ".join(IMAGE_SUFFIXES),
            fix="open it in an image viewer; replace or delete the file",
        )
    return np.asarray(image)


def check_frame(array: Any, value_range: tuple[int, int] | None) -> None:
    """What `as_pixels` raises, without looking at a pixel."""
    if not isinstance(array, np.ndarray):
        raise FrameError(f"a frame of type {type(array).__name__}", expected=f"a numpy array, {_EXPECTED}")
    if array.dtype == np.uint8 and array.size and array.ndim == 3 and array.shape[2] == 3:
        return  # what nearly every frame is
    got = f"a frame of dtype {array.dtype} and shape {array.shape}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise FrameError(got, expected=_EXPECTED, fix=_fix_of_axes(array))
    if array.size == 0:
        raise FrameError(got, expected="a frame with at least one pixel")
    if array.dtype == np.uint16:
        if value_range is None:
            raise FrameError(
                got + " without a value range",
                expected=_EXPECTED,
                fix="say what black and white are, for example value_range=(0, 4095) for a 12-bit camera",
            )
        check_value_range(value_range)
    elif array.dtype != np.uint8:
        raise FrameError(got, expected=_EXPECTED, fix="convert it where its scale is known")


def check_value_range(value_range: Any) -> None:
    """Raise OptionError for what cannot be the (black, white) of 16-bit frames."""
    try:
        black, white = value_range
        possible = bool(0 <= black < white <= 65535)
    except (TypeError, ValueError):
        possible = False
    if not possible:
        raise OptionError(f"value_range={value_range!r}", expected="(black, white) with 0 <= black < white <= 65535")


def _fix_of_axes(array: npt.NDArray[Any]) -> str:
    if array.ndim == 3 and array.shape[2] == 4:
        return "drop alpha: frame[:, :, :3]"
    if array.ndim == 4:
        return "give several frames to inspect_batch or inspect_many"
    return "bring it to H×W×3 or H×W: channels come last"


def _to_uint8(array: npt.NDArray[Any], value_range: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """round(255 · (v − black) / (white − black)), clipped to 0 … 255; half goes to the even neighbour."""
    black, white = value_range
    above = cv2.subtract(np.ascontiguousarray(array), (float(black),) * 4)  # 0 where it would be negative
    return np.asarray(cv2.convertScaleAbs(above, alpha=255 / (white - black)), np.uint8)
