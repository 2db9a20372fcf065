"""What can be said of repeated measurements, and what cannot."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# In thousandths, so that ranks are exact.
PERCENTILES: dict[str, int] = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}


CONFIDENCE = 0.95


def most_late(late: int, samples: int) -> float:
    """The largest share of late frames that `late` of `samples` inspections still speak for, with 95 % confidence.

    The upper limit of Clopper and Pearson (1934): the share of which so few late ones come up in one of twenty
    measurements. Of 100 inspections without a late one it is 3 %, not 0; 1 % takes 299 of them.
    """
    if late >= samples:
        return 1.0
    counts = np.arange(late + 1)
    ways = np.array([_log_choose(samples, int(k)) for k in counts])  # logarithms: of many samples no double holds them
    low, high = late / samples, 1.0
    for _ in range(50):  # bisection, to the last digits of a double
        middle = (low + high) / 2
        chance = np.exp(ways + counts * math.log(middle) + (samples - counts) * math.log1p(-middle)).sum()
        low, high = (middle, high) if chance > 1 - CONFIDENCE else (low, middle)
    return high


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def samples_needed(thousandths: int) -> int:
    """The fewest samples of which at least one lies above the percentile."""
    return -(-1000 // (1000 - thousandths))


@dataclass(frozen=True, eq=False)
class Distribution:
    """Durations in ms, in the order in which they were taken.

    A percentile is the nearest-rank one: a duration that was really measured. It is known only if at least one
    measured duration lies above it; otherwise it would be the maximum under another name.
    """

    samples_ms: npt.NDArray[np.float64]

    @classmethod
    def of(cls, durations_ms: Iterable[float]) -> Distribution:
        """At least one duration."""
        return cls(np.fromiter(durations_ms, np.float64))

    def percentile(self, name: str) -> float | None:
        """One of `PERCENTILES` by name; None where too few samples were taken to know it."""
        return self.quantile(PERCENTILES[name])

    def quantile(self, thousandths: int) -> float | None:
        """Any other percentile, for example 950 for p95; None as for `percentile`."""
        count = self.samples_ms.size
        if count < samples_needed(thousandths):
            return None
        rank = -(-count * thousandths // 1000)  # nearest rank, counted from 1
        return float(np.partition(self.samples_ms, rank - 1)[rank - 1])

    @property
    def unknown(self) -> dict[str, str]:
        """Each percentile that is not known, and why."""
        count = self.samples_ms.size
        needed = {name: samples_needed(thousandths) for name, thousandths in PERCENTILES.items()}
        return {name: f"needs {n} samples, {count} were taken" for name, n in needed.items() if count < n}

    @property
    def median(self) -> float:
        """p50, which for a single sample is that sample."""
        middle = (self.samples_ms.size - 1) // 2
        return float(np.partition(self.samples_ms, middle)[middle])

    @property
    def mean(self) -> float:
        return float(self.samples_ms.mean())

    @property
    def std(self) -> float | None:
        """Standard deviation (n - 1); None for a single sample."""
        return float(self.samples_ms.std(ddof=1)) if self.samples_ms.size > 1 else None

    @property
    def min(self) -> float:
        return float(self.samples_ms.min())

    @property
    def max(self) -> float:
        return float(self.samples_ms.max())

    @property
    def jitter(self) -> float | None:
        """p99 - p50: how much later than usual one frame in a hundred is. None where p99 is not known."""
        p50, p99 = self.percentile("p50"), self.percentile("p99")
        return None if p50 is None or p99 is None else p99 - p50

    def to_dict(self) -> dict[str, float | None]:
        """All figures in ms, to 0.1 µs; null where not known."""
        figures = {
            "min": self.min,
            **{name: self.percentile(name) for name in PERCENTILES},
            "max": self.max,
            "mean": self.mean,
            "std": self.std,
            "jitter": self.jitter,
        }
        return {name: None if value is None else round(value, 4) for name, value in figures.items()}
