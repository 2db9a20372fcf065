"""The frames that contenders are measured on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segrd_edge import sources
from segrd_edge.bundle import Bundle
from segrd_edge.errors import OptionError, SegrdError
from segrd_edge.frames import as_frame
from segrd_edge.memory import check_memory
from segrd_edge.preprocess import Preprocess, shrink_or_grow

DEFAULT_FRAME_HW = (1024, 1024)
GOLDEN_FRAMES = 8
MAX_FRAMES = 32  # of a folder: they are all held in memory, so that no disk is measured
_NOISE_GREY_LEVELS = 4.0  # standard deviation of a camera's noise
_SEED = 0


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Frames in memory (uint8 H×W×3 BGR), and where they come from."""

    frames: list[npt.NDArray[np.uint8]]
    source: str

    @property
    def sizes_hw(self) -> list[tuple[int, int]]:
        """The different sizes, smallest first."""
        return sorted({(frame.shape[0], frame.shape[1]) for frame in self.frames})


def choose_frames(
    bundle: Bundle, folder: str | Path | None = None, frame_hw: tuple[int, int] | None = None
) -> FrameSet:
    """`folder_frames`, or without a folder `golden_frames`, of 1024×1024 or what the crop needs where that is more."""
    if folder is not None:
        return folder_frames(folder, bundle, frame_hw)
    height, width = Preprocess.from_dict(bundle.manifest.preprocess).least_frame_hw
    return golden_frames(bundle, frame_hw or (max(height, DEFAULT_FRAME_HW[0]), max(width, DEFAULT_FRAME_HW[1])))


def golden_frames(bundle: Bundle, frame_hw: tuple[int, int]) -> FrameSet:
    """Frames of `frame_hw` made of the bundle's golden network images: enlarged, and each with camera noise of its own,
    so that no two are equal. Outside the crop there is noise alone.

    Raises:
        OptionError: they do not fit the memory.
    """
    rng = np.random.default_rng(_SEED)
    placement = Preprocess.from_dict(bundle.manifest.preprocess).placement(frame_hw)
    images = bundle.golden()["images"]
    count = max(GOLDEN_FRAMES, len(images))
    values = 3 * math.prod(frame_hw)  # of a frame; one at a time has noise, in float32, and is the sum of the two
    what = f"{count} frames of {frame_hw[1]}×{frame_hw[0]} pixels"
    check_memory(what, (count + 3 * 4) * values, "measure with smaller frames", OptionError)
    frames = []
    for number in range(count):
        inside = np.ascontiguousarray(placement.covered(images[number % len(images)]))  # without a letterbox border
        frame = np.zeros((*frame_hw, 3), np.uint8)
        seen = placement.seen(frame)
        seen[...] = shrink_or_grow(inside, (seen.shape[0], seen.shape[1]))
        noise = rng.standard_normal(frame.shape, np.float32) * _NOISE_GREY_LEVELS
        frames.append(np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8))
    return FrameSet(frames, "the bundle's golden images, enlarged, with camera noise")


def folder_frames(folder: str | Path, bundle: Bundle, frame_hw: tuple[int, int] | None) -> FrameSet:
    """The first frames of a folder, at their own size or resized to `frame_hw`.

    Raises:
        DataError: the folder holds no images.
        FrameError: one of them cannot be read.
    """
    value_range = Preprocess.from_dict(bundle.manifest.preprocess).value_range
    frames = []
    for _, content in islice(sources.frames(folder, value_range=value_range), MAX_FRAMES):
        if isinstance(content, SegrdError):
            raise content
        frame = as_frame(content)
        frames.append(frame if frame_hw is None else shrink_or_grow(frame, frame_hw))
    return FrameSet(frames, str(folder))
