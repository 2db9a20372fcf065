"""How far a graph's answers move from another's on the same images: what decides whether an INT8 graph is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from segrd_edge.engines import EngineOutput


@dataclass(frozen=True)
class Drift:
    """Differences over all images between two graphs' scores and anomaly maps."""

    score_mean: float  # mean absolute difference of the anomaly scores
    score_max: float
    map_cosine_mean: float  # cosine between the maps, each taken as one vector
    map_cosine_min: float
    map_max: float  # largest absolute difference of any pixel

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        return f"mean |Δscore| {self.score_mean:.4f}, mean map cosine {self.map_cosine_mean:.4f}"


def measure_drift(reference: Sequence[EngineOutput], outputs: Sequence[EngineOutput]) -> Drift:
    """Compare two graphs' outputs for the same images."""
    pairs = list(zip(reference, outputs, strict=True))
    scores = np.array([abs(a.score - b.score) for a, b in pairs])
    cosines = np.array([_cosine(a, b) for a, b in pairs])
    map_max = max(float(np.abs(a.anomaly_map - b.anomaly_map).max()) for a, b in pairs)
    return Drift(float(scores.mean()), float(scores.max()), float(cosines.mean()), float(cosines.min()), map_max)


def _cosine(a: EngineOutput, b: EngineOutput) -> float:
    u, v = (output.anomaly_map.astype(np.float64).reshape(-1) for output in (a, b))
    length = float(np.linalg.norm(u) * np.linalg.norm(v))
    return float(u @ v) / length if length > 0 else float(np.array_equal(u, v))
