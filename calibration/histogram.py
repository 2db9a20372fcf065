"""A histogram of magnitudes that grows with its data, and the three ways from it to the end of an INT8 scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 8192
LEVELS = 128  # magnitudes that symmetric INT8 tells apart: 0 … 127
_ENTROPY_BINS = 2048
_ENTROPY_STEP = 8  # candidates are this many bins apart: 0.4 % of the range


class Histogram:
    """Counts of |x| in BINS equal bins from 0, whatever the range turns out to be.

    One pass, bounded memory, no data kept: where a value falls outside, neighbouring bins are merged and the width
    doubles, which is exact. At least half of the bins are in use, so a bin is at most 1/4096 of the range.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.largest = 0.0
        self.width = 0.0  # of a bin; 0 until a value other than zero was seen

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count `values` (any shape, finite)."""
        magnitudes = np.abs(values.reshape(-1))
        self.largest = max(self.largest, float(magnitudes.max(initial=0)))
        if self.largest == 0:
            self.counts[0] += magnitudes.size
            return
        self._grow()
        # float32 keeps this fast; a value within a rounding error of an edge may fall on either side of it.
        bins = np.minimum((magnitudes * np.float32(1 / self.width)).astype(np.int32), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    def _grow(self) -> None:
        if self.width == 0:  # zeros so far, and they are in bin 0 at any width
            self.width = self.largest / BINS * 1.5  # room, so that the next image's slightly larger maximum still fits
        while self.largest > self.width * BINS:
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
