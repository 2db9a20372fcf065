"""The threshold, from good images only: a guarantee where there are enough of them, an estimate where not.

Two rules read the anomaly scores of n held-out good images, which neither training nor calibration has seen.

- conformal: split conformal prediction (Vovk et al., 2005; Lei et al., 2018). The threshold lies just above the
  k-th smallest score, k = ceil((n + 1)(1 - a)), for a false-reject budget a. Distribution-free, and it needs
  n >= 1/a - 1 images.
- tail: peaks over threshold (Pickands, 1975). Above its 80 % quantile the logit of the score is taken to follow a
  generalized Pareto law, which is extrapolated to a. Its shape is Zhang and Stephens' (2009), drawn towards the
  exponential's by a weight of ten exceedances, as Vehtari et al. (2024) draw theirs towards another one. Works from few
  images, guarantees nothing of its own: for a = 0.5 % and n = 60 logistic, exponential or normal logits the true rate
  had a median of 0.6 to 0.9 times a, and 80 % of it lay between 0.05 and 4.1 times a (400 simulated sets each).

The scores of a second graph, INT8 beside float, are those of the first with small shifts. The conformal rule reads
them like any others and keeps its guarantee. The tail is not fitted again: far behind few images a fit multiplies every
shift (of a SegRD++, where INT8 moved scores by 0.01 on average, 36 images took it from 0.934 to 0.877, which turned 25
of 140 verdicts). It is carried over, by what the second graph does to the scores that lie nearest to it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import OptionError, ThresholdError

Rule = Literal["auto", "conformal", "tail"]

MIN_GOOD = 8  # fewer images say nothing about a tail
MAX_FALSE_REJECT = 0.5  # at or above it, somebody forgot a percent sign
_TAIL_QUANTILE = 0.8
# Exceedances that the exponential law counts for. Good parts are often of two kinds, one of which scores a little
# higher and ends soon: an exponential through seven exceedances put the threshold of an RD where 20 of 21 defects
# escaped and no good part of 66 came near; with a shape, 7 escaped. Without the weight seven give any shape at all.
_PRIOR_EXCEEDANCES = 10
_SHAPES = (-1.0, 0.5)  # below, the density rises towards its end; above, it has no variance. Ties lead there
_LOGIT_MARGIN = 1e-7  # float32 scores closer to 0 or 1 than this are one step away from them
_BINS = 40
_NEIGHBOURS = 15  # pairs of scores that carry a threshold over; few, because a shift depends on the score

_JUST_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))

# quantile: the budget lies inside the data; carried: from another graph's tail
_TailMethod = Literal["pareto", "quantile", "carried"]
_Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ConformalBound:
    """What n good images guarantee."""

    value: float | None  # threshold that keeps the budget; None where n is too small
    guaranteed_rate: float  # false rejects at `value`; where that is None, the least that n images can guarantee
    needed: int  # good images that the budget needs


@dataclass(frozen=True, eq=False)
class Reference:
    """Another graph's threshold, and the scores that both graphs give the same images: good ones and defects, seen in
    training or not, because they only tell how scores of one graph become those of the other."""

    threshold: Threshold
    before: npt.ArrayLike  # n scores of the reference
    after: npt.ArrayLike  # n scores of the graph that wants a threshold


@dataclass(frozen=True)
class TailEstimate:
    """What the tail of the good scores suggests."""

    value: float  # threshold
    method: _TailMethod
    exceedances: int  # scores above their 80 % quantile, which the fit sees
    shape: float  # generalized Pareto shape; 0 is the exponential tail, below 0 it ends
    scale: float  # in logits


@dataclass(frozen=True)
class ScoreHistogram:
    edges: tuple[float, ...]  # one more than the counts
    good: tuple[int, ...]
    defect: tuple[int, ...] | None


@dataclass(frozen=True)
class Threshold:
    """A threshold and how it was chosen. Scores at or above `value` are defects."""

    value: float
    rule: Literal["conformal", "tail"]  # the rule that `value` comes from
    false_reject: float  # the budget: share of good parts that may be rejected
    n_good: int
    conformal: ConformalBound
    tail: TailEstimate
    escape_rate: float | None  # share of the given defect images below `value`
    n_defect: int
    histogram: ScoreHistogram
    statement: str  # for people

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose_threshold(
    good_scores: npt.ArrayLike,
    *,
    false_reject: float = 0.005,
    rule: Rule = "auto",
    defect_scores: npt.ArrayLike | None = None,
    reference: Reference | None = None,
) -> Threshold:
    """Choose the threshold that rejects at most a share `false_reject` of good parts.

    The guarantee of the conformal rule, exactly: let the n held-out good images and the next good frame be
    exchangeable (in particular, independent draws from one unchanging production). Then the probability that
    this frame scores at or above `value` is at most `conformal.guaranteed_rate` <= `false_reject`. The
    probability is marginal, over the draw of the frame and of the held-out images: it holds on average over
    such sets of images. The rate of the one threshold chosen today varies around it (with continuous scores
    as Beta(n + 1 - k, k)), and nothing is promised once light, camera or parts have changed.

    Args:
        good_scores: n float, anomaly scores in [0, 1] of good images held out from training.
        false_reject: the budget, in (0, 0.5).
        rule: "conformal", or "tail", or "auto": conformal where n suffices, else tail.
        defect_scores: scores of defect images, only to state the escape rate; they never move the threshold.
        reference: of a graph whose estimated threshold is carried over.

    Raises:
        ThresholdError: fewer than 8 good images; rule "conformal" with fewer images than it needs; good
            images that already have the highest possible score.
        OptionError: a rate, rule or score out of range, or NaN.
    """
    good = _as_scores(good_scores, "good")
    defect = None if defect_scores is None else _as_scores(defect_scores, "defect")
    _check_options(false_reject, rule)
    if good.size < MIN_GOOD:
        raise ThresholdError(
            f"{good.size} held-out good images are too few for a threshold",
            expected=f"at least {MIN_GOOD}; {_needed(false_reject)} to guarantee {_percent(false_reject)}",
            fix="photograph more good parts",
        )
    conformal = _conformal_bound(good, false_reject)
    if rule == "conformal" and conformal.value is None:
        raise ThresholdError(
            f"{good.size} held-out good images cannot guarantee {_percent(false_reject)} false rejects; "
            f"the best they can guarantee is {_percent(conformal.guaranteed_rate)}",
            expected=f"{conformal.needed} held-out good images",
            fix="photograph more good parts, allow more false rejects, or take the tail estimate (rule='tail')",
        )
    tail = _tail_estimate(good, false_reject)
    if reference is not None:
        tail = _carried(reference, good, false_reject)
    estimated = rule == "tail" or conformal.value is None
    value = tail.value if rule == "tail" or conformal.value is None else conformal.value
    return Threshold(
        value=value,
        rule="tail" if estimated else "conformal",
        false_reject=false_reject,
        n_good=good.size,
        conformal=conformal,
        tail=tail,
        escape_rate=None if defect is None or not defect.size else float(np.mean(defect < value)),
        n_defect=0 if defect is None else defect.size,
        histogram=_histogram(good, defect, value),
        statement=_statement(estimated, false_reject, good.size, conformal, is_carried=tail.method == "carried"),
    )


def parse_rate(text: str) -> float:
    """A rate as people write it: "0.5%", "0.5 %" or "0.005" → 0.005.

    Raises:
        OptionError: not a number, or not in (0, 0.5), such as a "0.5" that was meant as a percentage.
    """
    number = text.strip()
    try:
        # Decimal, so that 0.7% is the same float as 0.007
        rate = float(Decimal(number[:-1].strip()) / 100 if number.endswith("%") else Decimal(number))
    except InvalidOperation:
        raise OptionError(
            f"{text!r} is not a rate", expected="a number or a percentage", fix="for example 0.5% or 0.005"
        ) from None
    _check_rate(rate, shown=text.strip())
    return rate


def _conformal_bound(good: _Scores, false_reject: float) -> ConformalBound:
    count = good.size
    # As a fraction: (n + 1)(1 - 0.005) must not be rounded up to the next integer by the last bit of 0.005.
    rank = math.ceil((count + 1) * (1 - _fraction(false_reject)))
    value = _just_above(float(np.sort(good)[rank - 1])) if rank <= count else None
    rate = (count + 1 - min(rank, count)) / (count + 1)
    return ConformalBound(value, rate, _needed(false_reject))


def _tail_estimate(good: _Scores, false_reject: float) -> TailEstimate:
    """Fit the tail in logits, where scores of saturating networks have one, and go back through the sigmoid."""
    logits = _logits(good)
    start = float(np.quantile(logits, _TAIL_QUANTILE))
    excess = logits[logits > start] - start
    shape, scale = _fit_excess(excess)
    rarity = excess.size / (good.size * false_reject)  # exceedances per false reject
    method: _TailMethod = "pareto"
    if rarity > 1:
        level = start + scale * (math.expm1(shape * math.log(rarity)) / shape if shape else math.log(rarity))
    else:
        method, level = "quantile", float(np.quantile(logits, 1 - false_reject))
    return TailEstimate(_tail_value(level, good, false_reject, excess.size), method, int(excess.size), shape, scale)


def _carried(reference: Reference, good: _Scores, false_reject: float) -> TailEstimate:
    """The reference's tail, moved by the median shift of the logits of the scores nearest to its end."""
    before, after = _as_scores(reference.before, "reference"), _as_scores(reference.after, "paired")
    if before.size != after.size or not before.size:
        raise OptionError(f"{before.size} reference scores beside {after.size}", expected="scores of the same images")
    tail, x = reference.threshold.tail, _logits(before)
    start = float(_logits(np.array([tail.value]))[0])
    nearest = np.argsort(np.abs(x - start), kind="stable")[:_NEIGHBOURS]
    shift = float(np.median(_logits(after)[nearest] - x[nearest]))
    value = _tail_value(start + shift, good, false_reject, tail.exceedances)
    return TailEstimate(value, "carried", tail.exceedances, tail.shape, tail.scale)


def _logits(scores: _Scores) -> _Scores:
    clipped = np.clip(scores, _LOGIT_MARGIN, 1 - _LOGIT_MARGIN)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float64)


def _tail_value(level: float, good: _Scores, false_reject: float, exceedances: int) -> float:
    """The threshold at a level in logits."""
    # The sigmoid saturates, and at a threshold of 1 or more every defect would escape.
    value = min(1 / (1 + math.exp(-level)), _JUST_BELOW_ONE)
    # An estimate that rejects one of the n images at hand contradicts a budget below 1 in n + 1. Without
    # excesses the highest scores are tied, and rejecting them would reject a fifth of the parts.
    if false_reject * (good.size + 1) < 1 or not exceedances:
        value = max(value, _just_above(float(good.max())))
    return value


def _fit_excess(excess: _Scores) -> tuple[float, float]:
    """Shape and scale of the generalized Pareto law of the excesses (all > 0), whose mean it keeps."""
    if not excess.size:
        return 0.0, 0.0
    shape = min(max(_pareto_shape(excess) * excess.size / (excess.size + _PRIOR_EXCEEDANCES), _SHAPES[0]), _SHAPES[1])
    return shape, float(excess.mean()) * (1 - shape)


def _pareto_shape(excess: _Scores) -> float:
    """The posterior mean of Zhang and Stephens (2009), with their grid of shape / -scale and their prior for it."""
    x = np.sort(excess)
    quartile = x[max(round(x.size / 4), 1) - 1]
    points = 20 + math.isqrt(x.size)
    grid = 1 / x[-1] + (1 - np.sqrt(points / (np.arange(points) + 0.5))) / (3 * quartile)
    shapes = np.log1p(-grid[:, None] * x).mean(axis=1)
    likelihood = x.size * (np.log(-grid / shapes) - shapes - 1)
    weights = np.exp(likelihood - likelihood.max())
    return float(np.log1p(-float(grid @ weights / weights.sum()) * x).mean())


def _histogram(good: _Scores, defect: _Scores | None, value: float) -> ScoreHistogram:
    """Common bins from the smallest score to the largest score or threshold."""
    scores = good if defect is None else np.concatenate([good, defect])
    low = float(scores.min())
    edges = np.linspace(low, max(float(scores.max()), value, low + 1e-3), _BINS + 1)

    def counts(part: _Scores) -> tuple[int, ...]:
        return tuple(np.histogram(part, edges)[0].tolist())

    return ScoreHistogram(tuple(edges.tolist()), counts(good), None if defect is None else counts(defect))


def _statement(estimated: bool, false_reject: float, count: int, conformal: ConformalBound, *, is_carried: bool) -> str:
    if not estimated:
        return (
            f"Guaranteed from {count} held-out good images: on average, no more than "
            f"{_percent(conformal.guaranteed_rate)} of good parts are rejected, as long as the parts, the light "
            f"and the camera stay as they were when these images were taken."
        )
    estimate = (
        f"Estimated, not guaranteed: about {_percent(false_reject)} of good parts will be rejected, judging "
        f"by {count} held-out good images"
        + (", on which the threshold was carried over from fp32's. " if is_carried else ". ")
    )
    if conformal.value is not None:
        return estimate + "The conformal rule could guarantee this rate with the same images."
    return estimate + (
        f"What this many images guarantee is at most {_percent(conformal.guaranteed_rate)}; "
        f"{conformal.needed} images would guarantee {_percent(false_reject)}."
    )


def _as_scores(values: npt.ArrayLike, kind: str) -> _Scores:
    scores = np.asarray(values, np.float64).ravel()
    outside = ~((scores >= 0) & (scores <= 1))  # NaN too
    if outside.any():
        raise OptionError(
            f"{int(outside.sum())} of {scores.size} {kind} scores are NaN or outside [0, 1], "
            f"the first is {scores[outside][0]}",
            expected="anomaly scores of the deploy graph, which lie in [0, 1]",
        )
    return scores


def _check_options(false_reject: float, rule: str) -> None:
    _check_rate(false_reject, shown=str(false_reject))
    if rule not in ("auto", "conformal", "tail"):
        raise OptionError(f"unknown threshold rule {rule!r}", expected="'auto', 'conformal' or 'tail'")


def _check_rate(rate: float, *, shown: str) -> None:
    if not 0 < rate < MAX_FALSE_REJECT:
        raise OptionError(
            f"a false-reject rate of {shown}",
            expected=f"above 0 and below {MAX_FALSE_REJECT:.0%}",
            fix="write percentages with their sign: 0.5% is 0.005",
        )


def _just_above(score: float) -> float:
    """The next float32, as the deploy graph's scores are float32, so that `score` itself is not a defect."""
    if score >= 1:
        raise ThresholdError(
            "held-out good images have the highest possible anomaly score, 1.0: no threshold accepts them",
            expected="good images that the detector has learned to reconstruct",
            fix="train longer, or look at these images: they may not be good parts",
        )
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))


def _needed(false_reject: float) -> int:
    return math.ceil(1 / _fraction(false_reject)) - 1


def _fraction(rate: float) -> Fraction:
    """The decimal that was written, not the binary number next to it."""
    return Fraction(str(float(rate)))


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
