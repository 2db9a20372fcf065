"""The search on networks that are only numbers: costs of blocks that add up, exactly or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from segrd_edge.calibration.blocks import Block
from segrd_edge.calibration.budget import Budget
from segrd_edge.calibration.drift import Drift
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.search import Found, search
from segrd_edge.calibration.sensitivity import Sensitivity

BUDGET = Budget(score_shift=0.01)


class Network:
    """Stands in for a Trial: `costs` of its blocks, together `factor` times their sum, on all frames `on_all` more.

    Some blocks have costs in two terms as well.
    """

    def __init__(
        self,
        costs: Mapping[str, float],
        factor: float = 1.0,
        on_all: float = 1.0,
        two_term: Mapping[str, float] | None = None,
    ) -> None:
        self.costs, self.factor, self.on_all, self.two_term = costs, factor, on_all, two_term or {}
        self.tried: list[tuple[str, ...]] = []
        self.said: list[str] = []

        self.reference = [0] * 100

    def on(self, count: int) -> Network:
        if self.on_all == 1:
            return self
        some = Network(self.costs, self.factor, two_term=self.two_term)
        some.tried, some.reference = self.tried, [0] * count
        return some

    def __call__(self, plan: Plan) -> Drift:
        self.tried.append(plan.quantised)
        costs = {**self.costs, **{name: self.two_term[name] for name in plan.two_term}}
        return drift(self.factor * self.on_all * sum(costs[name] for name in plan.quantised))

    def search(self, macs: Mapping[str, int] | None = None) -> Found | None:
        work = macs or dict.fromkeys(self.costs, 100)
        twice = {name: drift(cost) for name, cost in self.two_term.items()}
        alone = [
            Sensitivity(Block(name, (name,), work[name]), drift(cost), twice.get(name))
            for name, cost in self.costs.items()
        ]
        return search(cast(Any, self), Plan(tuple(self.costs), {}), alone, BUDGET, said=self.said.append)


def drift(cost: float) -> Drift:
    shift = BUDGET.score_shift * cost**0.5
    return Drift(shift, shift, 1.0, 1.0, shift)


def quantised(found: Found | None) -> set[str]:
    assert found is not None
    assert BUDGET.allows(found.drift)
    return set(found.plan.quantised)


def test_the_block_that_destroys_the_output_is_left_out_and_named() -> None:
    network = Network({"a": 0.1, "b": 400.0, "c": 0.2})
    found = network.search()
    assert quantised(found) == {"a", "c"}
    assert network.said == ["2 of 3 blocks in INT8: mean |Δscore| 0.0055, mean map cosine 1.0000"]
    assert found is not None
    assert found.plan.left_float["b"].startswith("b alone in INT8: mean |Δscore| 0.2000")


def test_work_counts_as_much_as_harm() -> None:
    """Either fits, both do not: the one with more work does more harm, and less of it per multiply-accumulate."""
    assert quantised(Network({"small": 0.5, "large": 0.8}).search({"small": 10, "large": 100})) == {"large"}


def test_a_block_behind_the_one_that_breaks_is_added() -> None:
    costs = {"a": 0.2, "b": 0.9, "c": 0.3}
    assert quantised(Network(costs).search({"a": 100, "b": 290, "c": 80})) == {"a", "c"}


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_sums_that_are_off_are_corrected(factor: float) -> None:
    """30 blocks that grow; the best is as many of the first as fit, whatever the noise really adds up to."""
    costs = {f"block{i:02d}": 1e-3 * 1.4**i for i in range(30)}
    network = Network(costs, factor)
    fits = np.cumsum(list(costs.values())) * factor <= 1
    found = quantised(network.search())
    assert found >= set(list(costs)[: int(fits.sum())]) - {list(costs)[int(fits.sum()) - 1]}
    assert sum(costs[name] for name in found) * factor <= 1
    assert len(network.tried) <= 10


def test_pairs_that_turn_narrow_the_plan_that_noise_would_allow() -> None:
    """Scores lie so close together that half the shift is too much: a quarter of the noise is left, and few trials."""

    class Close(Network):
        def __call__(self, plan: Plan) -> Drift:
            found = super().__call__(plan)
            return replace(found, pairs_turned=2 * BUDGET.pairs_turned * found.score_mean / BUDGET.score_shift)

    costs = {f"block{i:02d}": 1e-3 * 1.4**i for i in range(20)}
    network = Close(costs)
    found = quantised(network.search())
    assert 0.1 < sum(costs[name] for name in found) <= 0.25
    assert len(network.tried) <= 10
    assert "pairs turned" in network.said[0]


def test_a_block_that_is_too_costly_runs_in_two_terms() -> None:
    network = Network({"a": 0.1, "b": 400.0, "c": 0.2}, two_term={"b": 0.3})
    found = network.search()
    assert quantised(found) == {"a", "b", "c"}
    assert found is not None
    assert list(found.plan.two_term) == ["b"]
    assert network.said == [
        "3 of 3 blocks in INT8, 1 of them in two terms: mean |Δscore| 0.0077, mean map cosine 1.0000"
    ]
    reason = found.plan.two_term["b"]
    assert reason.startswith("b alone in INT8: mean |Δscore| 0.2000")
    assert "in two terms mean |Δscore| 0.0055" in reason


def test_two_terms_where_one_would_fit_too_but_not_for_all() -> None:
    """Each alone would fit in one term; together they do so only in two, and one of them can go on."""
    found = Network({"a": 0.6, "b": 0.9}, two_term={"a": 0.1, "b": 0.1}).search()
    assert quantised(found) == {"a", "b"}
    assert found is not None
    assert list(found.plan.two_term) == ["b"]


def test_two_terms_that_bring_nothing_are_not_taken() -> None:
    """For two thirds of the gain, two terms have to cost less than two thirds."""
    found = Network({"a": 0.5, "b": 9.0}, two_term={"a": 0.4, "b": 8.0}).search()
    assert quantised(found) == {"a"}
    assert found is not None
    assert not found.plan.two_term


def test_the_second_term_is_given_up_before_the_block() -> None:
    network = Network({"a": 0.2, "b": 0.7}, on_all=1.3, two_term={"b": 0.1})
    found = network.search()
    assert quantised(found) == {"a", "b"}
    assert found is not None
    assert list(found.plan.two_term) == ["b"]


def test_a_plan_that_fails_on_all_frames_gives_blocks_up() -> None:
    costs = {"a": 0.3, "b": 0.3, "c": 0.3, "d": 50.0}
    network = Network(costs, on_all=1.3)
    assert quantised(network.search()) == {"a", "b"}
    assert network.tried[-2:] == [("a", "b", "c"), ("a", "b")]


def test_nothing_fits() -> None:
    network = Network({"a": 30.0, "b": 40.0})
    assert network.search() is None
    assert network.tried == []  # that was clear beforehand
