"""Ways to make weights lose less in INT8 without training, for a network where they help.

rounding weights are rounded so that their errors make up for each other, see `weight_rounding`; on by default
levels   the channels between two convolutions are levelled before anything is observed, see `cross_layer`
bias     the mean shift of every convolution's output goes into its bias, see `bias`; taken where that brings the INT8
         graph nearer to float

What each did to trained networks is in docs/int8.md, "Improving the weights".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx

from .bias import correct_biases, output_shifts
from .budget import Budget
from .cache import ObservationCache
from .cross_layer import between_convolutions, level_pairs
from .ladder import Choice
from .plan import Plan
from .progress import Track, untracked
from .ranges import observe
from .trial import Trial

Improvement = Literal["rounding", "levels", "bias"]
BIAS_FRAMES = 8  # a mean over frames and pixels settles early, and both networks run on each


def levelled(
    model: onnx.ModelProto,
    plan: Plan,
    images_bgr_u8: Sequence[npt.NDArray[np.uint8]],
    also: Sequence[str] = (),
    *,
    cache: ObservationCache | None = None,
    track: Track = untracked,
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """A copy of the float graph that computes the same, its activations between convolutions levelled.

    Args:
        plan: everything that may run in INT8.
        images_bgr_u8: the calibration frames as network images.
        also: further activations whose largest magnitude is wanted.
        cache: where what the frames show of the graph is kept.
        track: wraps frames, for a progress bar.

    Returns:
        The copy, and the largest magnitudes of what it levels and of `also` in the graph as it was.
    """
    names = between_convolutions(model, plan)
    seen = observe(model, [], images_bgr_u8, by_channel=names, also=[*names, *also], cache=cache, track=track)
    return level_pairs(model, plan, seen.channel_largest), seen.largest


def with_corrected_biases(
    trial: Trial, choice: Choice, budget: Budget, *, track: Track = untracked
) -> tuple[Trial, Choice]:
    """The trial of a float graph with corrected biases, and what the plan taken then does; both as they were where that
    takes no less of the budget."""
    taken = choice.taken
    shifts = output_shifts(trial.model, trial.ranges, taken.plan, trial.on(BIAS_FRAMES).images_bgr_u8, track=track)
    corrected = replace(trial, model=correct_biases(trial.model, shifts))
    drift = corrected(taken.plan)
    if budget.rank(drift) >= budget.rank(taken.drift):
        return trial, choice
    return corrected, replace(choice, attempts={**choice.attempts, choice.scope: replace(taken, drift=drift)})
