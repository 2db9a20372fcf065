"""From everything in INT8 to as much of it as the budget allows: first in a few steps, then block by block.

The steps are what a user sees first. They are coarse: one block that INT8 cannot represent takes the whole fine level
with it. So where the first of them fails, the search refines (`calibration.search`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from segrd_edge.errors import OptionError

from .blocks import blocks_of, int8_share
from .budget import Budget, estimated_speedup
from .drift import Drift
from .plan import Plan
from .progress import Said, Track, untracked
from .search import search
from .sensitivity import Sensitivity, measure_sensitivity
from .trial import Trial

_COARSE_DECODER = ("student.decoder.stage4", "student.decoder.stage3")
Scope = Literal["auto", "all", "no-fine", "no-decoder", "head", "encoder"]
SEARCH, PLAN = "search", "plan"  # in place of a scope: found by `calibration.search`, and given by the user

# Which names each scope quantises, the fastest scope first. The names are those of `training.parts`, which all models
# keep to. INT8 noise of the features passes through the difference of
# teacher and student, and there the fine level is the sensitive one. Mean |Δscore| on trained DeSTSegs (8 minutes, 12
# calibration frames, OpenVINO): bottle all 0.035, no-fine 0.005, no-decoder 0.020, head 0.008; metal_plate 0.048,
# 0.017, 0.047, 0.006; ball_screw 0.125, 0.007, 0.011, 0.007. "no-fine" leaves a quarter of the work in float.
SCOPES: dict[str, tuple[str, ...]] = {
    "all": ("",),
    "no-fine": ("teacher.layer2", "teacher.layer3", "student.encoder.", *_COARSE_DECODER, "head."),
    "no-decoder": ("teacher.", "student.encoder.", "head."),
    "head": ("head.",),
    "encoder": ("student.encoder.",),
}
# The last resort is what has no comparison of teacher and student behind it that is not learned: the head, or without
# one the way to the bottleneck, behind which the decoder restores.
_LAST_RESORT = {True: "head", False: "encoder"}
LEAST_SHARE = 0.1  # a plan with less of the work in INT8 could be 1.08 times as fast at best, and is not worth having


@dataclass(frozen=True)
class Attempt:
    """A plan and what it does."""

    plan: Plan
    drift: Drift  # on all calibration frames
    int8_share: float  # of the multiply-accumulates


@dataclass(frozen=True)
class Choice:
    """What is taken, out of what was tried."""

    scope: str  # a name in SCOPES, or SEARCH, or PLAN
    attempts: Mapping[str, Attempt]  # by scope
    sensitivity: list[Sensitivity] = field(default_factory=list)  # of every block; empty where there was no search

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
    """Try the scopes, and where the first of "auto" exceeds the budget, search.

    The search's plan is taken where it brings more work to INT8 than the scope that is within the budget, or where none
    is. A scope that is and that is as fast as the budget asks for ends the matter.
    """
    attempts: dict[str, Attempt] = {}
    for name in usable_scopes(everything, scope):
        plan = everything.only(*SCOPES[name], reason=_reason(name, attempts, budget))
        attempts[name] = Attempt(plan, trial(plan), int8_share(trial.model, plan))
        if budget.allows(attempts[name].drift):
            break
    last = attempts[name]
    fits = budget.allows(last.drift)
    is_fast = budget.speedup is not None and estimated_speedup(last.int8_share) >= budget.speedup
    if scope != "auto" or (fits and (len(attempts) == 1 or is_fast)):
        return Choice(name, attempts)
    blocks = blocks_of(trial.model, everything)
    said(f"{tried(attempts)}; searching, beginning with {len(blocks)} blocks one by one in INT8")
    sensitivity = measure_sensitivity(trial, everything, blocks, track=track)
    found = search(trial, everything, sensitivity, budget, said=said)
    share = 0.0 if found is None else int8_share(trial.model, found.plan)
    if found is None or share <= (last.int8_share if fits else LEAST_SHARE):
        return Choice(name, attempts, sensitivity)
    attempts[SEARCH] = Attempt(found.plan, found.drift, share)
    return Choice(SEARCH, attempts, sensitivity)


def usable_scopes(everything: Plan, wanted: Scope) -> list[str]:
    """The scopes to try, in order.

    Raises:
        OptionError: an unknown scope, or one that the network has no layers for.
    """
    if wanted not in get_args(Scope):
        raise OptionError(f"unknown INT8 scope {wanted!r}", expected="one of " + ", ".join(get_args(Scope)))
    candidates = _ladder(everything) if wanted == "auto" else [wanted]
    covered = [everything.only(*SCOPES[name]).quantised for name in candidates]
    usable = [name for i, name in enumerate(candidates) if covered[i] and covered[i] not in covered[i + 1 :]]
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


def _ladder(everything: Plan) -> list[str]:
    """The scopes that "auto" tries: all but the last resort of the other kind of model."""
    has_head = bool(everything.only(*SCOPES["head"]).quantised)
    return [name for name in SCOPES if name not in _LAST_RESORT.values() or name == _LAST_RESORT[has_head]]


def _reason(scope: str, attempts: Mapping[str, Attempt], budget: Budget) -> str:
    """Why what lies outside `scope` stays float."""
    asked = f"scope {scope}: only {', '.join(SCOPES[scope])} is quantised"
    more = f"{tried(attempts)}; limits {budget}"
    return f"{asked}, because more moves the results too far ({more})" if attempts else asked
