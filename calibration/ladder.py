"""From everything in INT8 to as much of it as the budget allows: first in a few steps, then block by block.

The steps are what a user sees first. They are coarse: one block that INT8 cannot represent takes the whole fine level
with it. So where the first of them fails, the search refines (`calibration.search`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import onnx

from segrd_edge.errors import OptionError

from .blocks import blocks_of, int8_share, two_term_share
from .budget import Budget, estimated_speedup
from .drift import Drift
from .graph import read_graph
from .plan import Plan
from .progress import Said, Track, untracked
from .rules import residual_skip
from .search import search
from .sensitivity import Sensitivity, measure_sensitivity
from .trial import Trial

_COARSE_DECODER = ("student.decoder.stage4", "student.decoder.stage3")
Scope = Literal["auto", "all", "float-skips", "no-fine", "no-decoder", "head", "encoder"]
HEAD = ("head.", "full_size.")  # names of what is learned behind the comparison of teacher and student
SEARCH, PLAN = "search", "plan"  # in place of a scope: found by `calibration.search`, and given by the user

# Which names each scope quantises, the fastest scope first. The names are those of `training.parts`, which all models
# keep to. INT8 noise of the features passes through the difference of
# teacher and student, and there the fine level is the sensitive one. Mean |Δscore| on trained DeSTSegs (8 minutes, 12
# calibration frames, OpenVINO): bottle all 0.035, no-fine 0.005, no-decoder 0.020, head 0.008; metal_plate 0.048,
# 0.017, 0.047, 0.006; ball_screw 0.125, 0.007, 0.011, 0.007. "no-fine" leaves a quarter of the work in float. All but
# "all" leave the skips of residual blocks in float (`rules.residual_skip`); "float-skips" nothing else.
SCOPES: dict[str, tuple[str, ...]] = {
    "all": ("",),
    "float-skips": ("",),
    "no-fine": ("teacher.layer2", "teacher.layer3", "student.encoder.", *_COARSE_DECODER, "head."),
    "no-decoder": ("teacher.", "student.encoder.", "head."),
    "head": ("head.",),
    "encoder": ("student.encoder.",),
}
# The last resort is what has no comparison of teacher and student behind it that is not learned: the head, or without
# one the way to the bottleneck, behind which the decoder restores.
_LAST_RESORT = {True: "head", False: "encoder"}
LEAST_SPEEDUP = 1.08  # estimated; a plan that cannot be faster than this is not worth having


@dataclass(frozen=True)
class Attempt:
    """A plan and what it does."""

    plan: Plan
    drift: Drift  # on all calibration frames
    int8_share: float  # of the multiply-accumulates
    two_term_share: float = 0.0  # the part of them that is computed in two terms

    @classmethod
    def of(cls, model: onnx.ModelProto, plan: Plan, drift: Drift) -> Attempt:
        return cls(plan, drift, int8_share(model, plan), two_term_share(model, plan))

    @property
    def speedup(self) -> float:
        """fp32's time over this one's, by the multiply-accumulates."""
        return estimated_speedup(self.int8_share, self.two_term_share)


@dataclass(frozen=True)
class Choice:
    """What is taken, out of what was tried."""

    scope: str  # a name in SCOPES, or SEARCH, or PLAN
    attempts: Mapping[str, Attempt]  # by scope
    sensitivity: list[Sensitivity] = field(default_factory=list)  # of every block; of a search, or asked for

    @property
    def taken(self) -> Attempt:
        return self.attempts[self.scope]


def choose_plan(
    trial: Trial,
    everything: Plan,
    scope: Scope,
    budget: Budget,
    *,
    said: Said = lambda line: None,
    track: Track = untracked,
) -> Choice:
    """Try the scopes, and where everything exceeds the budget, search.

    The search's plan is taken where it promises to be faster than the scope that is within the budget, or where none
    is. A scope that is and that is as fast as the budget asks for ends the matter.
    """
    attempts: dict[str, Attempt] = {}
    for name in usable_scopes(trial.model, everything, scope):
        plan = _scoped(everything, name, _reason(name, attempts, budget))
        attempts[name] = Attempt.of(trial.model, plan, trial(plan))
        if budget.allows(attempts[name].drift):
            break
    last = attempts[name]
    fits = budget.allows(last.drift)
    is_everything = last.plan.quantised == everything.quantised
    is_fast = budget.speedup is not None and last.speedup >= budget.speedup
    if scope != "auto" or (fits and (is_everything or is_fast)):
        return Choice(name, attempts)
    blocks, everything = blocks_of(trial.model, everything), everything.with_float_skips()
    said(f"{tried(attempts)}; searching, beginning with {len(blocks)} blocks one by one in INT8")
    sensitivity = measure_sensitivity(trial, everything, blocks, budget, track=track)
    found = search(trial, everything, sensitivity, budget, said=said)
    attempt = None if found is None else Attempt.of(trial.model, found.plan, found.drift)
    if attempt is None or attempt.speedup <= (last.speedup if fits else LEAST_SPEEDUP):
        return Choice(name, attempts, sensitivity)
    attempts[SEARCH] = attempt
    return Choice(SEARCH, attempts, sensitivity)


def check_scope(scope: str) -> None:
    """OptionError unless there is such a scope."""
    if scope not in get_args(Scope):
        raise OptionError(
            f"unknown INT8 scope {scope!r}",
            expected="one of " + ", ".join(get_args(Scope)),
            fix="for example --int8-scope auto",
        )


def usable_scopes(model: onnx.ModelProto, everything: Plan, wanted: Scope) -> list[str]:
    """The scopes to try, in order.

    Raises:
        OptionError: a scope that the network has no layers for.
    """
    candidates = _ladder(model, everything) if wanted == "auto" else [wanted]
    covered = [everything.only(*SCOPES[name]).quantised for name in candidates]
    kept = [i for i, names in enumerate(covered) if names and (candidates[i] == "all" or names not in covered[i + 1 :])]
    usable = [candidates[i] for i in kept]
    if not usable:
        raise OptionError(
            f"INT8 scope {wanted!r} leaves no convolution to quantise",
            expected="convolutions of at least 16 channels"
            + (" named " + " or ".join(f"{prefix}*" for prefix in SCOPES[wanted]) if wanted != "auto" else ""),
            fix="export with another scope, or without INT8",
        )
    return usable


def tried(attempts: Mapping[str, Attempt]) -> str:
    """What every scope did, in a line."""
    return "; ".join(f"{scope}: {attempt.drift}" for scope, attempt in attempts.items())


def _scoped(everything: Plan, scope: str, reason: str) -> Plan:
    plan = everything.only(*SCOPES[scope], reason=reason)
    return plan if scope == "all" else plan.with_float_skips()


def _ladder(model: onnx.ModelProto, everything: Plan) -> list[str]:
    """The scopes that "auto" tries: all but the last resort of the other kind of model, and each but once."""
    has_head = bool(everything.only(*SCOPES["head"]).quantised)
    has_skips = bool(residual_skip.sites(read_graph(model), frozenset(everything.quantised)))
    whole = ("all", "float-skips") if has_skips else ("all",)
    others = [name for name in SCOPES if name not in ("all", "float-skips", *_LAST_RESORT.values())]
    parts = [*others, _LAST_RESORT[has_head]]
    return [*whole, *(name for name in parts if everything.only(*SCOPES[name]).quantised != everything.quantised)]


def _reason(scope: str, attempts: Mapping[str, Attempt], budget: Budget) -> str:
    """Why what lies outside `scope` stays float."""
    asked = f"scope {scope}: only {', '.join(SCOPES[scope])} is quantised"
    more = f"{tried(attempts)}; limits {budget}"
    return f"{asked}, because more moves the results too far ({more})" if attempts else asked
