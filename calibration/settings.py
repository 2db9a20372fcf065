"""What may be said about INT8, in one place: `segrd-export`'s options become these, and every station reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from segrd_edge.errors import OptionError

from .budget import Budget
from .frames import DEFAULT_COUNT, check_count
from .improve import Improvement
from .ladder import Scope, check_scope
from .ranges import DEFAULT_PERCENTILE, Method, check_method


@dataclass(frozen=True)
class Int8Settings:
    """How INT8 comes about; the defaults are those of `segrd-export`.

    Raises:
        OptionError: a setting that cannot work. Whether the network has what a plan or a scope names is seen later.
    """

    frames: int = DEFAULT_COUNT  # calibration frames to choose, half with synthetic defects; they bound float16 too
    method: Method = "auto"  # how scales are found, see `methods`
    percentile: float = DEFAULT_PERCENTILE
    scope: Scope = "auto"  # what INT8 covers: one of `ladder.SCOPES`, or as much as the budget allows
    plan: Mapping[str, Any] | None = None  # says it layer by layer instead, as `plan.read_choices` gives it
    plan_source: str = "the plan"  # what errors call it, see `plan.named`
    budget: Budget = field(default_factory=Budget)  # how far INT8 may move results, how fast it has to be
    improve: tuple[Improvement, ...] = ("rounding",)  # what to do to the weights, see `improve`
    each_block: bool = False  # measure each block alone without a search, too; segrd-export's report asks
    fine_tune_minutes: float = 0.0  # of `training.qat`; taken where its INT8 graph is nearer to the run's float graph

    def __post_init__(self) -> None:
        check_count(self.frames)
        check_method(self.method, self.percentile)
        check_scope(self.scope)
        if self.plan is not None and self.scope != "auto":
            raise OptionError("a plan beside a scope", fix="give the plan alone: it says what runs in INT8")
        if unknown := [name for name in self.improve if name not in get_args(Improvement)]:
            raise OptionError(
                f"unknown INT8 improvement {unknown[0]!r}",
                expected="among " + ", ".join(get_args(Improvement)),
                fix="for example --int8-improve rounding,bias, or --int8-improve none",
            )
        minutes = f"--qat-minutes {self.fine_tune_minutes:g}"
        if not 0 <= self.fine_tune_minutes < math.inf:  # NaN is not, either
            raise OptionError(
                f"{minutes} (Int8Settings.fine_tune_minutes)",
                expected="a number of minutes, or 0 for no fine-tune",
                fix="for example --qat-minutes 10",
            )
        if self.fine_tune_minutes > 0 and "levels" in self.improve:
            raise OptionError(
                f"{minutes} with levels in --int8-improve",
                expected="one of them: the fine-tune does not know of the factors of levels",
                fix="leave one of them out",
            )

    def check_without_int8(self) -> None:
        """OptionError where the settings say of INT8 what an export without it would ignore: all but `frames`, which
        bound float16, too."""
        frames = "--calibration-images"
        options = [option.split()[0] for option in self.command_options("FILE")]
        if given := [option for option in options if option != frames]:
            raise OptionError(
                f"{', '.join(given)} without INT8",
                expected=f"nothing of INT8 beside --no-int8 but {frames}, which float16 needs, too",
                fix="leave --no-int8 out, or these",
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
