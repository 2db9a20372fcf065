"""Which convolutions run in INT8, which do not, and why: the part of a calibration that people argue about.

As JSON a plan has every convolution by name, and one says otherwise by editing it. With the way to find scales that it
was made with, it gives the same graph again, whatever limits it is replayed with:

    {"skips": "float", "scales": "mse", "teacher.conv1": {"float": "teacher.conv1 alone moves the score by 0.012"},
     "teacher.layer1.0.conv1": {"two-term": "…"}, "teacher.layer1.0.conv2": "int8", …}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import onnx

from segrd_edge.errors import OptionError

from .graph import read_graph
from .ranges import RangesMethod
from .rules import ELIGIBILITY, WEIGHTED_OPS

_INT8, _TWO_TERM, _FLOAT, _SKIPS, _SCALES = "int8", "two-term", "float", "skips", "scales"
_SHOWN = 4


@dataclass(frozen=True)
class Plan:
    """A split of a graph's convolutions. Names are node names, which the export takes from the modules' weights."""

    quantised: tuple[str, ...]
    left_float: Mapping[str, str]  # name → reason
    two_term: Mapping[str, str] = field(default_factory=dict)  # of `quantised`, as in `rules.two_terms`: name → reason
    float_skips: bool = False  # what skips residual blocks stays float, see `rules.residual_skip`
    scales: RangesMethod | None = None  # the way to find them that it was made with; None: choose one

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
        kept = [name for name in self.quantised if name.startswith(prefixes)]
        return self.narrowed(kept, dict.fromkeys(self.quantised, reason))

    def narrowed(self, kept: Container[str], reasons: Mapping[str, str]) -> Plan:
        """This plan with only the names in `kept` in INT8; `reasons` has one for every other name that was."""
        quantised = tuple(name for name in self.quantised if name in kept)
        dropped = {name: reasons[name] for name in self.quantised if name not in kept}
        two_term = {name: reason for name, reason in self.two_term.items() if name in kept}
        return replace(self, quantised=quantised, left_float={**self.left_float, **dropped}, two_term=two_term)

    def in_two_terms(self, reasons: Mapping[str, str]) -> Plan:
        """This plan with the names in `reasons`, all of them in INT8, in two terms."""
        return replace(self, two_term={**self.two_term, **reasons})

    def with_float_skips(self) -> Plan:
        """This plan with what skips residual blocks in float."""
        return replace(self, float_skips=True)

    def without_two_terms(self) -> Plan:
        """This plan with the convolutions of two terms in float: for engines in which that costs no more."""
        return self.narrowed(frozenset(self.quantised) - self.two_term.keys(), self.two_term)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: the skips, the way to find scales, then names in alphabetical order."""
        split: dict[str, Any] = dict.fromkeys(self.quantised, _INT8)
        for choice, reasons in ((_TWO_TERM, self.two_term), (_FLOAT, self.left_float)):
            split.update((name, {choice: why}) for name, why in reasons.items())
        scales = {} if self.scales is None else {_SCALES: self.scales}
        return {_SKIPS: _FLOAT if self.float_skips else _INT8, **scales, **dict(sorted(split.items()))}

    def write(self, path: str | Path) -> None:
        """Write `to_dict` as a plan.json, one line per name."""
        lines = [
            f"  {json.dumps(name)}: {json.dumps(choice, ensure_ascii=False)}" for name, choice in self.to_dict().items()
        ]
        Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    def edited(self, choices: Mapping[str, Any], source: str = "the plan") -> Plan:
        """This plan, of everything that may run in INT8, narrowed to what `choices` says: the way back from `to_dict`.

        Args:
            source: what errors call the choices.

        Raises:
            OptionError: a name that the graph does not have, or one of its convolutions missing; a choice that is
                none; INT8 for what the rules leave in float.
        """
        self._check_names(choices, source)
        read = {name: _read(name, choice, source) for name, choice in choices.items() if name not in (_SKIPS, _SCALES)}
        left_float, two_term = (
            {name: why for name, (choice, why) in read.items() if choice == wanted} for wanted in (_FLOAT, _TWO_TERM)
        )
        if refused := [name for name in self.left_float if name not in left_float]:
            raise OptionError(
                f"{source} has {refused[0]} in INT8, which cannot be: {self.left_float[refused[0]]}",
                fix=f'write {{"float": "…"}} for {", ".join(refused[:_SHOWN])}',
            )
        quantised = tuple(name for name in self.quantised if name not in left_float)
        scales = _read_scales(choices[_SCALES], source) if _SCALES in choices else None
        return Plan(quantised, left_float, two_term, _read_skips(choices[_SKIPS], source), scales)

    def _check_names(self, choices: Iterable[str], source: str) -> None:
        known = {_SKIPS, *self.quantised, *self.left_float}
        given = set(choices) - {_SCALES}
        if unknown := sorted(given - known):
            near = get_close_matches(unknown[0], known, n=3) or sorted(known)[:3]
            raise OptionError(
                f"{source} names layers that this network does not have: {len(unknown)}, the first {unknown[0]}",
                expected=f"names of its convolutions, such as {', '.join(near)}",
                fix="take the plan.json that segrd-export wrote for this run, and edit that",
            )
        if missing := sorted(known - given):
            raise OptionError(
                f"{source} says nothing of {', '.join(missing[:_SHOWN])}"
                + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""),
                expected="int8, two-term or float for every convolution, int8 or float for the skips",
                fix='add "NAME": "int8", or "NAME": {"float": "why"}',
            )


def read_choices(path: str | Path) -> dict[str, Any]:
    """What a plan.json says, for `Plan.edited`.

    Raises:
        OptionError: no such file, or none with a JSON object; a choice that is none. Whether the names are those of a
            graph only `Plan.edited` can tell.
    """
    source = named(path)
    try:
        choices = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=partial(_once, source))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise OptionError(
            f"{source} cannot be read: {error}", expected="a JSON file", fix="give the plan.json of an export"
        ) from error
    if not isinstance(choices, dict):
        raise OptionError(
            f"{source} holds a {type(choices).__name__}",
            expected="a JSON object, name → choice",
            fix="give the plan.json of an export",
        )
    for name, choice in choices.items():
        if name == _SKIPS:
            _read_skips(choice, source)
        elif name == _SCALES:
            _read_scales(choice, source)
        else:
            _read(name, choice, source)
    return choices


def _once(source: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where a name stands in it twice: JSON takes the last, and an edit above it is lost."""
    counts = Counter(name for name, _ in pairs)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise OptionError(f"{source} names {twice[0]} twice", expected="every name once", fix="take one of them out")
    return dict(pairs)


def named(path: str | Path) -> str:
    """What errors call the plan of a file."""
    return f"the plan {path}"


def _read(name: str, choice: Any, source: str) -> tuple[str, str]:
    """What a convolution runs in, and why."""
    if choice == _INT8:
        return _INT8, ""
    if isinstance(choice, dict) and len(choice) == 1:
        ((kind, why),) = choice.items()
        if kind in (_TWO_TERM, _FLOAT):
            return kind, str(why)
    raise OptionError(f"{source} has {choice!r} for {name}", expected='"int8", {"two-term": "why"} or {"float": "why"}')


def _read_skips(choice: Any, source: str) -> bool:
    if choice not in (_INT8, _FLOAT):
        raise OptionError(f"{source} has {choice!r} for the skips", expected='"int8" or "float"')
    return bool(choice == _FLOAT)


def _read_scales(choice: Any, source: str) -> RangesMethod:
    if choice not in get_args(RangesMethod):
        raise OptionError(
            f"{source} has {choice!r} for the scales",
            expected=" or ".join(f'"{name}"' for name in get_args(RangesMethod)),
            fix=f'take "{_SCALES}" out to have them chosen',
        )
    return cast(RangesMethod, choice)
