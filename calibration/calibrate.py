"""The calibration station: a float deploy graph and calibration frames in, an INT8 graph and its record out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import onnx

from segrd_edge.engines import EngineOutput
from segrd_edge.errors import OptionError

from .automatic import find_ranges
from .cache import ObservationCache
from .drift import Drift, Scale, measure_drift
from .equalise import concatenations, equalise
from .frames import CalibrationFrame
from .plan import Plan
from .progress import Track, untracked
from .quantise import quantise, tensors_to_calibrate
from .ranges import DEFAULT_PERCENTILE, Method, Ranges, check_method, observe
from .session import run_engine

_COARSE_DECODER = ("student.decoder.stage4", "student.decoder.stage3")
Scope = Literal["auto", "all", "no-fine", "no-decoder", "head", "encoder"]

# Which names each scope quantises, the fastest scope first. The names are those of `training.parts`, which all models
# keep to. INT8 noise of the features passes through the difference of
# teacher and student, and there the fine level is the sensitive one. Mean |Δscore| on trained DeSTSegs (8 minutes, 12
# calibration frames, OpenVINO): bottle all 0.035, no-fine 0.005, no-decoder 0.020, head 0.008; metal_plate 0.048,
# 0.017, 0.047, 0.006; ball_screw 0.125, 0.007, 0.011, 0.007. "no-fine" leaves a quarter of the work in float.
SCOPES: dict[str, tuple[str, ...]] = {
    "all": ("",),
    "no-fine": ("teacher.layer2", "teacher.layer3", "student.encoder.", *_COARSE_DECODER, "head."),
    "no-decoder": ("teacher.", "student.encoder.", "head."),
    "head": ("head.",),
    "encoder": ("student.encoder.",),
}
# The last resort is what has no comparison of teacher and student behind it that is not learned: the head, or without
# one the way to the bottleneck, behind which the decoder restores.
_LAST_RESORT = {True: "head", False: "encoder"}

# "auto" takes the first scope that stays within both on the calibration frames, distances brought to a scale of their
# own (`drift.Scale`). At 0.016 a trained fabric01 lost 0.009
# image AUROC.
SCORE_DRIFT_LIMIT = 0.01  # mean |Δscore|
MAP_COSINE_LIMIT = 0.99  # mean cosine between the maps


@dataclass(frozen=True)
class Calibration:
    """An INT8 graph and how it came about."""

    model: onnx.ModelProto
    frames: Sequence[CalibrationFrame]
    ranges: Ranges
    plan: Plan
    equalised: list[str]  # activations whose channels were levelled, see `calibration.equalise`
    scope: str
    trials: dict[str, Drift]  # scope → drift from float on the calibration frames, of every scope tried
    largest: dict[str, float]  # largest magnitude of every activation that was observed, whatever INT8 clips
    reference: list[EngineOutput]  # what the float graph gave for the frames

    @property
    def drift(self) -> Drift:
        return self.trials[self.scope]

    @property
    def is_safe(self) -> bool:
        """Whether the chosen scope stays within the limits; where it does not, INT8 should not be the default."""
        return is_small(self.drift)

    @property
    def decision(self) -> str:
        """The scope and the figures behind it."""
        verdict = "" if self.is_safe else "; INT8 moves the results too far, so fp32 stays the default"
        return f"scope {self.scope} ({_figures(self.trials)}){verdict}"


def calibrate(
    model: onnx.ModelProto,
    frames: Sequence[CalibrationFrame],
    *,
    scope: Scope = "auto",
    method: Method = "percentile",
    percentile: float = DEFAULT_PERCENTILE,
    engine: str = "auto",
    also: Sequence[str] = (),
    cache: ObservationCache | None = None,
    track: Track = untracked,
) -> Calibration:
    """Quantise a float deploy graph.

    Args:
        frames: see `calibration.frames.choose_frames`.
        scope: one of SCOPES, or "auto": the first of them whose drift stays within the limits, else the last.
        method, percentile: see `ranges.to_ranges`; "auto" is `automatic.choose_ranges`.
        engine: the engine that measures drift.
        also: further activations whose largest magnitude is wanted, as float16 asks for; one pass serves both.
        cache: where what the frames show of the graph is kept.
        track: wraps frames and trials, for a progress bar.

    Raises:
        OptionError: an unknown scope or method, or one that the network has no layers for.
        ExportError: the network gives NaN or infinity.
    """
    everything = Plan.of(model)
    scopes = _scopes(everything, scope)
    check_method(method, percentile)
    images = [frame.image_bgr_u8 for frame in frames]
    tensors = tensors_to_calibrate(model, everything)
    concatenated = concatenations(model, everything)
    observed = observe(model, tensors, images, by_channel=concatenated, also=also, cache=cache, track=track)
    equalised, largest = equalise(model, everything, observed.channel_largest)
    scale = Scale.of(model, observed.outputs)
    shown = observed.histograms, images, observed.outputs, scale
    ranges = find_ranges(method, percentile, equalised, everything, *shown, track=track)
    ranges = replace(ranges, largest={**ranges.largest, **largest})
    trials: dict[str, Drift] = {}
    for name in scopes:
        plan = everything.only(*SCOPES[name], reason=_reason(name, trials))
        quantised = quantise(equalised, ranges, plan)
        trials[name] = measure_drift(observed.outputs, list(run_engine(engine, quantised, images)), scale)
        if is_small(trials[name]):
            break
    return Calibration(
        model=quantised,
        frames=frames,
        ranges=ranges,
        plan=plan,
        equalised=list(observed.channel_largest),
        scope=name,
        trials=trials,
        largest={**observed.largest, **largest},
        reference=observed.outputs,
    )


def _scopes(everything: Plan, wanted: Scope) -> list[str]:
    """The scopes to try, in order."""
    if wanted not in get_args(Scope):
        raise OptionError(f"unknown INT8 scope {wanted!r}", expected="one of " + ", ".join(get_args(Scope)))
    candidates = _ladder(everything) if wanted == "auto" else [wanted]
    covered = [everything.only(*SCOPES[name]).quantised for name in candidates]
    usable = [name for i, name in enumerate(candidates) if covered[i] and covered[i] not in covered[i + 1 :]]
    if not usable:
        raise OptionError(
            f"INT8 scope {wanted!r} leaves no convolution to quantise",
            expected="convolutions of at least 16 channels"
            + (" named " + " or ".join(f"{prefix}*" for prefix in SCOPES[wanted]) if wanted != "auto" else ""),
            fix="export with another scope, or without INT8",
        )
    return usable


def _ladder(everything: Plan) -> list[str]:
    """The scopes that "auto" tries: all but the last resort of the other kind of model."""
    has_head = bool(everything.only(*SCOPES["head"]).quantised)
    return [name for name in SCOPES if name not in _LAST_RESORT.values() or name == _LAST_RESORT[has_head]]


def _reason(scope: str, trials: dict[str, Drift]) -> str:
    """Why what lies outside `scope` stays float."""
    asked = f"scope {scope}: only {', '.join(SCOPES[scope])} is quantised"
    return f"{asked}, because more moves the results too far ({_figures(trials)})" if trials else asked


def _figures(trials: dict[str, Drift]) -> str:
    tried = "; ".join(f"{scope}: {drift}" for scope, drift in trials.items())
    return f"{tried}; limits {SCORE_DRIFT_LIMIT} and {MAP_COSINE_LIMIT}"


def is_small(drift: Drift) -> bool:
    """Whether an INT8 graph, also one with float16 beside it, stays close enough to float to be used by itself."""
    return drift.score_mean <= SCORE_DRIFT_LIMIT and drift.map_cosine_mean >= MAP_COSINE_LIMIT
