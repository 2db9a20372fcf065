"""What every synthetic defect takes and gives."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # h×w×3 BGR at network size
Mask = npt.NDArray[np.bool_]  # h×w


class Defects(Protocol):
    """Draws (corrupted image, mask) for a good image."""

    def __call__(self, image: Image, rng: np.random.Generator, foreground: Mask | None = None) -> tuple[Image, Mask]:
        """A copy of `image` (h×w×3) with a synthetic defect, and the mask (h×w) of where it is; on 8-bit pixels.

        With `foreground` the defect stays on the object.
        """
        ...
