"""A histogram of magnitudes that grows with its data, and the ways from it to the end of an INT8 scale."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BINS = 8192
LEVELS = 128  # magnitudes that symmetric INT8 tells apart: 0 … 127
_ENTROPY_BINS = 2048
_ENTROPY_STEP = 8  # candidates are this many bins apart: 0.4 % of the range
_NARROWEST = 2.0**-100  # of a bin: float32 can still divide by it
_MSE_COARSE, _MSE_FINE = 10, 100  # candidates per factor e of the clipping magnitude, first and near the best


class Histogram:
    """Counts of |x| in BINS equal bins from 0, whatever the range turns out to be.

    One pass, bounded memory, no data kept. The width of a bin is a power of two: where a value falls outside,
    neighbouring bins are merged and the width doubles, which is exact, so that parts counted apart and merged give the
    same as one pass, in any order. At least half of the bins are in use, so a bin is at most 1/4096 of the range.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.zeros = 0  # of them in bin 0, the values that are zero exactly
        self.largest = 0.0
        self.width = 0.0  # of a bin; 0 until a value other than zero was seen

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count `values` (any shape, finite)."""
        magnitudes = np.abs(values.reshape(-1))
        self.zeros += magnitudes.size - int(np.count_nonzero(magnitudes))
        self.largest = max(self.largest, float(magnitudes.max(initial=0)))
        if self.largest == 0:
            self.counts[0] += magnitudes.size
            return
        self._widen(max(2.0 ** math.ceil(math.log2(self.largest / BINS)), _NARROWEST))
        # A power of two multiplies without rounding; only the largest value of all can lie on the last bin's end.
        bins = np.minimum((magnitudes * np.float32(1 / self.width)).astype(np.int32), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Add what another histogram has counted."""
        self._widen(other.width)
        factor = min(round(self.width / other.width), BINS) if other.width else 1
        self.counts[: BINS // factor] += other.counts.reshape(-1, factor).sum(axis=1)
        self.zeros += other.zeros
        self.largest = max(self.largest, other.largest)

    def _widen(self, width: float) -> None:
        """Merge bins until one is at least `width` wide. Zeros so far are in bin 0 at any width."""
        if self.width == 0:
            self.width = width
        while self.width < width:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self.width *= 2

    def percentile(self, percent: float) -> float:
        """The magnitude that `percent` of all values stay below, linear within a bin, at most the largest."""
        wanted = percent / 100 * self.counts.sum()
        below = np.cumsum(self.counts)
        index = int(np.searchsorted(below, wanted))
        if index >= BINS or self.width == 0:
            return self.largest
        before = below[index - 1] if index else 0
        return float(min((index + (wanted - before) / self.counts[index]) * self.width, self.largest))

    def entropy(self) -> float:
        """The clipping magnitude whose 128-level version loses least information (Kullback-Leibler divergence).

        Migacz, "8-bit inference with TensorRT" (GTC 2017): clipped values are added to the last bin of the reference,
        the quantised version spreads each level evenly over its non-empty bins. Zeros are not counted, as they are
        exact at any scale and after a ReLU would hide everything else.
        """
        if self.width == 0:
            return 0.0
        counts = self.counts.reshape(_ENTROPY_BINS, -1).sum(axis=1).astype(np.float64)
        counts[0] = counts[1]
        used = min(int(np.ceil(self.largest / self.width / (BINS // _ENTROPY_BINS))), _ENTROPY_BINS)
        candidates = range(min(LEVELS, used), used + 1, _ENTROPY_STEP)
        best = min(candidates, key=lambda bins: _divergence(counts, bins))
        return min(best * self.width * (BINS // _ENTROPY_BINS), self.largest)

    def mse(self) -> float:
        """The clipping magnitude whose 128-level version has the least mean squared error.

        Values spread evenly within a bin; those that are zero are exact at any scale. Magnitudes are searched from a
        thousandth of the largest on, in steps of 10 % and around the best of these in steps of 1 %.
        """
        if self.width == 0:
            return 0.0
        coarse = np.exp(np.arange(-7 * _MSE_COARSE, 1) / _MSE_COARSE)
        near = np.exp(np.arange(-_MSE_FINE // _MSE_COARSE, _MSE_FINE // _MSE_COARSE + 1) / _MSE_FINE)
        best = min(self.largest * coarse, key=self.squared_error)
        return float(min(np.minimum(best * near, self.largest), key=self.squared_error))

    def squared_error(self, clip: float) -> float:
        """Sum over all values of (x − its 128-level version)², where magnitudes above `clip` are clipped.

        With step = clip / 127, level k = min(round(x / step), 127) and r = x − k · step, the integral of r² from 0 to x
        is k · step³ / 12 + r³ / 3, in every level and in what is clipped; its difference over a bin is the bin's error.
        """
        used = min(int(self.largest / self.width) + 1, BINS)
        edges = np.arange(used + 1) * self.width
        step = clip / (LEVELS - 1)
        level = np.minimum(np.rint(edges / step), LEVELS - 1)
        integral = level * step**3 / 12 + (edges - level * step) ** 3 / 3
        counts = self.counts[:used].copy()
        counts[0] -= self.zeros
        return float(counts @ np.diff(integral)) / self.width


def _divergence(counts: npt.NDArray[np.float64], bins: int) -> float:
    """KL(reference ‖ quantised) where magnitudes are clipped behind `bins` of the bins."""
    level = np.arange(bins) * LEVELS // bins  # of each bin
    total = np.bincount(level, counts[:bins], LEVELS)
    reference = counts[:bins].copy()
    reference[-1] += counts[bins:].sum()
    filled = reference > 0
    spread = np.bincount(level, filled, LEVELS)
    quantised = np.where(filled, total[level] / np.maximum(spread[level], 1), 0)
    if quantised.sum() == 0:
        return np.inf
    p, q = reference / reference.sum(), quantised / quantised.sum()
    return float(np.sum(p[filled] * np.log(p[filled] / np.maximum(q[filled], 1e-10))))
