"""A patch of simplex noise added to a good image (RD++; Tien et al., CVPR 2023).

The noise (Perlin 2001, in the form of Gustavson 2005) is written here in NumPy: of the packages that have it,
opensimplex takes a second for one patch where it has no compiler at its side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .base import Image, Mask

SIDE_PX = (10, 31)  # of the patch, in an image of 256 pixels; both ends included
STRENGTH = 0.2 * 255  # grey levels at noise 1
OCTAVES, PERSISTENCE, PERIOD_PX = 6, 0.6, 32.0
_REFERENCE_PX = 256
_TO_ONE = 76.0  # brings the largest values of the noise to about 1

_Values = npt.NDArray[np.float64]
_EDGES = np.array([(a, b, 0) for a in (1, -1) for b in (1, -1)], np.float64)
_GRADIENTS = np.concatenate([np.roll(_EDGES, turn, axis=1) for turn in range(3)])  # a cube's 12 edges, 12×3


@dataclass(frozen=True)
class SimplexDefects:
    """Draws (corrupted image, mask) for a good image: RD++'s noise, clipped to 8 bits. The mask is the patch.

    Sizes grow with the image, as RD++ knows 256×256 only. With a foreground the patch is centred on the object.
    """

    def __call__(self, image: Image, rng: np.random.Generator, foreground: Mask | None = None) -> tuple[Image, Mask]:
        sides = image.shape[:2]
        size = [max(2, round(int(rng.integers(SIDE_PX[0], SIDE_PX[1] + 1)) * s / _REFERENCE_PX)) for s in sides]
        corner = [int(rng.integers(0, side - s + 1)) for s, side in zip(size, sides, strict=True)]
        if foreground is not None and foreground.any():
            pixels = np.argwhere(foreground)
            centre = pixels[int(rng.integers(len(pixels)))]
            corner = [int(np.clip(c - s // 2, 0, n - s)) for c, s, n in zip(centre, size, sides, strict=True)]
        patch = slice(corner[0], corner[0] + size[0]), slice(corner[1], corner[1] + size[1])
        mask = np.zeros(sides, bool)
        mask[patch] = True if foreground is None or not foreground.any() else foreground[patch]
        noise = octaves((size[0], size[1]), (_REFERENCE_PX / sides[0], _REFERENCE_PX / sides[1]), rng)
        noisy = np.clip(np.rint(image[patch] + STRENGTH * noise), 0, 255).astype(np.uint8)
        corrupted = image.copy()
        corrupted[patch] = np.where(mask[patch][..., None], noisy, image[patch])
        return corrupted, mask


def octaves(size_hw: tuple[int, int], step_yx: tuple[float, float], rng: np.random.Generator) -> _Values:
    """Sum of octaves of simplex noise, h×w×3, each at twice the frequency and 0.6 of the strength of the one before.

    `step_yx` is the distance of pixels. Channels are slices of one three-dimensional noise at unit distance: alike in
    the slow octaves, different in the fast ones.
    """
    rows, columns = (np.arange(size) * step for size, step in zip(size_hw, step_yx, strict=True))
    y, x, z = np.meshgrid(rows, columns, np.arange(3.0), indexing="ij")
    frequencies = 2.0 ** np.arange(OCTAVES) / PERIOD_PX
    points = frequencies[:, None, None, None, None] * np.stack([x, y, z], axis=-1)
    return np.tensordot(PERSISTENCE ** np.arange(OCTAVES), simplex_noise(points, rng.permutation(256)), axes=1)


def simplex_noise(points: _Values, permutation: npt.NDArray[np.int64]) -> _Values:
    """Simplex noise in [-1, 1] at points (…×3, x y z); `permutation` of 0 … 255 is its seed.

    Space is divided into tetrahedra by skewing a cubic lattice along its diagonal. Each of a point's four corners adds
    (gradient · distance) · max(0, 1/2 − |distance|²)⁴.
    """
    cell = np.floor(points + points.sum(axis=-1, keepdims=True) / 3)
    inside = points - cell + cell.sum(axis=-1, keepdims=True) / 6
    rank = np.argsort(np.argsort(inside, axis=-1, kind="stable"), axis=-1)  # 2 along the longest axis
    total = np.zeros(points.shape[:-1])
    for corner in range(4):  # the walk from the cell's origin goes along the longest axis first
        step = rank >= 3 - corner
        distance = inside - step + corner / 6
        x, y, z = np.moveaxis((cell + step).astype(np.int64), -1, 0)
        hashed = permutation[(x + permutation[(y + permutation[z % 256]) % 256]) % 256]
        reach = np.maximum(0, 0.5 - np.square(distance).sum(axis=-1)) ** 4
        total += reach * (_GRADIENTS[hashed % 12] * distance).sum(axis=-1)
    return _TO_ONE * total
