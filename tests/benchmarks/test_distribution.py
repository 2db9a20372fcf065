"""Percentiles are measured values, and null rather than the maximum under another name."""

from __future__ import annotations

import numpy as np
import pytest

from segrd_edge.benchmarks.distribution import PERCENTILES, Distribution, most_late, samples_needed


def shuffled(count: int) -> Distribution:
    """1 ms, 2 ms, ... in random order."""
    return Distribution.of(np.random.default_rng(count).permutation(count) + 1.0)


@pytest.mark.parametrize(
    ("count", "known"),
    [
        (1, {}),
        (2, {"p50": 1}),
        (9, {"p50": 5}),
        (10, {"p50": 5, "p90": 9}),
        (99, {"p50": 50, "p90": 90}),
        (100, {"p50": 50, "p90": 90, "p99": 99}),
        (200, {"p50": 100, "p90": 180, "p99": 198}),
        (999, {"p50": 500, "p90": 900, "p99": 990}),
        (1000, {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}),
    ],
)
def test_percentiles_by_nearest_rank_and_null_where_too_few(count: int, known: dict[str, int]) -> None:
    distribution = shuffled(count)
    assert {name: distribution.percentile(name) for name in PERCENTILES} == {**dict.fromkeys(PERCENTILES), **known}
    assert set(distribution.unknown) == set(PERCENTILES) - set(known)


def test_what_is_unknown_says_how_many_samples_it_needs() -> None:
    assert shuffled(200).unknown == {"p99.9": "needs 1000 samples, 200 were taken"}


@pytest.mark.parametrize("name", PERCENTILES)
def test_a_known_percentile_is_below_the_maximum_from_exactly_the_samples_needed(name: str) -> None:
    needed = samples_needed(PERCENTILES[name])
    for count in range(needed, needed + 40):
        percentile = shuffled(count).percentile(name)
        assert percentile is not None
        assert percentile < count
    assert shuffled(needed - 1).percentile(name) is None


def test_jitter_is_p99_minus_p50_and_null_where_p99_is() -> None:
    assert shuffled(100).jitter == 99 - 50
    assert shuffled(99).jitter is None


def test_figures_of_few_samples() -> None:
    distribution = Distribution.of([4.0, 1.0, 3.0])
    assert distribution.median == distribution.percentile("p50") == 3
    assert (distribution.min, distribution.max) == (1, 4)
    assert distribution.mean == pytest.approx(8 / 3)
    assert distribution.std == pytest.approx(np.std([1, 3, 4], ddof=1))
    single = Distribution.of([2.0])
    assert (single.median, single.std) == (2, None)
    assert single.to_dict()["p50"] is None


@pytest.mark.parametrize(
    ("late", "samples", "expected"),
    [
        *((0, 100, 1 - 0.05 ** (1 / 100)), (0, 299, 0.01), (1, 100, 0.0466), (5, 100, 0.1023), (3, 3, 1.0)),
        *((140, 14000, 0.0115), (1000, 100_000, 0.0105)),  # more ways to choose than a double holds
    ],
)
def test_what_so_few_late_ones_speak_for(late: int, samples: int, expected: float) -> None:
    """The last but one by the tables of Clopper and Pearson's one-sided limit, as scipy.stats.beta gives it."""
    from scipy.stats import beta

    found = most_late(late, samples)
    assert found == pytest.approx(expected, abs=1e-4)
    if late < samples:
        assert found == pytest.approx(beta.ppf(0.95, late + 1, samples - late), abs=1e-8)
