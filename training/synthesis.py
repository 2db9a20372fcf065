"""Synthetic defects: a Perlin-shaped patch of a foreign texture blended into a good image (DRAEM, DeSTSeg).

Everything random comes from the generator that the caller passes in, so a sample is a function of its seed and
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from segrd_edge.errors import DataError
from segrd_edge.frames import IMAGE_SUFFIXES, read_frame

Image = npt.NDArray[np.uint8]  # h×w×3 BGR at network size
Mask = npt.NDArray[np.bool_]  # h×w

MAX_EXPONENT = 5  # grids of 1 to 32 cells per axis
FIELD_THRESHOLD = 0.5
OPACITY = (0.2, 1.0)  # the published code's range; the paper says [0.15, 1]


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


@dataclass(frozen=True)
class PerlinDefects:
    """Draws (corrupted image, mask) for a good image."""

    textures: Textures
    probability: float = 1.0  # DeSTSeg: always; about 4.5 % of masks come out empty by themselves

    def __call__(self, image: Image, rng: np.random.Generator, foreground: Mask | None = None) -> tuple[Image, Mask]:
        """A copy of `image` (h×w×3) with a synthetic defect, and the mask (h×w) of where it is.

        Blended on 8-bit pixels before any normalisation. With `foreground` the defect stays on the object; masks that
        miss the object entirely are drawn again, at most 4 times.
        """
        size_hw = (image.shape[0], image.shape[1])
        mask = np.zeros(size_hw, bool)
        if rng.random() < self.probability:
            for _ in range(5):
                drawn = perlin_field(size_hw, rng) > FIELD_THRESHOLD
                mask = drawn if foreground is None else drawn & foreground
                if mask.any() or not drawn.any():
                    break
        texture = self.textures.draw(size_hw, rng)
        opacity = np.float32(rng.uniform(*OPACITY))
        corrupted = image.copy()
        blend = opacity * texture[mask].astype(np.float32) + (1 - opacity) * image[mask]
        corrupted[mask] = np.rint(blend).astype(np.uint8)
        return corrupted, mask


def perlin_field(size_hw: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Rotated Perlin noise (h×w float32 in about [-1, 1]) on a grid of 2^a × 2^b cells, a and b from 0 to 5.

    The lattice is evaluated analytically, so any size works; reference code needs sizes that the grid divides.
    """
    cells = 2 ** rng.integers(0, MAX_EXPONENT + 1, 2)
    angles = rng.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1)).astype(np.float32)
    field = _gradient_noise(size_hw, angles)
    height, width = size_hw
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-90, 90), 1.0)
    return np.asarray(cv2.warpAffine(field, turn, (width, height), flags=cv2.INTER_LINEAR), np.float32)


def _gradient_noise(size_hw: tuple[int, int], angles: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Perlin's gradient noise with unit gradients at `angles` ((rows + 1)×(columns + 1)) and the quintic fade.

    On a row of lattice points the noise is linear in the height above it, along + height · across. Both are blended
    along x once per lattice row, and what is left to do per pixel is to blend two of these lines.
    """
    (y0, fy), (x0, fx) = (_lattice(size, cells - 1) for size, cells in zip(size_hw, angles.shape, strict=True))
    gx, gy = np.cos(angles), np.sin(angles)
    u, v = _fade(fx), _fade(fy)[:, None]
    along = gx[:, x0] * (fx * (1 - u)) + gx[:, x0 + 1] * ((fx - 1) * u)
    across = gy[:, x0] * (1 - u) + gy[:, x0 + 1] * u
    above = along[y0] + fy[:, None] * across[y0]
    below = along[y0 + 1] + (fy - 1)[:, None] * across[y0 + 1]
    return np.asarray(np.sqrt(np.float32(2)) * (above + (below - above) * v), np.float32)


def _lattice(size: int, cells: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Cell index and position within the cell of every pixel along one axis."""
    position = np.arange(size, dtype=np.float32) * (cells / size)
    index = np.minimum(position.astype(np.int64), cells - 1)
    return index, position - index.astype(np.float32)


def _fade(t: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return t * t * t * (t * (t * 6 - 15) + 10)


def foreground_mask(image: Image, *, plain_std: float = 14.0) -> Mask | None:
    """The object on a plain background, or None where the background is not plain or no object stands out.

    The background's colour is the median of the border; it is plain when the border, smoothed, varies by less than
    `plain_std` grey levels. The object is what differs from it by more than Otsu's threshold, closed and filled.
    """
    smooth = np.asarray(cv2.GaussianBlur(image, (0, 0), 2)).astype(np.float32)
    ring = max(2, min(image.shape[:2]) // 40)
    border = np.concatenate(
        [part.reshape(-1, 3) for part in (smooth[:ring], smooth[-ring:], smooth[:, :ring], smooth[:, -ring:])]
    )
    background = np.median(border, axis=0)
    if np.abs(border - background).mean(axis=0).max() > plain_std:
        return None
    distance = np.clip(np.abs(smooth - background).max(axis=2), 0, 255).astype(np.uint8)
    level, mask = cv2.threshold(distance, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if level < 8:
        return None
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(image.shape[:2], np.uint8)
    cv2.drawContours(filled, outlines, -1, 255, cv2.FILLED)
    filled = cv2.dilate(filled, kernel)
    share = float((filled > 0).mean())
    return np.asarray(filled > 0) if 0.05 < share < 0.9 else None


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
