"""Where the textures of synthetic defects come from: a folder of pictures, or the training images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from segrd_edge.errors import DataError
from segrd_edge.frames import IMAGE_SUFFIXES, read_frame

from .base import Image


class Textures(Protocol):
    """A source of foreign textures."""

    def draw(self, size_hw: tuple[int, int], rng: np.random.Generator) -> Image: ...


class TextureFolder:
    """Pictures of an outside folder, resized to the network size as the papers do; decoded pictures are kept."""

    def __init__(self, folder: str | Path) -> None:
        self.paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not self.paths:
            raise DataError(
                f"no pictures in the texture folder {folder}",
                expected="files with " + ", ".join(IMAGE_SUFFIXES),
                fix="leave --textures out: textures are then cut from the training images",
            )
        self._cache: dict[int, Image] = {}

    def draw(self, size_hw: tuple[int, int], rng: np.random.Generator) -> Image:
        index = int(rng.integers(len(self.paths)))
        picture = self._cache.get(index)
        if picture is None or picture.shape[:2] != size_hw:
            picture = _resized(read_frame(self.paths[index]), size_hw)
            self._cache[index] = picture
        return picture


class SelfTextures:
    """Textures cut from the training images themselves: another crop, another scale, turned, recoloured and warped.

    Needs nothing from outside. The warp and the recolouring keep a patch from being a plausible good surface.
    """

    def __init__(self, images: Sequence[Image]) -> None:
        self.images = images

    def draw(self, size_hw: tuple[int, int], rng: np.random.Generator) -> Image:
        image = self.images[int(rng.integers(len(self.images)))]
        height, width = image.shape[:2]
        crop_h, crop_w = (max(8, int(side * rng.uniform(0.15, 0.6))) for side in (height, width))
        top, left = rng.integers(0, height - crop_h + 1), rng.integers(0, width - crop_w + 1)
        patch = np.rot90(image[top : top + crop_h, left : left + crop_w], int(rng.integers(4)))
        patch = _warp(_resized(np.ascontiguousarray(patch), size_hw), rng)
        return _recolour(patch, rng)


def _resized(picture: Image, size_hw: tuple[int, int]) -> Image:
    shrinks = picture.shape[0] > size_hw[0] and picture.shape[1] > size_hw[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size_hw[::-1], interpolation=how), np.uint8)


def _warp(patch: Image, rng: np.random.Generator) -> Image:
    """Smooth random displacement of up to about a tenth of the side."""
    height, width = patch.shape[:2]
    coarse = rng.normal(0, 1, (2, 5, 5)).astype(np.float32)
    dx, dy = (
        np.asarray(cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC)) * 0.05 * min(height, width)
        for c in coarse
    )
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.asarray(cv2.remap(patch, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.uint8)


def _recolour(patch: Image, rng: np.random.Generator) -> Image:
    """Contrast, brightness and channel balance changed; now and then inverted."""
    values = patch.astype(np.float32)
    if rng.random() < 0.25:
        values = 255 - values
    values = (values - values.mean()) * rng.uniform(0.6, 1.8) + values.mean() + rng.uniform(-90, 90)
    values *= rng.uniform(0.75, 1.25, 3).astype(np.float32)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
