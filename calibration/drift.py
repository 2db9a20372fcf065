"""How far one graph's answers are from another's on the same images: what decides whether INT8 is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge.engines import EngineOutput

if TYPE_CHECKING:
    from .frames import CalibrationFrame

SMALLEST_SPAN = 1e-3  # frames that differ by less show nothing to be measured by
MAP_STEP = 4  # pixels of a map between two that count towards pixel AP; no network's own map is finer
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
class Truth:
    """What is known of the images: which have a synthetic defect and where, and the float graph's threshold."""

    masks: Sequence[npt.NDArray[np.bool_] | None]  # h×w, True on the defect; None of a good image
    threshold: float | None = None

    @classmethod
    def of(cls, frames: Sequence[CalibrationFrame], threshold: float | None = None) -> Truth:
        return cls([frame.mask for frame in frames], threshold)


@dataclass(frozen=True)
class Drift:
    """Differences over all images between two graphs' scores and anomaly maps, in units of a `Scale`.

    The last four are None where nothing is known of the images, or too little: AUROC and pairs need good ones and
    defects.
    """

    score_mean: float  # mean absolute difference of the anomaly scores
    score_max: float
    map_cosine_mean: float  # cosine between the maps, each taken as one vector, where one of them shows anything
    map_cosine_min: float
    map_max: float  # largest absolute difference of any pixel
    image_auroc_drop: float | None = None  # what the second graph loses; negative where it gains
    pixel_ap_drop: float | None = None
    flip_rate: float | None = None  # share of the images whose verdict at the float threshold is another
    pairs_turned: float | None = None  # share of the pairs of a good image and a defect that it orders otherwise

    def to_dict(self) -> dict[str, float]:
        """The figures that there are."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def is_nowhere_worse(self, other: Drift) -> bool:
        """Whether no figure that a `Budget` can limit is worse than `other`'s, of those that both have."""
        pairs = [
            (self.score_mean, other.score_mean),
            (other.map_cosine_mean, self.map_cosine_mean),
            (self.pairs_turned, other.pairs_turned),
            (self.pixel_ap_drop, other.pixel_ap_drop),
            (self.flip_rate, other.flip_rate),
        ]
        return all(a <= b for a, b in pairs if a is not None and b is not None)

    def __str__(self) -> str:
        turned = "" if self.pairs_turned is None else f", pairs turned {self.pairs_turned:.4f}"
        return f"mean |Δscore| {self.score_mean:.4f}, mean map cosine {self.map_cosine_mean:.4f}{turned}"


def measure_drift(
    reference: Sequence[EngineOutput],
    outputs: Sequence[EngineOutput],
    scale: Scale | None = None,
    truth: Truth | None = None,
) -> Drift:
    """Compare two graphs' outputs for the same images, on `scale` if there is one."""
    rescaled = scale or Scale()
    pairs = [(rescaled(a), rescaled(b)) for a, b in zip(reference, outputs, strict=True)]
    scores = np.array([abs(a.score - b.score) for a, b in pairs])
    maps = [(a.anomaly_map, b.anomaly_map) for a, b in pairs]
    cosines = [_cosine(a, b) for a, b in maps if max(a.max(), b.max()) >= VISIBLE] or [1.0]
    auroc_drop, ap_drop, flip_rate = (None, None, None) if truth is None else _against(truth, reference, outputs)
    return Drift(
        score_mean=float(scores.mean()),
        score_max=float(scores.max()),
        map_cosine_mean=float(np.mean(cosines)),
        map_cosine_min=float(np.min(cosines)),
        map_max=max(float(np.abs(a - b).max()) for a, b in maps),
        image_auroc_drop=auroc_drop,
        pixel_ap_drop=ap_drop,
        flip_rate=flip_rate,
        pairs_turned=None if truth is None else _pairs_turned(truth, reference, outputs),
    )


def _against(
    truth: Truth, reference: Sequence[EngineOutput], outputs: Sequence[EngineOutput]
) -> tuple[float | None, float | None, float | None]:
    """Drop of image AUROC, drop of pixel AP, flip rate."""
    before, after = (_metrics(results, truth.masks) for results in (reference, outputs))
    auroc_drop, ap_drop = (None if a is None or b is None else a - b for a, b in zip(before, after, strict=True))
    flips = None
    if truth.threshold is not None:
        before_at, after_at = (_verdicts(results, truth.threshold) for results in (reference, outputs))
        flips = float(np.mean(before_at != after_at))
    return auroc_drop, ap_drop, flips


def _pairs_turned(truth: Truth, reference: Sequence[EngineOutput], outputs: Sequence[EngineOutput]) -> float | None:
    """No unit and no scale: what matters of a shift is whether scores lie so close together that it swaps them."""
    before, after = (_order(results, truth.masks) for results in (reference, outputs))
    return float(np.abs(before - after).mean() / 2) if before.size else None  # half for a tie that comes or goes


def _order(results: Sequence[EngineOutput], masks: Sequence[npt.NDArray[np.bool_] | None]) -> npt.NDArray[np.float64]:
    """defects×good, 1 where the defect scores higher, −1 where the good image does, 0 where neither."""
    scores, is_defect = np.array([result.score for result in results]), np.array([mask is not None for mask in masks])
    return np.sign(scores[is_defect][:, None] - scores[~is_defect][None, :])


def _verdicts(results: Sequence[EngineOutput], threshold: float) -> npt.NDArray[np.bool_]:
    return np.array([output.score for output in results]) >= threshold


def _metrics(
    results: Sequence[EngineOutput], masks: Sequence[npt.NDArray[np.bool_] | None]
) -> tuple[float | None, float | None]:
    """Image AUROC and pixel AP."""
    from segrd_edge.training.metrics import evaluate_maps

    metrics = evaluate_maps(
        [output.anomaly_map[::MAP_STEP, ::MAP_STEP] for output in results],
        [None if mask is None else mask[::MAP_STEP, ::MAP_STEP] for mask in masks],
        [mask is not None for mask in masks],
        [output.score for output in results],
    )
    return metrics.image_auroc, metrics.pixel_ap


def _cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    u, v = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
    length = float(np.linalg.norm(u) * np.linalg.norm(v))
    return float(u @ v) / length if length > 0 else 0.0
