"""How far INT8 may move the results, and how much faster it has to be for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

from segrd_edge.errors import OptionError

from .drift import Drift

# INT8 arithmetic against float32 on processors with VNNI: all-INT8 against fp32 in OpenVINO, the same network.
INT8_SPEED = 4.0


class _Limit(NamedTuple):
    option: str  # of segrd-export; empty: it has none
    low: float
    high: float
    example: float


_LIMITS = {
    "score_shift": _Limit("--max-score-shift", 0, 1, 0.01),
    "map_cosine": _Limit("", 0, 1, 0.99),
    "pairs_turned": _Limit("--max-pairs-turned", 0, 1, 0.01),
    "ap_drop": _Limit("--max-ap-drop", 0, 1, 0.01),
    "flip_rate": _Limit("--max-flip-rate", 0, 1, 0.01),
    "speedup": _Limit("--min-speedup", 1, 100, 2),
}


@dataclass(frozen=True)
class Budget:
    """Limits of an INT8 graph's drift on the calibration frames; None is no limit.

    Scores and maps are brought to a scale of their own (`drift.Scale`). What a shift of the scores does to the verdicts
    depends on how close together they lie: of 16 trained networks, all with a mean |Δscore| of 0.005 to 0.011 on
    calibration frames, two lost 0.009 and 0.011 image AUROC on test photographs, and the others at most 0.002. These
    two had turned 2.0 and 3.4 % of the pairs of a good frame and a defect, the others at most 1.6 %. The image AUROC of
    any images cannot change by more than the share of their pairs that turn.
    """

    score_shift: float = 0.01  # mean |Δscore|, at most
    map_cosine: float = 0.99  # mean cosine between the maps, at least
    pairs_turned: float = 0.01  # share of the pairs of a good frame and one with a defect that may change their order
    ap_drop: float | None = None  # pixel AP on synthetic defects that INT8 may lose
    flip_rate: float | None = None  # share of the verdicts at the float threshold that INT8 may turn
    speedup: float | None = None  # fp32's time over INT8's, at least; accuracy goes first

    def __post_init__(self) -> None:
        for name, (option, low, high, example) in _LIMITS.items():
            value, in_python = getattr(self, name), f"Budget.{name}"
            if value is not None and not low <= value <= high:  # NaN is not, either
                raise OptionError(
                    f"{option} {value:g} ({in_python})" if option else f"{in_python} {value:g}",
                    expected=f"a number from {low:g} to {high:g}",
                    fix=f"for example {option or f'{in_python} ='} {example:g}",
                )

    def breaches(self, drift: Drift) -> list[str]:
        """What of `drift` is beyond the limits, in words; empty where it is within all of them."""
        return list(self._breaches(drift))

    def _breaches(self, drift: Drift) -> Iterator[str]:
        if drift.score_mean > self.score_shift:
            yield f"mean |Δscore| {drift.score_mean:.4f} over {self.score_shift:g}"
        if drift.map_cosine_mean < self.map_cosine:
            yield f"mean map cosine {drift.map_cosine_mean:.4f} under {self.map_cosine:g}"
        for limit, value, name in (
            (self.pairs_turned, drift.pairs_turned, "pairs turned"),
            (self.ap_drop, drift.pixel_ap_drop, "pixel AP lost"),
            (self.flip_rate, drift.flip_rate, "verdicts turned"),
        ):
            if limit is not None and value is not None and value > limit:
                yield f"{name} {value:.4f} over {limit:g}"

    def allows(self, drift: Drift) -> bool:
        return not self.breaches(drift)

    def cost(self, drift: Drift) -> float:
        """How much of the budget `drift` takes, as a power of noise: costs of independent parts add up, 1 is all of it.

        |Δscore| and pairs turned grow like the noise, and 1 − cosine like its square. AP and flips come in steps that
        are too coarse to order anything by.
        """
        turned = 0.0 if drift.pairs_turned is None else drift.pairs_turned / max(self.pairs_turned, _SMALL)
        return max(turned**2, self.noise(drift))

    def rank(self, drift: Drift) -> tuple[bool, float]:
        """What to order drifts by: those within all limits go first, then what takes less of the budget."""
        return not self.allows(drift), self.cost(drift)

    def noise(self, drift: Drift) -> float:
        """`cost` without the pairs, of which a dozen frames have too few."""
        shift = drift.score_mean / max(self.score_shift, _SMALL)
        return max(shift**2, (1 - drift.map_cosine_mean) / max(1 - self.map_cosine, _SMALL))

    def __str__(self) -> str:
        limits = f"mean |Δscore| {self.score_shift:g}, mean map cosine {self.map_cosine:g}"
        limits += f", pairs turned {self.pairs_turned:g}"
        limits += "" if self.ap_drop is None else f", pixel AP drop {self.ap_drop:g}"
        limits += "" if self.flip_rate is None else f", flip rate {self.flip_rate:g}"
        return limits

    def command_options(self) -> Iterator[str]:
        """The options of `segrd-export` for what differs from the defaults; it has none for the cosine."""
        default = Budget()
        for name, limit in _LIMITS.items():
            if limit.option and (value := getattr(self, name)) != getattr(default, name):
                yield f"{limit.option} {value:g}"

    def to_dict(self) -> dict[str, float]:
        """The limits that there are."""
        return {name: value for name, value in asdict(self).items() if value is not None}


_SMALL = 1e-6  # a limit of nothing still divides


def estimated_speedup(int8_share: float, two_term_share: float = 0.0) -> float:
    """fp32's time over INT8's, if multiply-accumulates were all that takes time.

    Args:
        two_term_share: the part of `int8_share` that is computed twice, see `rules.two_terms`.
    """
    return 1 / (1 - int8_share + (int8_share + two_term_share) / INT8_SPEED)
