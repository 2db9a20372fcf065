"""The result for one frame. Overlays, logs and reports consume these two records and nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .preprocess import Placement


@dataclass(frozen=True)
class Region:
    """A connected defect area. Coordinates are frame pixels, x right and y down; (0, 0) is the outer corner of the
    first pixel, so a region of one pixel there has the box (0, 0, 1, 1)."""

    box_xywh: tuple[int, int, int, int]  # smallest box of whole pixels around the region
    polygon_xy: tuple[tuple[float, float], ...]  # outline, closed, without holes
    area_px: float  # frame pixels
    area_mm2: float | None  # None where the pixel size is not known
    peak: float  # highest anomaly map value inside
    mean: float  # mean anomaly map value inside

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Inspection:
    """Verdict, score, map, regions and timings of one frame. It owns all of its arrays."""

    verdict: Literal["good", "defect"]
    score: float  # anomaly score
    threshold: float  # at or above which the score is a defect
    anomaly_map: npt.NDArray[np.float32]  # h×w in [0, 1], at network resolution
    placement: Placement  # where the frame lies in the network image, letterbox included
    # Highest peak first; empty unless the verdict is "defect", and where a letterbox border alone made it one.
    regions: tuple[Region, ...]
    timings_ms: dict[str, float]  # preprocess, engine, postprocess, total
    regions_left_out: int = 0  # further regions, beyond the Detector's `max_regions`

    @property
    def is_defect(self) -> bool:
        return self.verdict == "defect"

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Height and width of the frame in pixels."""
        return self.placement.frame_hw

    def map_in_frame(self) -> npt.NDArray[np.float32]:
        """The anomaly map at the frame's resolution: float32 H×W in [0, 1], newly allocated."""
        return self.placement.map_to_frame(self.anomaly_map)

    def to_dict(self) -> dict[str, Any]:
        """All but the map, ready for JSON."""
        return {
            "verdict": self.verdict,
            "score": self.score,
            "threshold": self.threshold,
            "frame_hw": list(self.frame_hw),
            "regions": [region.to_dict() for region in self.regions],
            "regions_left_out": self.regions_left_out,
            "timings_ms": self.timings_ms,
        }
