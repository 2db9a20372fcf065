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
    np.testing.assert_array_equal(grown.counts, direct)
    assert grown.largest == pytest.approx(values.max())
    assert grown.width <= values.max() / 4096  # at least half of the bins are in use


def test_parts_merged_in_any_order_equal_one_pass() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, scale, 5000) for scale in (1, 1e-6, 40, 0.3)] + [np.zeros(7)]
    whole = of(*parts)
    for order in (range(5), (4, 2, 0, 3, 1), (1, 4, 0, 2, 3)):
        merged = Histogram()
        for index in order:
            merged.merge(of(parts[index]))
        np.testing.assert_array_equal(merged.counts, whole.counts)
        assert (merged.zeros, merged.largest, merged.width) == (7, whole.largest, whole.width)


def test_values_that_float32_can_hardly_hold() -> None:
    tiny = of(np.full(5, 1e-40))
    assert tiny.counts.sum() == 5
    tiny.merge(of(np.ones(3)))
    assert (tiny.counts[0], tiny.counts.sum()) == (5, 8)


@pytest.mark.parametrize("percent", [50, 99, 99.9, 99.99, 100])
def test_percentile_agrees_with_numpy(percent: float) -> None:
    values = np.random.default_rng(1).exponential(1, 200_000).astype(np.float32)
    histogram = of(*np.split(values, 8))
    wanted = np.percentile(values, percent)
    assert histogram.percentile(percent) == pytest.approx(wanted, abs=3 * histogram.width, rel=0.01)


def test_zeros_only() -> None:
    histogram = of(np.zeros(10))
    assert (histogram.percentile(99.99), histogram.entropy(), histogram.mse(), histogram.largest) == (0, 0, 0, 0)


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


def squared_error(values: np.ndarray, clip: float) -> float:
    """Of symmetric INT8 without −128, as the definition has it."""
    step = clip / 127
    return float(np.square(values - np.clip(np.rint(values / step), -127, 127) * step).sum())


DISTRIBUTIONS = {
    "uniform": lambda rng: rng.uniform(-3, 3, 100_000),
    "normal": lambda rng: rng.normal(0, 1, 100_000),
    "after a ReLU": lambda rng: np.maximum(rng.normal(-1, 1, 100_000), 0),
    "long tail": lambda rng: rng.standard_t(2, 100_000),
    "one outlier": lambda rng: np.append(rng.normal(0, 1, 100_000), 300.0),  # a bin is wider than the best step
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_agrees_with_a_search_over_all_clipping_magnitudes(name: str) -> None:
    values = DISTRIBUTIONS[name](np.random.default_rng(8)).astype(np.float32).astype(np.float64)
    clips = np.abs(values).max() * np.linspace(0.002, 1, 500)
    best = min(squared_error(values, clip) for clip in clips)
    assert squared_error(values, of(values).mse()) <= 1.01 * best


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1])
def test_the_squared_error_of_a_histogram_is_that_of_its_values(name: str, share: float) -> None:
    values = DISTRIBUTIONS[name](np.random.default_rng(9)).astype(np.float32).astype(np.float64)
    clip = share * float(np.abs(values).max())
    assert of(values).squared_error(clip) == pytest.approx(squared_error(values, clip), rel=0.03)


def test_mse_clips_an_outlier_and_keeps_a_uniform_distribution_whole() -> None:
    rng = np.random.default_rng(10)
    assert of(rng.uniform(-3, 3, 50_000)).mse() == pytest.approx(3, rel=0.02)
    assert of(np.append(rng.normal(0, 1, 1_000_000), 30.0)).mse() < 10
