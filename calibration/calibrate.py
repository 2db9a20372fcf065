"""The calibration station: a float deploy graph and calibration frames in, an INT8 graph and its record out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import onnx

from segrd_edge.errors import OptionError

from .drift import Drift, measure_drift
from .frames import CalibrationFrame
from .plan import Plan
from .quantise import quantise, tensors_to_calibrate
from .ranges import DEFAULT_PERCENTILE, Method, Ranges, observe, to_ranges
from .session import run_engine

Scope = Literal["auto", "all", "head"]

# What each scope quantises, the fastest first. The encoders' INT8 noise passes through the difference of teacher and
# student, the head's does not; and the head is four fifths of DeSTSeg's arithmetic.
SCOPES: dict[str, Callable[[Plan], Plan]] = {
    "all": lambda plan: plan,
    "head": lambda plan: plan.only("head.", reason="scope head: only the segmentation head is quantised"),
}

# "auto" takes the first scope that stays within both on the calibration frames.
SCORE_DRIFT_LIMIT = 0.02  # mean |Δscore|
MAP_COSINE_LIMIT = 0.99  # mean cosine between the maps


@dataclass(frozen=True)
class Calibration:
    """An INT8 graph and how it came about."""

    model: onnx.ModelProto
    frames: Sequence[CalibrationFrame]
    ranges: Ranges
    plan: Plan
    scope: str
    trials: dict[str, Drift]  # scope → drift from float on the calibration frames, of every scope tried

    @property
    def drift(self) -> Drift:
        return self.trials[self.scope]

    @property
    def decision(self) -> str:
        """The scope and the figures behind it, in a sentence."""
        tried = "; ".join(f"{scope}: {drift}" for scope, drift in self.trials.items())
        return f"scope {self.scope} ({tried}; limits {SCORE_DRIFT_LIMIT} and {MAP_COSINE_LIMIT})"


def calibrate(
    model: onnx.ModelProto,
    frames: Sequence[CalibrationFrame],
    *,
    scope: Scope = "auto",
    method: Method = "percentile",
    percentile: float = DEFAULT_PERCENTILE,
    engine: str = "auto",
) -> Calibration:
    """Quantise a float deploy graph.

    Args:
        frames: see `calibration.frames.choose_frames`.
        scope: "all", "head", or "auto": the first of them whose drift stays within the limits, else the last.
        method, percentile: see `to_ranges`.
        engine: the engine that measures drift.

    Raises:
        OptionError: an unknown scope, or one that the network has no layers for.
        ExportError: the network gives NaN or infinity.
    """
    plans = _plans(Plan.of(model), scope)
    images = [frame.image_bgr_u8 for frame in frames]
    observed = observe(model, tensors_to_calibrate(model, Plan.of(model)), images)
    ranges = to_ranges(observed.histograms, method, percentile)
    trials: dict[str, Drift] = {}
    for name, plan in plans.items():
        quantised = quantise(model, ranges, plan)
        trials[name] = measure_drift(observed.outputs, list(run_engine(engine, quantised, images)))
        if _is_small(trials[name]):
            break
    return Calibration(quantised, frames, ranges, plan, name, trials)


def _plans(everything: Plan, scope: Scope) -> dict[str, Plan]:
    """The plans to try, in order."""
    if scope not in get_args(Scope):
        raise OptionError(f"unknown INT8 scope {scope!r}", expected="one of " + ", ".join(get_args(Scope)))
    wanted = SCOPES if scope == "auto" else {scope: SCOPES[scope]}
    plans = {name: narrow(everything) for name, narrow in wanted.items()}
    usable = {name: plan for name, plan in plans.items() if plan.quantised}
    if not usable:
        raise OptionError(
            f"INT8 scope {scope!r} leaves no convolution to quantise",
            expected="a network with convolutions of at least 16 channels"
            + (', some of them in a module named "head"' if scope == "head" else ""),
            fix="export with another scope, or without INT8",
        )
    return usable


def _is_small(drift: Drift) -> bool:
    return drift.score_mean <= SCORE_DRIFT_LIMIT and drift.map_cosine_mean >= MAP_COSINE_LIMIT
