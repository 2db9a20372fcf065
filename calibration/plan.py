"""Which convolutions run in INT8, which do not, and why: the part of a calibration that people argue about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from .graph import read_graph
from .rules import ELIGIBILITY, WEIGHTED_OPS


@dataclass(frozen=True)
class Plan:
    """A split of a graph's convolutions. Names are node names, which the export takes from the modules' weights."""

    quantised: tuple[str, ...]
    left_float: Mapping[str, str]  # name → reason

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Plan:
        """Everything in INT8 that the rules allow."""
        quantised: list[str] = []
        left_float: dict[str, str] = {}
        for node in read_graph(model).nodes:
            if node.op in WEIGHTED_OPS:
                reason = next((reason for check in ELIGIBILITY if (reason := check(node))), None)
                if reason is None:
                    quantised.append(node.name)
                else:
                    left_float[node.name] = reason
        return cls(tuple(quantised), left_float)

    def only(self, *prefixes: str, reason: str = "") -> Plan:
        """This plan narrowed to names that start with one of `prefixes`, for example `plan.only("head.")`."""
        reason = reason or "only " + ", ".join(prefixes) + " is quantised"
        kept = tuple(name for name in self.quantised if name.startswith(prefixes))
        dropped = {name: reason for name in self.quantised if not name.startswith(prefixes)}
        return Plan(kept, {**self.left_float, **dropped})
