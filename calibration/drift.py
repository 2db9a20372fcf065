"""How far one graph's answers are from another's on the same images: what decides whether INT8 is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge.engines import EngineOutput

SMALLEST_SPAN = 1e-3  # frames that differ by less show nothing to be measured by
VISIBLE = 0.05  # a map that stays below has no pattern that could be compared, only rounding noise


@dataclass(frozen=True)
class Scale:
    """What counts as 0 and as 1 in a map, so that one limit serves all models: value → (value − floor) / span."""

    floor: float = 0.0
    span: float = 1.0

    @classmethod
    def of(cls, model: onnx.ModelProto, reference: Sequence[EngineOutput]) -> Scale:
        """The scale of a deploy graph, from its float results for good frames and such with defects.

        Probabilities have theirs. Distances of teacher and student fill a part of [0, 1] that depends on the model and
        its training: 0 is their median pixel, 1 the highest score.
        """
        if any(node.op_type == "Sigmoid" and "raw" in node.input for node in model.graph.node):
            return cls()
        floor = float(np.median([np.median(output.anomaly_map) for output in reference]))
        return cls(floor, max(max(output.score for output in reference) - floor, SMALLEST_SPAN))

    def __call__(self, output: EngineOutput) -> EngineOutput:
        return EngineOutput((output.score - self.floor) / self.span, (output.anomaly_map - self.floor) / self.span)


@dataclass(frozen=True)
class Drift:
    """Differences over all images between two graphs' scores and anomaly maps, in units of a `Scale`."""

    score_mean: float  # mean absolute difference of the anomaly scores
    score_max: float
    map_cosine_mean: float  # cosine between the maps, each taken as one vector, where one of them shows anything
    map_cosine_min: float
    map_max: float  # largest absolute difference of any pixel

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        return f"mean |Δscore| {self.score_mean:.4f}, mean map cosine {self.map_cosine_mean:.4f}"


def measure_drift(
    reference: Sequence[EngineOutput], outputs: Sequence[EngineOutput], scale: Scale | None = None
) -> Drift:
    """Compare two graphs' outputs for the same images, on `scale` if there is one."""
    rescaled = scale or Scale()
    pairs = [(rescaled(a), rescaled(b)) for a, b in zip(reference, outputs, strict=True)]
    scores = np.array([abs(a.score - b.score) for a, b in pairs])
    maps = [(a.anomaly_map, b.anomaly_map) for a, b in pairs]
    cosines = [_cosine(a, b) for a, b in maps if max(a.max(), b.max()) >= VISIBLE] or [1.0]
    return Drift(
        score_mean=float(scores.mean()),
        score_max=float(scores.max()),
        map_cosine_mean=float(np.mean(cosines)),
        map_cosine_min=float(np.min(cosines)),
        map_max=max(float(np.abs(a - b).max()) for a, b in maps),
    )


def _cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    u, v = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
    length = float(np.linalg.norm(u) * np.linalg.norm(v))
    return float(u @ v) / length if length > 0 else 0.0
