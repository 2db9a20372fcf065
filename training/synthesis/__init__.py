"""Synthetic defects, to choose and to mix.

    perlin   a Perlin-shaped patch of a foreign texture (DRAEM, DeSTSeg, SegRD++)
    nsa      patches of other good images, Poisson-blended (NSA)
    simplex  a patch of simplex noise (RD++)

Everything random comes from the generator that the caller passes in, so a sample is a function of its seed and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from segrd_edge.errors import OptionError

from .base import Defects, Image, Mask
from .foreground import foreground_mask
from .patches import PatchDefects
from .perlin import FIELD_THRESHOLD, PerlinDefects, perlin_field
from .simplex import SimplexDefects
from .textures import SelfTextures, TextureFolder, Textures

__all__ = [
    "DEFECTS",
    "FIELD_THRESHOLD",
    "Defects",
    "Image",
    "Mask",
    "MixedDefects",
    "PatchDefects",
    "PerlinDefects",
    "SelfTextures",
    "SimplexDefects",
    "TextureFolder",
    "Textures",
    "create_defects",
    "foreground_mask",
    "perlin_field",
]

DEFECTS: dict[str, Callable[[Sequence[Image], Textures], Defects]] = {
    "perlin": lambda images, textures: PerlinDefects(textures),
    "nsa": lambda images, textures: PatchDefects(images),
    "simplex": lambda images, textures: SimplexDefects(),
}


@dataclass(frozen=True)
class MixedDefects:
    """One of several kinds for each image, all equally likely."""

    kinds: Sequence[Defects]

    def __call__(self, image: Image, rng: np.random.Generator, foreground: Mask | None = None) -> tuple[Image, Mask]:
        return self.kinds[int(rng.integers(len(self.kinds)))](image, rng, foreground)


def create_defects(names: Sequence[str], images: Sequence[Image], textures: Textures) -> Defects:
    """Defects by name, mixed evenly; a name that comes twice comes twice as often.

    Args:
        images: network images of good parts, for patches.
        textures: for Perlin-shaped ones.

    Raises:
        OptionError: no name, or an unknown one.
    """
    unknown = [name for name in names if name not in DEFECTS]
    if unknown or not names:
        raise OptionError(
            f"unknown synthetic defects {', '.join(map(repr, unknown))}" if names else "no synthetic defects",
            expected="one or more of " + ", ".join(DEFECTS),
            fix="for example perlin,nsa",
        )
    kinds = [DEFECTS[name](images, textures) for name in names]
    return kinds[0] if len(kinds) == 1 else MixedDefects(kinds)
