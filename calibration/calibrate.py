"""The calibration station: a float deploy graph and calibration frames in, an INT8 graph and its record out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from segrd_edge.engines import EngineOutput

from .blocks import blocks_of
from .budget import Budget
from .cache import ObservationCache
from .drift import Drift
from .fine_tuning import FineTuning
from .frames import CalibrationFrame
from .improve import with_corrected_biases
from .ladder import PLAN, Attempt, Choice, choose_plan, tried
from .methods import BETTER, METHODS, by_methods
from .plan import Plan
from .prepare import Prepared, prepare
from .progress import Said, Track, untracked
from .quantise import quantise
from .ranges import FixedMethod, Ranges, RangesMethod
from .sensitivity import Sensitivity, measure_sensitivity
from .settings import DEFAULT_SETTINGS, Int8Settings
from .speed import measure_speedup
from .trial import Trial


@dataclass(frozen=True)
class Calibration:
    """An INT8 graph and how it came about."""

    model: onnx.ModelProto
    float_model: onnx.ModelProto  # that it was made of: what was asked for, levelled and with corrected biases
    prepared: Prepared
    improved: list[str]  # the improvements that were made, of those asked for: `calibration.improve`
    choice: Choice  # of the plan
    budget: Budget
    speedup: float | None  # fp32's time over INT8's, measured; only where the budget asks for one that is in reach
    by_method: dict[RangesMethod, Drift]  # of the plan by ways to find scales, the taken one first
    other_ranges: Mapping[FixedMethod, Ranges]  # of the other ways in `by_method`
    fine_tuning: FineTuning | None = None  # where there was one, whether it was taken or not

    @property
    def frames(self) -> Sequence[CalibrationFrame]:
        return self.prepared.frames

    @property
    def ranges(self) -> Ranges:
        return self.prepared.trial.ranges

    @property
    def reference(self) -> Sequence[EngineOutput]:
        """What the float graph gave for the frames, and drift is measured from."""
        return self.prepared.trial.reference

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
        OptionError: as `prepare.asked_of`.
        ExportError: the network gives NaN or infinity.
    """
    prepared = prepare(
        model,
        frames,
        settings,
        threshold=threshold,
        engine=engine,
        also=also,
        reference=reference,
        cache=cache,
        said=said,
        track=track,
    )
    return within(prepared, settings.budget, compare_methods=compare_methods, said=said, track=track)


def within(
    prepared: Prepared,
    budget: Budget,
    *,
    compare_methods: bool = False,
    said: Said = lambda line: None,
    track: Track = untracked,
) -> Calibration:
    """The INT8 graph that keeps to the limits of `budget`, whatever those in the settings are: as `calibrate` has it.

    Plans that were tried on `prepared` before are not tried again.
    """
    settings, trial, everything = prepared.settings, prepared.trial, prepared.everything
    choice = (
        _try(trial, prepared.given)
        if prepared.given
        else choose_plan(trial, everything, settings.scope, budget, said=said, track=track)
    )
    if settings.each_block and not choice.sensitivity:
        choice = replace(choice, sensitivity=_each_block(trial, everything, choice.taken.plan, track))
    if "bias" in settings.improve:  # only now: corrected biases are wrong where a block alone is in INT8
        trial, choice = with_corrected_biases(trial, choice, budget, track=track)
    has_new_biases = trial is not prepared.trial
    taken, ranges = choice.taken, trial.ranges
    quantised = quantise(trial.model, ranges, taken.plan)
    others: dict[FixedMethod, tuple[Ranges, Drift]] = {}
    if compare_methods and not has_new_biases:  # they are corrected for the taken method's scales
        rest = [method for method in METHODS if method != ranges.method]
        what = "comparing ways to find scales"
        others = by_methods(trial, taken.plan, prepared.shown, rest, what, track=track)
    return Calibration(
        model=quantised,
        float_model=trial.model,
        prepared=prepared,
        improved=[name for name in settings.improve if name != "bias" or has_new_biases],
        choice=choice,
        budget=budget,
        speedup=_speedup(prepared.asked, quantised, trial, choice, budget),
        by_method={ranges.method: taken.drift, **{method: drift for method, (_, drift) in others.items()}},
        other_ranges={method: found for method, (found, _) in others.items()},
    )


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
