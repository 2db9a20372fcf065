"""Which way to find scales serves a network best, and what the others do to the plan that was taken.

    auto         percentile and mse are tried with everything in INT8 on some of the frames, and the one that moves
                 scores and maps less is taken for the whole network: `_by_trial`
    percentile, mse, entropy, max
                 one way for all tensors: `ranges.to_ranges`
    per-tensor   for each tensor the one of the four that moves the output least: `per_tensor.choose_ranges`

Neither percentile nor mse is the better for all networks, and they are the two that lost nothing on test photographs;
entropy and max did, also where they had moved the calibration frames' scores less (benchmarks/results/README.md,
"Calibration frames and methods"). The histograms are there already, so that a way costs one trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from segrd_edge.engines import EngineOutput

from .budget import Budget
from .drift import Drift
from .histogram import Histogram
from .per_tensor import choose_ranges
from .plan import Plan
from .progress import Track, untracked
from .ranges import FixedMethod, Method, Ranges, to_ranges
from .trial import Trial

BETTER = 0.8  # of the taken method's share of the budget: another that takes less than this is worth a word
METHOD_FRAMES = 32  # of every trial that chooses a method: it is about factors, not about limits
METHODS: tuple[FixedMethod, ...] = get_args(FixedMethod)
CANDIDATES: tuple[FixedMethod, ...] = ("percentile", "mse")  # for "auto"; of equals the first


@dataclass(frozen=True)
class Shown:
    """What the calibration frames show of a graph, from which every method makes its ranges."""

    histograms: Mapping[str, Histogram]  # of every tensor that may get a scale
    percentile: float
    equalised: Mapping[str, float]  # largest magnitudes of tensors that are never clipped, see `calibration.equalise`
    head: Mapping[str, float]  # of those that no one method for all tensors clips, because the head reads them
    reach: Mapping[str, float]  # of every tensor
    outputs: Sequence[EngineOutput]  # of the float graph for the frames

    def ranges(self, method: FixedMethod) -> Ranges:
        return self._unclipped(to_ranges(self.histograms, method, self.percentile), {**self.head, **self.equalised})

    def per_tensor(self, trial: Trial, everything: Plan, *, track: Track = untracked) -> Ranges:
        """It knows what clipping costs, of the head too, and so may clip there."""
        found = choose_ranges(
            trial.model,
            everything,
            self.histograms,
            self.percentile,
            trial.images_bgr_u8,
            self.outputs,
            trial.scale,
            track=track,
        )
        return self._unclipped(found, self.equalised)

    def _unclipped(self, ranges: Ranges, largest: Mapping[str, float]) -> Ranges:
        return replace(ranges, largest={**ranges.largest, **largest}, reach=dict(self.reach), unclipped=tuple(largest))


def find_ranges(
    trial: Trial, everything: Plan, shown: Shown, method: Method, *, track: Track = untracked
) -> tuple[Ranges, dict[FixedMethod, Drift]]:
    """Ranges by a method for the whole network, and what each way that was tried for that does to `everything`.

    They do not depend on what part of `everything` is then quantised, nor on the limits that are asked for.
    """
    if method == "auto":
        return _by_trial(trial, everything, shown, track=track)
    if method == "per-tensor":
        return shown.per_tensor(trial, everything, track=track), {}
    return shown.ranges(method), {}


def _by_trial(trial: Trial, everything: Plan, shown: Shown, *, track: Track) -> tuple[Ranges, dict[FixedMethod, Drift]]:
    """By scores and maps alone: the pairs of so few frames come in steps that are too coarse."""
    some = trial.on(METHOD_FRAMES)
    tried = by_methods(some, everything, shown, CANDIDATES, "trying ways to find scales", track=track)
    best = min(tried, key=lambda method: Budget().noise(tried[method][1]))
    return tried[best][0], {method: drift for method, (_, drift) in tried.items()}


def each_method(trials: Mapping[FixedMethod, Drift]) -> str:
    """What every method did, by the two figures that it is chosen by, in a line."""
    figures = ", ".join(f"{name} {d.score_mean:.4f} and {d.map_cosine_mean:.4f}" for name, d in trials.items())
    return f"mean |Δscore| and mean map cosine are {figures}"


def by_methods(
    trial: Trial, plan: Plan, shown: Shown, methods: Sequence[FixedMethod], what: str, *, track: Track = untracked
) -> dict[FixedMethod, tuple[Ranges, Drift]]:
    """Method → its ranges, with the weights as the trial rounds them, and the drift of `plan` with them.

    Args:
        what: this is, for a progress bar.
        track: wraps the methods, for a progress bar.
    """
    found: dict[FixedMethod, tuple[Ranges, Drift]] = {}
    for method in track(methods, what):
        ranges = replace(shown.ranges(method), weights=trial.ranges.weights)
        found[method] = ranges, replace(trial, ranges=ranges)(plan)
    return found
