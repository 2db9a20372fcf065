from __future__ import annotations

import numpy as np
import pytest

from segrd_edge.calibration.histogram import BINS, Histogram


def of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(np.asarray(part, np.float32))
    return histogram


def test_growing_loses_no_count_and_equals_one_histogram_over_everything() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, scale, 5000) for scale in (0.01, 1, 0.3, 40)]  # the range grows by 4000
    grown = of(*parts)
    values = np.abs(np.concatenate(parts).astype(np.float32))
    direct, _ = np.histogram(values, BINS, (0, grown.width * BINS))
    assert grown.counts.sum() == 20000
    assert np.abs(np.cumsum(grown.counts) - np.cumsum(direct)).max() <= 2  # values within a rounding error of an edge
    assert grown.largest == pytest.approx(values.max())
    assert grown.width <= values.max() / 4096  # at least half of the bins are in use


@pytest.mark.parametrize("percent", [50, 99, 99.9, 99.99, 100])
def test_percentile_agrees_with_numpy(percent: float) -> None:
    values = np.random.default_rng(1).exponential(1, 200_000).astype(np.float32)
    histogram = of(*np.split(values, 8))
    wanted = np.percentile(values, percent)
    assert histogram.percentile(percent) == pytest.approx(wanted, abs=3 * histogram.width, rel=0.01)


def test_zeros_only() -> None:
    histogram = of(np.zeros(10))
    assert (histogram.percentile(99.99), histogram.entropy(), histogram.largest) == (0, 0, 0)


def test_zeros_before_the_first_value_are_counted() -> None:
    histogram = of(np.zeros(10), np.ones(10))
    assert histogram.percentile(45) < 0.01
    assert histogram.percentile(100) == 1


def test_entropy_keeps_a_uniform_distribution_whole() -> None:
    values = np.random.default_rng(2).uniform(-3, 3, 100_000)
    assert of(values).entropy() == pytest.approx(3, rel=0.02)  # clipping any of it would lose information


def test_entropy_clips_rare_outliers() -> None:
    rng = np.random.default_rng(3)
    bulk = of(rng.normal(0, 1, 200_000)).entropy()
    with_outliers = of(np.concatenate([rng.normal(0, 1, 200_000), [40.0, 55.0]])).entropy()
    assert 3 < bulk < 5.5
    assert with_outliers < 12  # max would spend 55/127 per step, the bulk needs less than a tenth


def test_entropy_does_not_depend_on_zeros_from_a_relu() -> None:
    values = np.abs(np.random.default_rng(4).normal(0, 1, 50_000))
    assert of(np.concatenate([values, np.zeros(200_000)])).entropy() == pytest.approx(of(values).entropy(), rel=0.02)
