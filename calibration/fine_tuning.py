"""What a fine-tune with INT8 in the loop (`training.qat`) brought, and which of the two INT8 graphs is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import onnx

from .drift import Drift

if TYPE_CHECKING:
    from .calibrate import Calibration


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned network as a float deploy graph, its nodes named as before, to be calibrated like any other."""

    graph: onnx.ModelProto
    minutes: float
    steps: int


@dataclass(frozen=True)
class FineTuning:
    """The record of a fine-tune. Both drifts are from the float graph of the network before it."""

    minutes: float
    steps: int
    before: Drift  # of the INT8 graph without it
    after: Drift  # of the INT8 graph by the same plan with it
    is_taken: bool

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "before": self.before.to_dict(), "after": self.after.to_dict()}

    def __str__(self) -> str:
        figures = f"{self.steps} steps of fine-tuning with INT8: {self.before} before, {self.after} after"
        return figures if self.is_taken else f"{figures}; the INT8 graph without it stays"


def nearer(plain: Calibration, tuned: Calibration, minutes: float, steps: int) -> Calibration:
    """Whichever INT8 graph is nearer to the float graph by the budget's measure; the record says so.

    Args:
        plain: of the network before.
        tuned: of the network after `steps` in `minutes`, by the same plan, its drift measured from plain's reference.
    """
    rank = plain.budget.rank
    is_taken = rank(tuned.drift) < rank(plain.drift)
    record = FineTuning(minutes, steps, plain.drift, tuned.drift, is_taken)
    if not is_taken:
        return replace(plain, fine_tuning=record)
    attempts = {**plain.choice.attempts, plain.scope: tuned.choice.taken}
    prepared = replace(
        tuned.prepared,
        method_trials=plain.prepared.method_trials,
        largest=larger(plain.prepared.largest, tuned.prepared.largest),  # float16 has to do for both float graphs
    )
    return replace(tuned, prepared=prepared, choice=replace(plain.choice, attempts=attempts), fine_tuning=record)


def larger(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The larger value of every name in either."""
    return {name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in {**one, **other}}
