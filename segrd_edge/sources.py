"""Where frames come from: a folder, an image, a video, or a camera. One iterator of names and frames for all four."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .errors import DataError, FrameError, SegrdError
from .frames import IMAGE_SUFFIXES, read_frame
from .results import LOGS, OVERLAYS

# Of the frames that a video states, a whole one gives at least this share: some formats only estimate the number, from
# length and rate.
_WHOLE = 0.95

NamedFrame = tuple[str, "npt.NDArray[np.uint8] | SegrdError"]


def is_live(source: str | Path) -> bool:
    """Whether the source is a camera: an index such as "0", or a URL such as rtsp://camera/stream. A folder that is
    called so is a folder."""
    if Path(source).is_dir():
        return False
    return str(source).isdecimal() or "://" in str(source)


def list_images(folder: str | Path) -> list[Path]:
    """All images below a folder, sorted by path; but for overlays that segrd-inspect drew there.

    Raises:
        DataError: there are none.
    """
    folder = Path(folder)
    found = list(folder.rglob("*"))
    drawn = {path.parent / OVERLAYS for path in found if path.name in LOGS}
    images = sorted(
        path
        for path in found
        if path.suffix.lower() in IMAGE_SUFFIXES and drawn.isdisjoint(path.parents) and path.is_file()
    )
    if not images:
        raise DataError(f"{folder}: no images in this folder", expected="files ending in " + ", ".join(IMAGE_SUFFIXES))
    return images


def frames(source: str | Path, *, value_range: tuple[int, int] | None = None) -> Iterator[NamedFrame]:
    """Name and frame (uint8 H×W×3 BGR) of everything that a source delivers.

    A file that cannot be read gives its error in place of a frame, and the iteration goes on. A folder is read
    recursively, in the order of its sorted paths; names are paths below it. Frames of a video or camera are numbered
    from 0; a video that breaks off gives an error in place of what it lacks.

    Args:
        source: folder, image file, video file, camera index ("0") or URL.
        value_range: (black, white) of 16-bit images.

    Raises:
        DataError: at the call, where the source as a whole cannot be used.
    """
    path = Path(source)
    if is_live(source):
        return _captured(source, "camera")
    if path.is_dir():
        return _read_all([(p.relative_to(path).as_posix(), p) for p in list_images(path)], value_range)
    if not path.is_file():
        raise DataError(
            f"{source}: no such file or folder", expected="a folder of images, an image, a video, or a camera"
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _read_all([(path.name, path)], value_range)
    return _captured(source, path.stem)


def count_images(source: str | Path) -> int | None:
    """How many frames `frames` will deliver, None where only the end of the video or stream tells."""
    path = Path(source)
    if path.is_dir():
        return len(list_images(path))
    return 1 if path.suffix.lower() in IMAGE_SUFFIXES and not is_live(source) else None


def _read_all(named: list[tuple[str, Path]], value_range: tuple[int, int] | None) -> Iterator[NamedFrame]:
    return ((name, _read(path, value_range)) for name, path in named)


def _read(path: Path, value_range: tuple[int, int] | None) -> npt.NDArray[np.uint8] | SegrdError:
    try:
        return read_frame(path, value_range=value_range)
    except SegrdError as error:
        return error
    except OSError as error:  # no permission, or a share that went away
        return FrameError(f"{path}: {error.strerror or error}")


def _captured(source: str | Path, stem: str) -> Iterator[NamedFrame]:
    # A decimal string is a camera's index; OpenCV tells index and path apart by type.
    capture = cv2.VideoCapture(int(str(source)) if str(source).isdecimal() else str(source))
    if not capture.isOpened():
        capture.release()
        raise DataError(
            f"{source}: cannot be opened as a video or camera",
            expected="a video that OpenCV can decode, a camera index or a stream's URL",
            fix="check that it plays elsewhere, and that no other program holds the camera",
        )
    return _delivered(capture, source, stem)


def _delivered(capture: Any, source: str | Path, stem: str) -> Iterator[NamedFrame]:
    stated = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    try:
        for number in count():
            name = f"{stem}_{number:06d}"
            delivered, frame = capture.read()
            if not delivered:
                if is_live(source) or number == 0:  # a camera has no end, and a video has a first frame
                    yield name, FrameError(f"{source}: delivered no frame after {number}")
                elif number < _WHOLE * stated:
                    yield (
                        name,
                        FrameError(
                            f"{source}: ended after {number} of {stated:.0f} frames",
                            expected="a video that is whole",
                            fix="copy it again; ffprobe says whether it is damaged",
                        ),
                    )
                return
            yield name, np.asarray(frame, np.uint8)
    finally:
        capture.release()
