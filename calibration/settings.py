"""What may be said about INT8, in one place: `segrd-export`'s options become these, and every station reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from segrd_edge.errors import OptionError

from .budget import Budget
from .frames import DEFAULT_COUNT, check_count
from .improve import Improvement
from .ladder import Scope
from .ranges import DEFAULT_PERCENTILE, Method, check_method


@dataclass(frozen=True)
class Int8Settings:
    """How INT8 comes about; the defaults are those of `segrd-export`.

    Raises:
        OptionError: a setting that cannot work. A plan and a scope are compared with the network later.
    """

    frames: int = DEFAULT_COUNT  # calibration frames to choose, half with synthetic defects; they bound float16 too
    method: Method = "percentile"  # how scales are found, see `ranges.to_ranges`; "auto" tries for each tensor
    percentile: float = DEFAULT_PERCENTILE
    scope: Scope = "auto"  # what INT8 covers: one of `ladder.SCOPES`, or as much as the budget allows
    plan: Mapping[str, Any] | None = None  # says it layer by layer instead, as `plan.read_choices` gives it
    budget: Budget = field(default_factory=Budget)  # how far INT8 may move results, how fast it has to be
    improve: tuple[Improvement, ...] = ("rounding",)  # what to do to the weights, see `improve`
    each_block: bool = False  # measure each block alone without a search, too; segrd-export's report asks
    fine_tune_minutes: float = 0.0  # of `training.qat`; taken where its INT8 graph is nearer to the run's float graph

    def __post_init__(self) -> None:
        check_count(self.frames)
        check_method(self.method, self.percentile)
        if self.plan is not None and self.scope != "auto":
            raise OptionError("a plan beside a scope", fix="give the plan alone: it says what runs in INT8")
        if unknown := [name for name in self.improve if name not in get_args(Improvement)]:
            known = ", ".join(get_args(Improvement))
            raise OptionError(f"unknown INT8 improvement {unknown[0]!r}", expected=f"among {known}")
        levels = self.fine_tune_minutes > 0 and "levels" in self.improve
        if self.fine_tune_minutes < 0 or levels:
            raise OptionError(
                f"fine-tuning for INT8 for {self.fine_tune_minutes:g} minutes" + (" with levels" if levels else ""),
                expected="minutes from 0, and no levels: the fine-tune does not know of their factors",
                fix="--qat-minutes without levels in --int8-improve",
            )

    def command_options(self, plan_file: str) -> Iterator[str]:
        """The options of `segrd-export` that say the same; `plan_file` stands for the plan, where there is one."""
        default = Int8Settings()
        if self.frames != default.frames:
            yield f"--calibration-images {self.frames}"
        if self.method != default.method:
            yield f"--calibration {self.method}"
        if self.scope != default.scope:
            yield f"--int8-scope {self.scope}"
        if self.plan is not None:
            yield f"--plan {plan_file}"
        yield from self.budget.command_options()
        if self.improve != default.improve:
            yield f"--int8-improve {','.join(self.improve) or 'none'}"
        if self.fine_tune_minutes:
            yield f"--qat-minutes {self.fine_tune_minutes:g}"


DEFAULT_SETTINGS = Int8Settings()
