"""Patches of other good images, blended in without a seam: NSA, natural synthetic anomalies (Schlüter et al., 2022).

A patch of another photograph, a little larger or smaller, is cloned into the image by solving Poisson's equation: the
gradients are the patch's, the border is the image's. Structure is in the wrong place, while no edge gives it away; that
complements foreign textures, which rather look wrong than misplaced. Sizes and counts follow the authors'
code (hmsch/natural-synthetic-anomalies): a gamma-distributed extent, resized and clipped to the same bounds again, and
a coin for every further patch. The label's tolerance and the even choice of cloning mode are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .base import Image, Mask

HALF_EXTENT = (0.05, 0.2)  # of the image's side, clipped from a gamma distribution
GAMMA, LEAST_DRAWN = (2.0, 0.05), 0.03  # shape and scale of that, and what is added to it
SCALE = (0.7, 1.3)  # of the patch, clipped from a normal distribution around 1
SCALE_STD = 0.5
MOST_PATCHES = 4  # the first always, each further one with probability 1/2
LEAST_ON_OBJECT = 0.25  # share of the patch, where it comes from and where it goes
VISIBLE_CHANGE = 8  # grey levels: what changed less is not called a defect
SMALLEST_PX = 8  # OpenCV leaves out three pixels at every border of a clone
_ATTEMPTS = 10


@dataclass(frozen=True)
class PatchDefects:
    """Draws (corrupted image, mask) for a good image, from patches of `images` (network images of good parts).

    A foreground counts for both ends of a patch, as if the object lay alike in all images.
    """

    images: Sequence[Image]

    def __call__(self, image: Image, rng: np.random.Generator, foreground: Mask | None = None) -> tuple[Image, Mask]:
        corrupted = image
        for number in range(MOST_PATCHES):
            if number and rng.random() < 0.5:
                continue
            source = self.images[int(rng.integers(len(self.images)))]
            corrupted = _with_patch(corrupted, source, foreground, rng)
        change = np.abs(corrupted.astype(np.int16) - image).max(axis=2) >= VISIBLE_CHANGE
        mask = np.asarray(cv2.medianBlur(change.astype(np.uint8), 5) > 0)  # no speckles
        if foreground is not None:
            mask &= foreground
        return (corrupted.copy() if corrupted is image else corrupted), mask


def _with_patch(image: Image, source: Image, foreground: Mask | None, rng: np.random.Generator) -> Image:
    """`image` with one patch of `source`; `image` itself where no place on the object was found."""
    height, width = image.shape[:2]
    half = [np.clip(LEAST_DRAWN + rng.gamma(*GAMMA), *HALF_EXTENT) for _ in range(2)]
    scale = float(np.clip(rng.normal(1, SCALE_STD), *SCALE))
    size, scaled = (
        [max(SMALLEST_PX, int(2 * side * extent)) for side, extent in zip((height, width), extents, strict=True)]
        for extents in (half, [np.clip(extent * scale, *HALF_EXTENT) for extent in half])
    )
    origin, place = _place(size, foreground, image, rng), _place(scaled, foreground, image, rng)
    mode = cv2.NORMAL_CLONE if rng.random() < 0.5 else cv2.MIXED_CLONE
    if origin is None or place is None:
        return image
    patch = cv2.resize(source[origin], (scaled[1], scaled[0]), interpolation=cv2.INTER_LINEAR)
    allowed = np.ones(scaled, bool) if foreground is None else foreground[place]
    return _cloned(image, np.asarray(patch), allowed, place, mode)


def _place(
    size: Sequence[int], foreground: Mask | None, image: Image, rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Rows and columns of a window of `size`; on the object, well enough, where there is a foreground."""
    sides = image.shape[:2]
    if foreground is None:
        return _window([int(rng.integers(side)) for side in sides], size, sides)
    pixels = np.argwhere(foreground)
    for _ in range(_ATTEMPTS if len(pixels) else 0):
        window = _window(pixels[int(rng.integers(len(pixels)))], size, sides)
        if foreground[window].mean() >= LEAST_ON_OBJECT:
            return window
    return None


def _window(centre: Sequence[int], size: Sequence[int], sides: Sequence[int]) -> tuple[slice, slice]:
    """Around `centre`, pushed inside the image."""
    starts = [int(np.clip(c - s // 2, 0, side - s)) for c, s, side in zip(centre, size, sides, strict=True)]
    return slice(starts[0], starts[0] + size[0]), slice(starts[1], starts[1] + size[1])


def _cloned(image: Image, patch: Image, allowed: Mask, place: tuple[slice, slice], mode: int) -> Image:
    """Poisson blending of `patch` at `place`, where `allowed`."""
    rows, columns = (np.flatnonzero(allowed.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mask = allowed[box].astype(np.uint8) * 255
    if min(mask.shape) < SMALLEST_PX:
        return image
    # OpenCV puts the centre of the mask's bounding box here.
    centre = (
        place[1].start + columns[0] + mask.shape[1] // 2,
        place[0].start + rows[0] + mask.shape[0] // 2,
    )
    centre_xy = (int(centre[0]), int(centre[1]))
    cloned = np.asarray(cv2.seamlessClone(np.ascontiguousarray(patch[box]), image, mask, centre_xy, mode), np.uint8)
    # It solves over the whole box, so that pixels around the object may have moved too.
    cloned[place] = np.where(allowed[..., None], cloned[place], image[place])
    return cloned
