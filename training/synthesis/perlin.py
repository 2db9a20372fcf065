"""A Perlin-shaped patch of a foreign texture blended into a good image (DRAEM, DeSTSeg, SegRD++)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from .base import Image, Mask
from .textures import Textures

MAX_EXPONENT = 5  # grids of 1 to 32 cells per axis
FIELD_THRESHOLD = 0.5
OPACITY = (0.2, 1.0)  # the published code's range; the paper says [0.15, 1]


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
