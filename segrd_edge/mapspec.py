"""How a model's raw output becomes an anomaly map and an anomaly score, as data.

The same few numbers drive the torch evaluation (`training.maps`), the deploy graph (`export.deploy`) and, where a
region of interest changes which pixels count, the runtime (`segrd_edge.detector`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .errors import OptionError

Activation = Literal["sigmoid", "clip", "none"]


@dataclass(frozen=True)
class MapSpec:
    """Raw output (N×1×h'×w') → anomaly map (N×h×w in [0, 1]) → anomaly score.

    The activation is applied at the raw resolution, then the map is enlarged to the network size (bilinear, half-pixel
    centres), blurred, and its `top_pixels` largest values are averaged. DeSTSeg interpolates probabilities, not logits,
    so the order matters. Enlarging and blurring are weighted means, so the map stays where the activation puts it:

        sigmoid  logits, as of a segmentation head
        clip     distances, cut to [0, 1]: no anomaly is more than 1, and no rounding goes below 0
        none     raw output that lies in [0, 1] by itself

    Raises:
        OptionError: another activation, or a blur or a number of pixels that cannot be.
    """

    activation: Activation = "sigmoid"
    sigma_px: float = 0.0  # Gaussian blur at network size; 0 is none
    top_pixels: int = 100  # T of the top-T mean, counted at network size

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            raise OptionError(f"activation={self.activation!r}", expected=", ".join(get_args(Activation)))
        if not (math.isfinite(self.sigma_px) and self.sigma_px >= 0):
            raise OptionError(f"sigma_px={self.sigma_px}", expected="a finite number >= 0")
        if not (isinstance(self.top_pixels, int) and self.top_pixels >= 1):
            raise OptionError(f"top_pixels={self.top_pixels}", expected="a whole number, at least 1")

    def score(self, values: npt.NDArray[np.float32]) -> float:
        """Mean of the `top_pixels` largest of `values` (any shape, float; fewer values than T: all of them)."""
        flat = values.reshape(-1)
        top = min(self.top_pixels, flat.size)
        if top == 0:
            return 0.0
        return float(np.partition(flat, flat.size - top)[flat.size - top :].mean())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def top_pixels_for(size_hw: tuple[int, int]) -> int:
        """T scaled with the area: 100 at 256×256, as DeSTSeg published it (0.15 % of the image), never below 1."""
        return max(1, round(100 * size_hw[0] * size_hw[1] / 65536))
