from __future__ import annotations

import math

import pytest

from segrd_edge.calibration.budget import Budget, estimated_speedup
from segrd_edge.calibration.drift import Drift
from segrd_edge.errors import OptionError


def drift(score: float = 0, cosine: float = 1, **figures: float) -> Drift:
    return Drift(score, 2 * score, cosine, cosine, score, **figures)


@pytest.mark.parametrize(
    ("figures", "breach"),
    [
        (drift(0.01, 0.99, pixel_ap_drop=0.02, flip_rate=0.05), None),
        (drift(0.0101), "mean |Δscore| 0.0101 over 0.01"),
        (drift(0, 0.9899), "mean map cosine 0.9899 under 0.99"),
        (drift(pairs_turned=0.011), "pairs turned 0.0110 over 0.01"),
        (drift(pixel_ap_drop=0.021), "pixel AP lost 0.0210 over 0.02"),
        (drift(flip_rate=0.06), "verdicts turned 0.0600 over 0.05"),
        (drift(pixel_ap_drop=-0.5), None),  # a gain
    ],
)
def test_every_limit_counts(figures: Drift, breach: str | None) -> None:
    budget = Budget(ap_drop=0.02, flip_rate=0.05)
    assert budget.breaches(figures) == ([] if breach is None else [breach])
    assert budget.allows(figures) == (breach is None)


def test_what_is_not_limited_or_not_known_does_not_count() -> None:
    assert Budget(ap_drop=None, flip_rate=None).allows(drift(pixel_ap_drop=1, flip_rate=1))
    assert Budget(ap_drop=0, flip_rate=0).allows(drift())


def test_cost_is_a_power_and_1_is_the_whole_budget() -> None:
    budget = Budget(score_shift=0.02, map_cosine=0.98)
    assert budget.cost(drift(0.02)) == pytest.approx(1)
    assert budget.cost(drift(0.04)) == pytest.approx(4)
    assert budget.cost(drift(0.01, 0.96)) == pytest.approx(2)  # the dearer of the two
    assert Budget(score_shift=0).cost(drift(0.01)) > 1e6


def test_cost_counts_pairs_and_noise_does_not() -> None:
    budget = Budget(score_shift=0.02, pairs_turned=0.01)
    assert budget.cost(drift(0.02, pairs_turned=0.03)) == pytest.approx(9)
    assert budget.noise(drift(0.02, pairs_turned=0.03)) == pytest.approx(1)
    assert budget.cost(drift(0.02, pairs_turned=0.001)) == pytest.approx(1)  # the dearer of the two


def test_what_is_within_all_limits_goes_before_what_takes_less_of_the_budget() -> None:
    budget = Budget(flip_rate=0.05)
    within, beyond, worse = drift(0.009), drift(0.002, flip_rate=0.1), drift(0.008, flip_rate=0.2)
    assert budget.cost(beyond) < budget.cost(within)
    assert sorted([beyond, worse, within], key=budget.rank) == [within, beyond, worse]


@pytest.mark.parametrize("value", [-0.1, 101, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "option", "bounds"),
    [
        ("score_shift", "--max-score-shift", "0 to 1"),
        ("pairs_turned", "--max-pairs-turned", "0 to 1"),
        ("ap_drop", "--max-ap-drop", "0 to 1"),
        ("flip_rate", "--max-flip-rate", "0 to 1"),
        ("speedup", "--min-speedup", "1 to 100"),
    ],
)
def test_limits_that_cannot_be(name: str, option: str, bounds: str, value: float) -> None:
    with pytest.raises(OptionError) as caught:
        Budget(**{name: value})
    assert (caught.value.what, caught.value.expected) == (
        f"{option} {value:g} (Budget.{name})", f"a number from {bounds}",
    )  # fmt: skip
    assert caught.value.fix.startswith(f"for example {option} ")


@pytest.mark.parametrize("value", [1.01, math.nan])
def test_the_limit_that_has_no_option(value: float) -> None:
    with pytest.raises(OptionError, match=rf"^Budget\.map_cosine {value:g}\n(.*\n)fix: .* Budget\.map_cosine = 0\.99$"):
        Budget(map_cosine=value)


def test_speedup_by_work() -> None:
    assert estimated_speedup(0) == 1
    assert estimated_speedup(1) == 4
    assert estimated_speedup(0.5) == pytest.approx(1.6)  # half of the time, and an eighth
