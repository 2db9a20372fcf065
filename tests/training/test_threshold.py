"""The guarantee by simulation, the tail estimate on known laws, and the refusals."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import numpy.typing as npt
import pytest

from segrd_edge.errors import OptionError, ThresholdError
from segrd_edge.manifest import ThresholdRecord
from segrd_edge.training.threshold import Reference, Rule, _fit_excess, choose_threshold, parse_rate

# A uniform score is the sigmoid of a logistic variable, and its true false-reject rate is 1 - threshold.
rng = np.random.default_rng


def test_conformal_value_is_just_above_the_right_score() -> None:
    scores = rng(0).permutation(np.arange(1, 200) / 1000)  # n = 199: k = 200 - 200 × 0.005 = 199, the largest
    got = choose_threshold(scores, false_reject=0.005)
    assert got.rule == "conformal"
    assert got.value == got.conformal.value
    assert 0.199 < got.value < 0.199 + 1e-7
    assert got.conformal.guaranteed_rate == pytest.approx(0.005, abs=1e-15)
    assert choose_threshold(scores, false_reject=0.05).value == pytest.approx(0.190, abs=1e-7)


def test_a_held_out_score_equal_to_the_limit_is_good_even_as_float32() -> None:
    scores = rng(1).random(300).astype(np.float32)
    value = choose_threshold(scores, false_reject=0.01).value
    assert np.mean(scores >= np.float32(value)) == np.mean(scores >= value) == pytest.approx(2 / 300)


@pytest.mark.parametrize("false_reject", [0.001, 0.003, 0.005, 0.007, 0.01, 0.05, 0.1, 0.3])
def test_needed_is_exactly_where_the_guarantee_begins(false_reject: float) -> None:
    needed = choose_threshold(np.linspace(0.1, 0.2, 8), false_reject=false_reject).conformal.needed
    assert (needed + 1) * false_reject == pytest.approx(1, abs=false_reject)
    for count in {max(8, needed - 1), max(8, needed)}:
        bound = choose_threshold(np.linspace(0.1, 0.2, count), false_reject=false_reject).conformal
        assert (bound.value is not None) == (count >= needed)
        if bound.value is not None:
            assert bound.guaranteed_rate <= false_reject + 1e-12
        else:
            assert bound.guaranteed_rate == 1 / (count + 1)


@pytest.mark.parametrize(("count", "false_reject", "expected"), [(99, 0.05, 0.05), (50, 0.05, 2 / 51)])
def test_conformal_rate_over_many_draws(count: int, false_reject: float, expected: float) -> None:
    """The mean over 2000 sets of images is (n + 1 - k)/(n + 1); its standard error is below 0.0007."""
    draws = rng(2).random((2000, count))
    rates = [1 - choose_threshold(scores, false_reject=false_reject).value for scores in draws]
    assert np.mean(rates) == pytest.approx(expected, abs=0.002)
    assert np.mean(rates) <= false_reject + 0.002


def test_conformal_rate_holds_with_tied_scores() -> None:
    """Scores on a grid of 0.1: the true rate at a threshold is the mass of the grid points at or above it."""
    draws = np.floor(rng(3).random((1000, 60)) * 10) / 10
    values = [choose_threshold(scores, false_reject=0.15, rule="conformal").value for scores in draws]
    rates = [1 - math.ceil(10 * value) / 10 for value in values]
    assert 0 < np.mean(rates) <= 0.15


@pytest.mark.parametrize("law", ["logistic", "exponential"])
@pytest.mark.parametrize(("count", "false_reject"), [(60, 0.005), (400, 0.001)])
def test_tail_estimate_is_within_a_factor_of_two(law: str, count: int, false_reject: float) -> None:
    """Median true rate over 60 sets; logits logistic (tail asymptotically exponential) or shifted exponential."""
    generator, rates = rng(4), []
    for _ in range(60):
        if law == "logistic":
            scores = generator.random(count)
        else:
            scores = 1 / (1 + np.exp(4 - generator.exponential(1.0, count)))
        tail = choose_threshold(scores, false_reject=false_reject, rule="tail").tail
        assert tail.method == "pareto"
        level = math.log(tail.value / (1 - tail.value))
        rates.append(1 - tail.value if law == "logistic" else math.exp(-(level + 4)))
    assert false_reject / 2 < np.median(rates) < false_reject * 2


def test_a_second_kind_of_good_part_that_scores_a_little_higher_does_not_carry_the_threshold_away() -> None:
    """Scores as an RD gave 33 good fabrics: six of them from another bolt, none above 0.264."""
    scores = [*np.linspace(0.14, 0.168, 27), 0.191, 0.23, 0.25, 0.257, 0.258, 0.264]
    got = choose_threshold(scores)
    assert got.tail.shape < 0
    assert 0.27 < got.value < 0.38  # 0.46 with an exponential tail


@pytest.mark.parametrize("excess", [[0.3] * 5, [1e-9, 1e-9, 2.0], [1e-3], [0.1, 0.1, 5.0, 5.0]])
def test_the_fit_of_ties_and_outliers_is_a_law(excess: list[float]) -> None:
    shape, scale = _fit_excess(np.array(excess))
    assert -1 <= shape <= 0.5
    assert 0 < scale < np.inf


def test_tail_never_rejects_the_images_at_hand_below_one_in_n_plus_one() -> None:
    generator = rng(5)
    for _ in range(200):
        scores = np.append(generator.random(19) * 0.1, 0.5)  # an outlier that the fit would cut off
        assert choose_threshold(scores, false_reject=0.01, rule="tail").value > 0.5
        assert choose_threshold(scores, false_reject=0.3, rule="tail").tail.method == "quantile"


@pytest.mark.parametrize("score", [0.0, 0.25, 0.9999999])
def test_constant_scores_are_accepted(score: float) -> None:
    for rule in ("auto", "tail"):
        got = choose_threshold(np.full(250, score), rule=rule)
        assert score < got.value <= 1
        assert sum(got.histogram.good) == 250


@pytest.mark.parametrize("false_reject", [0.001, 0.3])
def test_a_saturated_tail_still_catches_saturated_defects(false_reject: float) -> None:
    scores = 1 / (1 + np.exp(-rng(6).normal(10, 3, 50)))
    assert choose_threshold(scores, false_reject=false_reject, rule="tail").value < 1


def test_auto_takes_the_guarantee_where_there_is_one() -> None:
    few, many = rng(7).random(198) * 0.5, rng(7).random(199) * 0.5
    assert choose_threshold(few).rule == "tail"
    assert choose_threshold(many).rule == "conformal"
    assert choose_threshold(many, rule="tail").rule == "tail"


def test_defect_scores_state_the_escape_rate_and_move_nothing() -> None:
    good = rng(8).random(300) * 0.2
    alone = choose_threshold(good)
    got = choose_threshold(good, defect_scores=[0.0, 0.1, alone.value, 0.9])
    assert got.value == alone.value
    assert (got.escape_rate, got.n_defect) == (0.5, 4)  # a score at the threshold is a defect
    assert (alone.escape_rate, alone.n_defect, alone.histogram.defect) == (None, 0, None)
    assert got.histogram.defect is not None
    assert sum(got.histogram.good) == 300
    assert sum(got.histogram.defect) == 4
    assert len(got.histogram.edges) == len(got.histogram.good) + 1


@pytest.mark.parametrize(
    ("count", "rule", "says"),
    [
        (199, "auto", "Guaranteed from 199 held-out good images: on average, no more than 0.5 % of good"),
        (60, "auto", "about 0.5 % .* 60 held-out .* guarantee is at most 1.64 %; 199 images would guarantee 0.5 %"),
        (300, "tail", "Estimated, not guaranteed: about 0.5 % .* The conformal rule could guarantee this rate"),
    ],
)
def test_statement(count: int, rule: Rule, says: str) -> None:
    got = choose_threshold(rng(9).random(count), rule=rule)
    assert re.search(says, got.statement), got.statement


def test_record_survives_json() -> None:
    got = choose_threshold(rng(10).random(250).astype(np.float32), defect_scores=np.array([0.5], np.float32))
    record = json.loads(json.dumps(got.to_dict(), allow_nan=False))
    assert record["value"] == got.value
    assert ThresholdRecord.model_validate(record).statement == got.statement
    assert set(record) == {
        "value", "rule", "false_reject", "n_good", "conformal", "tail", "escape_rate", "n_defect", "histogram",
        "statement",
    }  # fmt: skip
    assert set(record["conformal"]) == {"value", "guaranteed_rate", "needed"}
    assert set(record["tail"]) == {"value", "method", "exceedances", "shape", "scale"}
    assert set(record["histogram"]) == {"edges", "good", "defect"}


GOOD: npt.NDArray[np.float64] = np.linspace(0.1, 0.2, 60)


@pytest.mark.parametrize(
    ("scores", "false_reject", "rule", "error", "message"),
    [
        (GOOD[:7], 0.4, "auto", ThresholdError, "7 held-out good images are too few"),
        ([], 0.005, "tail", ThresholdError, "0 held-out"),
        (GOOD, 0.005, "conformal", ThresholdError, "(?s)the best they can guarantee is 1.64 %.*199 held-out"),
        (np.append(GOOD, 1.0), 0.005, "auto", ThresholdError, "highest possible anomaly score"),
        (np.append(GOOD, np.nan), 0.005, "auto", OptionError, "1 of 61 good scores"),
        (GOOD * 10, 0.005, "auto", OptionError, "outside"),
        (GOOD, 0.5, "auto", OptionError, "0.5% is 0.005"),
        (GOOD, 0.0, "auto", OptionError, "above 0"),
        (GOOD, math.nan, "auto", OptionError, "nan"),
        (GOOD, 0.005, "median", OptionError, "'median'"),
    ],
)
def test_refusals(scores: npt.ArrayLike, false_reject: float, rule: Rule, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        choose_threshold(scores, false_reject=false_reject, rule=rule)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("0.5%", 0.005), (" 0.5 % ", 0.005), ("0.005", 0.005), ("5e-3", 0.005), ("0.7%", 0.007), ("49%", 0.49)],
)
def test_parse_rate(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "%", "half", "0.5", "5", "0", "0%", "-1%", "nan", "inf%", "0,5%", "50%"])
def test_parse_rate_refuses(text: str) -> None:
    with pytest.raises(OptionError, match=r"0\.5% (or|is) 0\.005"):
        parse_rate(text)


def _logit(score: float) -> float:
    return math.log(score / (1 - score))


def _pair(seed: int, count: int, low: float, high: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two graphs for the same images: logits that differ by a quarter of themselves and 1, and some noise."""
    rng = np.random.default_rng(seed)
    logits = np.linspace(low, high, count)
    other = 0.75 * logits - 1 + rng.normal(0, noise, count)
    return 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-other))


def test_a_tail_is_carried_over_by_the_shift_of_the_scores_beside_it() -> None:
    good, same = _pair(0, 36, -2, 1, 0.0)
    pairs = _pair(1, 400, -4, 6, 0.0)
    first = choose_threshold(good)
    second = choose_threshold(same, reference=Reference(first, *pairs))
    assert (second.rule, second.tail.method) == ("tail", "carried")
    assert _logit(second.value) == pytest.approx(0.75 * _logit(first.value) - 1, abs=0.02)
    assert (second.tail.scale, second.tail.exceedances) == (first.tail.scale, first.tail.exceedances)
    assert "carried over from fp32's" in second.statement


def test_a_carried_tail_moves_less_than_one_that_is_fitted_again() -> None:
    """Over many sets of images, noise in the scores turns the threshold, in logits, by less."""
    fitted, carried = [], []
    for seed in range(40):
        good, same = _pair(seed, 36, -2, 1, 0.1)
        pairs = _pair(100 + seed, 100, -4, 6, 0.1)
        first = choose_threshold(good)
        wanted = 0.75 * _logit(first.value) - 1
        fitted.append(_logit(choose_threshold(same).value) - wanted)
        carried.append(_logit(choose_threshold(same, reference=Reference(first, *pairs)).value) - wanted)
    assert np.std(carried) < 0.6 * np.std(fitted)


def test_a_carried_tail_accepts_the_images_at_hand_and_a_guarantee_is_made_anew() -> None:
    good, same = _pair(0, 36, -2, 1, 0.0)
    far_down = Reference(choose_threshold(good), good, np.full(36, 1e-3))
    assert choose_threshold(same, reference=far_down).value > same.max()
    many, others = _pair(0, 250, -2, 1, 0.0)
    guaranteed = choose_threshold(others, reference=Reference(choose_threshold(many), many, others))
    assert guaranteed.rule == "conformal"
    assert guaranteed.value == choose_threshold(others).value
    with pytest.raises(OptionError, match="36 reference scores beside 250"):
        choose_threshold(same, reference=Reference(choose_threshold(good), good, others))
