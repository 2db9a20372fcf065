"""The calibration station: a float deploy graph and calibration frames in, an INT8 graph and its record out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from segrd_edge.engines import EngineOutput, processor_engine
from segrd_edge.errors import OptionError

from .blocks import blocks_of
from .budget import Budget
from .cache import ObservationCache
from .drift import Drift, Scale, Truth
from .equalise import concatenations, equalise
from .fine_tuning import FineTuning, larger
from .frames import CalibrationFrame
from .improve import levelled, with_corrected_biases
from .ladder import HEAD, PLAN, SCOPES, Attempt, Choice, choose_plan, tried, usable_scopes
from .methods import BETTER, METHODS, Shown, by_methods, each_method, find_ranges
from .plan import Plan
from .progress import Said, Track, untracked
from .quantise import quantise, tensors_to_calibrate
from .ranges import DEFAULT_METHOD, FixedMethod, Observed, Ranges, RangesMethod, observe
from .sensitivity import Sensitivity, measure_sensitivity
from .settings import DEFAULT_SETTINGS, Int8Settings
from .speed import measure_speedup
from .trial import Trial
from .weight_rounding import ROUNDING_FRAMES, round_weights


@dataclass(frozen=True)
class Calibration:
    """An INT8 graph and how it came about."""

    model: onnx.ModelProto
    float_model: onnx.ModelProto  # that it was made of: what was asked for, levelled and with corrected biases
    frames: Sequence[CalibrationFrame]
    ranges: Ranges
    improved: list[str]  # the improvements that were made, of those asked for: `calibration.improve`
    equalised: list[str]  # activations whose channels were levelled, see `calibration.equalise`
    choice: Choice  # of the plan
    budget: Budget
    speedup: float | None  # fp32's time over INT8's, measured; only where the budget asks for one that is in reach
    largest: dict[str, float]  # largest magnitude of every activation that was observed, whatever INT8 clips
    method_trials: dict[FixedMethod, Drift]  # with everything in INT8, where the way to find scales was chosen
    by_method: dict[RangesMethod, Drift]  # of the plan by ways to find scales, the taken one first
    other_ranges: Mapping[FixedMethod, Ranges]  # of the other ways in `by_method`
    reference: Sequence[EngineOutput]  # what the float graph gave for the frames, and drift is measured from
    fine_tuning: FineTuning | None = None  # where there was one, whether it was taken or not

    @property
    def scope(self) -> str:
        return self.choice.scope

    @property
    def plan(self) -> Plan:
        return replace(self.choice.taken.plan, scales=self.ranges.method)

    @property
    def drift(self) -> Drift:
        return self.choice.taken.drift

    @property
    def int8_share(self) -> float:
        """Share of the multiply-accumulates that run in INT8."""
        return self.choice.taken.int8_share

    @property
    def two_term_share(self) -> float:
        """The part of `int8_share` that runs in two terms."""
        return self.choice.taken.two_term_share

    def by(self, method: FixedMethod) -> onnx.ModelProto:
        """The INT8 graph with scales found in another of the ways in `by_method`."""
        return quantise(self.float_model, self.other_ranges[method], self.plan)

    def beside_float16(self) -> onnx.ModelProto:
        """The INT8 graph with what runs in two terms in float: what float16 layers are put into."""
        if not self.plan.two_term:
            return self.model
        return quantise(self.float_model, self.ranges, self.plan.without_two_terms())

    @property
    def trials(self) -> dict[str, Drift]:
        """Scope → drift from float on the calibration frames, of every scope tried."""
        return {scope: attempt.drift for scope, attempt in self.choice.attempts.items()}

    @property
    def sensitivity(self) -> list[Sensitivity]:
        """What each block alone does in INT8; empty where neither a search nor the settings asked."""
        return self.choice.sensitivity

    @property
    def better_method(self) -> RangesMethod | None:
        """The way to find scales that takes the least of the budget, where it keeps to all limits, takes clearly less
        than the taken one, and does nothing worse that a limit is about."""
        taken = next(iter(self.by_method))
        allowed = {
            method: self.budget.cost(drift)
            for method, drift in self.by_method.items()
            if self.budget.allows(drift) and drift.is_nowhere_worse(self.by_method[taken])
        }
        best = min(allowed, key=allowed.__getitem__, default=taken)
        return best if best != taken and allowed[best] < BETTER * self.budget.cost(self.by_method[taken]) else None

    @property
    def is_safe(self) -> bool:
        """Whether the drift stays within the budget; where it does not, INT8 should not be the default."""
        return self.budget.allows(self.drift)

    @property
    def reached_speedup(self) -> float:
        """fp32's time over INT8's, as measured, or else by the multiply-accumulates."""
        return self.choice.taken.speedup if self.speedup is None else self.speedup

    @property
    def is_fast(self) -> bool:
        """Whether INT8 is as much faster as the budget asks for."""
        return self.budget.speedup is None or self.reached_speedup >= self.budget.speedup

    @property
    def decision(self) -> str:
        """The scope, the figures behind it, and what follows."""
        share = f"{self.int8_share:.0%} of the multiply-accumulates in INT8"
        share += f" ({twice:.0%} in two terms)" if (twice := self.two_term_share) else ""
        return f"scope {self.scope}, {share} ({tried(self.choice.attempts)}; limits {self.budget}){self._verdict()}"

    def _verdict(self) -> str:
        if not self.is_safe:
            return "; INT8 moves the results too far, so fp32 stays the default"
        if self.budget.speedup is None:
            return ""
        source = "by its work" if self.speedup is None else "measured"
        speed = f"; {source} {self.reached_speedup:.2f} times as fast as fp32"
        if self.is_fast:
            return speed
        return f"{speed}, and {self.budget.speedup:g} is not in reach within the limits, so fp32 stays the default"


def calibrate(
    model: onnx.ModelProto,
    frames: Sequence[CalibrationFrame],
    settings: Int8Settings = DEFAULT_SETTINGS,
    *,
    threshold: float | None = None,
    engine: str = "auto",
    also: Sequence[str] = (),
    compare_methods: bool = False,
    reference: Sequence[EngineOutput] | None = None,
    cache: ObservationCache | None = None,
    said: Said = lambda line: None,
    track: Track = untracked,
) -> Calibration:
    """Quantise a float deploy graph.

    Args:
        frames: as many as there are, whatever the settings ask for; see `calibration.frames.choose_frames`.
        settings: a plan in them is taken whatever it does. Fine-tuning needs the network and is not done here.
        threshold: of the float graph's scores; without one there is no flip rate.
        engine: the engine that measures drift and time; "auto" is the fastest installed of the processor's.
        also: further activations whose largest magnitude is wanted, as float16 asks for; one pass serves both.
        compare_methods: try the other ways to find scales on the plan that is taken, see `methods`.
        reference: what drift is measured from: another float graph's outputs for the frames; None is this one's.
        cache: where what the frames show of the graph is kept.
        said: called with a line of progress.
        track: wraps frames and trials, for a progress bar.

    Raises:
        OptionError: as `asked_of`.
        ExportError: the network gives NaN or infinity.
    """
    everything, given = asked_of(model, settings)
    budget, improve = settings.budget, settings.improve
    images = [frame.image_bgr_u8 for frame in frames]
    before: dict[str, float] = {}  # float16 has to do for the graph that is not levelled, too
    if "levels" in improve:
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
    if "rounding" in improve:
        widest = everything if settings.scope == "auto" else everything.only(*SCOPES[settings.scope])
        some = trial.on(ROUNDING_FRAMES).images_bgr_u8
        ranges = replace(ranges, weights=round_weights(equalised, (given or widest).quantised, some, track=track))
    trial = replace(trial, ranges=ranges)
    choice = (
        _try(trial, given) if given else choose_plan(trial, everything, settings.scope, budget, said=said, track=track)
    )
    if settings.each_block and not choice.sensitivity:
        choice = replace(choice, sensitivity=_each_block(trial, everything, choice.taken.plan, track))
    if "bias" in improve:  # only now: corrected biases are wrong where a block alone is in INT8
        trial, choice = with_corrected_biases(trial, choice, budget, track=track)
    taken = choice.taken
    quantised = quantise(trial.model, ranges, taken.plan)
    others: dict[FixedMethod, tuple[Ranges, Drift]] = {}
    if compare_methods and trial.model is equalised:  # corrected biases are corrected for the taken method's scales
        rest = [method for method in METHODS if method != ranges.method]
        others = by_methods(trial, taken.plan, shown, rest, "comparing ways to find scales", track=track)
    return Calibration(
        model=quantised,
        float_model=trial.model,
        frames=frames,
        ranges=ranges,
        improved=[name for name in improve if name != "bias" or trial.model is not equalised],
        equalised=list(observed.channel_largest),
        choice=choice,
        budget=budget,
        speedup=_speedup(model, quantised, trial, choice, budget),
        method_trials=method_trials,
        by_method={ranges.method: taken.drift, **{method: drift for method, (_, drift) in others.items()}},
        other_ranges={method: found for method, (found, _) in others.items()},
        largest=larger({**observed.largest, **largest}, before),
        reference=reference,
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


def _try(trial: Trial, plan: Plan) -> Choice:
    return Choice(PLAN, {PLAN: Attempt.of(trial.model, plan, trial(plan))})


def _each_block(trial: Trial, everything: Plan, taken: Plan, track: Track) -> list[Sensitivity]:
    """All that may run in INT8, whatever of it `taken` has there, and skips as in `taken`."""
    whole = everything.with_float_skips() if taken.float_skips else everything
    return measure_sensitivity(trial, whole, blocks_of(trial.model, whole), track=track)


def _speedup(
    model: onnx.ModelProto, quantised: onnx.ModelProto, trial: Trial, choice: Choice, budget: Budget
) -> float | None:
    """Measured where it can change the decision."""
    taken = choice.taken
    if budget.speedup is None or not budget.allows(taken.drift):
        return None
    if taken.speedup < budget.speedup:
        return None
    return measure_speedup(trial.engine, model, quantised, trial.images_bgr_u8[0])
