"""What a calibration finds out before any limit has a say: what the frames show, the scales, the rounded weights.

A second calibration of the same graph, under other limits, goes on from here (`calibrate.within`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from segrd_edge.engines import EngineOutput, processor_engine
from segrd_edge.errors import OptionError

from .blocks import blocks_of
from .cache import ObservationCache
from .drift import Drift, Scale, Truth
from .equalise import concatenations, equalise
from .fine_tuning import larger
from .frames import CalibrationFrame
from .improve import levelled
from .ladder import HEAD, SCOPES, usable_scopes
from .methods import Shown, each_method, find_ranges
from .plan import Plan
from .progress import Said, Track, untracked
from .quantise import tensors_to_calibrate
from .ranges import DEFAULT_METHOD, FixedMethod, Observed, observe
from .settings import DEFAULT_SETTINGS, Int8Settings
from .trial import Trial
from .weight_rounding import ROUNDING_FRAMES, round_weights


@dataclass(frozen=True)
class Prepared:
    """A float graph with all that is needed to try plans on it."""

    settings: Int8Settings
    frames: Sequence[CalibrationFrame]
    asked: onnx.ModelProto  # the float graph that was asked for; levelled where the settings ask
    everything: Plan  # that may run in INT8
    given: Plan | None  # the plan in the settings
    trial: Trial  # of the equalised graph, with the scales that were found and the rounded weights
    shown: Shown
    equalised: Sequence[str]  # activations whose channels were levelled, see `calibration.equalise`
    largest: Mapping[str, float]  # largest magnitude of every activation that was observed, whatever INT8 clips
    method_trials: Mapping[FixedMethod, Drift]  # with everything in INT8, where the way to find scales was chosen


def prepare(
    model: onnx.ModelProto,
    frames: Sequence[CalibrationFrame],
    settings: Int8Settings = DEFAULT_SETTINGS,
    *,
    threshold: float | None = None,
    engine: str = "auto",
    also: Sequence[str] = (),
    reference: Sequence[EngineOutput] | None = None,
    cache: ObservationCache | None = None,
    said: Said = lambda line: None,
    track: Track = untracked,
) -> Prepared:
    """Observe a float deploy graph, find its scales and round its weights: arguments and errors of `calibrate`."""
    everything, given = asked_of(model, settings)
    images = [frame.image_bgr_u8 for frame in frames]
    before: dict[str, float] = {}  # float16 has to do for the graph that is not levelled, too
    if "levels" in settings.improve:
        model, before = levelled(model, everything, images, also, cache=cache, track=track)
    tensors = tensors_to_calibrate(model, *_plans(model, everything, given))
    concatenated = concatenations(model, everything)
    observed = observe(model, tensors, images, by_channel=concatenated, also=also, cache=cache, track=track)
    equalised, largest = equalise(model, everything, observed.channel_largest)
    shown = Shown(
        observed.histograms,
        settings.percentile,
        equalised=largest,
        head=_read_by_head(equalised, everything, observed),
        reach={**observed.largest, **largest},
        outputs=observed.outputs,
    )
    reference = observed.outputs if reference is None else reference
    trial = Trial(
        equalised,
        shown.ranges(DEFAULT_METHOD),
        images,
        reference,
        Scale.of(model, reference),
        Truth.of(frames, threshold),
        processor_engine() if engine == "auto" else engine,
    )
    method = given.scales if given and given.scales and settings.method == "auto" else settings.method
    ranges, method_trials = find_ranges(trial, everything, shown, method, track=track)
    if method_trials:
        said(f"scales by {ranges.method}: with everything in INT8, {each_method(method_trials)}")
    if "rounding" in settings.improve:
        widest = everything if settings.scope == "auto" else everything.only(*SCOPES[settings.scope])
        some = trial.on(ROUNDING_FRAMES).images_bgr_u8
        ranges = replace(ranges, weights=round_weights(equalised, (given or widest).quantised, some, track=track))
    return Prepared(
        settings=settings,
        frames=frames,
        asked=model,
        everything=everything,
        given=given,
        trial=replace(trial, ranges=ranges),
        shown=shown,
        equalised=list(observed.channel_largest),
        largest=larger({**observed.largest, **largest}, before),
        method_trials=method_trials,
    )


def asked_of(model: onnx.ModelProto, settings: Int8Settings) -> tuple[Plan, Plan | None]:
    """Everything that may run in INT8, and the plan in the settings where there is one.

    Raises:
        OptionError: a plan that does not fit the graph, or a scope that it has no layers for.
    """
    everything = Plan.of(model)
    if settings.plan is None:
        usable_scopes(model, everything, settings.scope)
        return everything, None
    given = everything.edited(settings.plan, settings.plan_source)
    if not given.quantised:
        raise OptionError(
            f"{settings.plan_source} leaves every convolution in float", fix="export without INT8 (--no-int8)"
        )
    return everything, given


def _read_by_head(model: onnx.ModelProto, everything: Plan, observed: Observed) -> dict[str, float]:
    """Largest magnitudes of what the head's convolutions read. There the rare large values are the defects: on four
    trained ADPS clipping them moved the scores by two to four times as much, on three DeSTSegs by as much as not."""
    read = tensors_to_calibrate(model, everything.only(*HEAD))
    return {name: observed.largest[name] for name in read if name in observed.largest}


def _plans(model: onnx.ModelProto, everything: Plan, given: Plan | None) -> list[Plan]:
    """Every plan that may be tried, or such that together ask for the same ranges."""
    why = dict.fromkeys(everything.quantised, "one block at a time")
    alone = [everything.narrowed(block.nodes, why) for block in blocks_of(model, everything)]
    return [everything, *alone, *([given] if given else [])]
