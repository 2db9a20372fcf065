"""What each way to find scales does to the plan that was taken: whether another `--calibration` would have done better.

The histograms are there already, so that a method costs one trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

from .drift import Drift
from .histogram import Histogram
from .plan import Plan
from .progress import Track, untracked
from .ranges import FixedMethod, Method, Ranges, to_ranges
from .trial import Trial

BETTER = 0.8  # of the taken method's share of the budget: another that takes less than this is worth a word


def by_other_methods(
    trial: Trial,
    plan: Plan,
    taken: Method,
    histograms: Mapping[str, Histogram],
    percentile: float,
    unclipped: Mapping[str, float],
    *,
    track: Track = untracked,
) -> dict[Method, tuple[Ranges, Drift]]:
    """Method → its ranges, and the drift of `plan` with them on the trial's frames, of all methods but `taken` and
    "auto".

    Args:
        taken: the method behind the trial's own ranges.
        histograms: of the tensors that get a scale.
        unclipped: largest magnitudes of tensors that no method clips, see `calibration.equalise`.
        track: wraps the methods, for a progress bar.
    """
    found: dict[Method, tuple[Ranges, Drift]] = {}
    others: list[FixedMethod] = [method for method in get_args(FixedMethod) if method != taken]
    for method in track(others, "comparing calibration methods"):
        ranges = to_ranges(histograms, method, percentile)
        ranges = replace(
            ranges, largest={**ranges.largest, **unclipped}, reach=trial.ranges.reach, weights=trial.ranges.weights
        )
        found[method] = ranges, replace(trial, ranges=ranges)(plan)
    return found
