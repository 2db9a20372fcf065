"""Which of several engines is the faster one on this GPU.

The engines take turns, a short burst each, so that a clock that changes while they are measured, as GPUs' do, changes
for all of them. The figure of each is the median over all its runs, by events on the GPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..engines.tensorrt import TensorRtEngine

_ROUNDS = 20
_BURST_S = 0.05  # of one engine in one round
_FEWEST_RUNS = 5  # of a burst: 100 of each engine in all
_WARM_UP_S = 0.5  # of each engine: clocks rise, and first runs load kernels
_FEWEST_WARM_UP_RUNS = 10

Name = TypeVar("Name", bound=str)


def time_engines(
    engines: Mapping[Name, TensorRtEngine], items: Mapping[Name, Sequence[npt.NDArray[np.uint8]]]
) -> dict[Name, float]:
    """Milliseconds on the GPU of one run of each engine: copy in, kernels, copy out.

    Args:
        items: what each engine runs on, as `run_batch` takes it.
    """
    for name, engine in engines.items():
        engine.run_batch(items[name])
        _burst(engine, _WARM_UP_S, _FEWEST_WARM_UP_RUNS)
    times_ms: dict[Name, list[float]] = {name: [] for name in engines}
    for _ in range(_ROUNDS):
        for name, engine in engines.items():
            times_ms[name] += _burst(engine, _BURST_S, _FEWEST_RUNS)
    return {name: statistics.median(found) for name, found in times_ms.items()}


def _burst(engine: TensorRtEngine, seconds: float, fewest_runs: int) -> list[float]:
    times_ms: list[float] = []
    end = perf_counter() + seconds
    while len(times_ms) < fewest_runs or perf_counter() < end:
        times_ms.append(engine.time_ms())
    return times_ms
