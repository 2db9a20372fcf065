"""Two results of `segrd-bench`, before and after a change: `segrd-bench --compare before.json after.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from segrd_edge.errors import OptionError

from . import figures
from .distribution import PERCENTILES

LATENCY = (*PERCENTILES, "max", "mean", "jitter")
# What must be the same in both results for a difference to be the change's, all of what is inside included.
_SETTINGS = (
    *("mode", "bundle", "model", "network_hw", "frames", "arrivals", "deadline_ms", "keep_warm_ms", "threads"),
    "environment",
)
_MOMENTARY = "load_average"  # in the environment; whether others were busy during the run is said by itself
# A clock is read once, when the run is over, and a step or two of 100 MHz is chance: 2 to 7 % between 3 and 5 GHz. More
# than 10 % is a power limit, heat, another host, or a clock that is not locked; each may be behind a difference.
_CLOCKS = ("mhz", "sm_mhz")
_STEADY = 0.1


@dataclass(frozen=True)
class Figure:
    """One figure of a contender in both results; None where it is not known, as of too few samples."""

    unit: str  # "ms", "MiB", or "frames" for a count of them
    before: float | None
    after: float | None

    @property
    def ratio(self) -> float | None:
        """After over before: below 1 is faster, or smaller. None for counts, of which the two numbers say more, and
        where one of them is 0 or, as memory that loading gave back, less."""
        if self.unit == "frames" or self.before is None or self.after is None or min(self.before, self.after) <= 0:
            return None
        return self.after / self.before

    @property
    def cells(self) -> tuple[str, str, str]:
        """Before, after and their ratio, as people read them."""
        ratio = figures.UNKNOWN if self.ratio is None else f"{self.ratio:.3f}"
        return self._text(self.before), self._text(self.after), ratio

    def _text(self, value: float | None) -> str:
        return figures.ms(value) if value is None or self.unit != "frames" else f"{value:.0f}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": None if self.ratio is None else round(self.ratio, 4)}


@dataclass(frozen=True)
class Change:
    """One contender in both results."""

    name: str  # engine and precision
    figures: dict[str, Figure]  # LATENCY, stages, processor time, memory; of lines also what was missed

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "figures": {name: figure.to_dict() for name, figure in self.figures.items()}}


@dataclass(frozen=True)
class Comparison:
    """What both results have, and what else than the change may be behind a difference."""

    changes: list[Change]
    cautions: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "mode": "compare",
            "contenders": [change.to_dict() for change in self.changes],
            "cautions": self.cautions,
        }


def compare_files(before: Path, after: Path) -> Comparison:
    """Compare two files that `segrd-bench --json` wrote: the object may be all of a file or its last line.

    Raises:
        OptionError: a file is no such result or a damaged one, or they have no engine and precision in common.
    """
    results = _read(before), _read(after)
    one, other = map(_measured, results)
    changes = [_change(name, one[name], other[name]) for name in one if name in other]
    if not changes:
        names = [", ".join(found) or "nothing" for found in (one, other)]
        raise OptionError(
            f"nothing to compare: {before} has {names[0]}, {after} has {names[1]}",
            expected="at least one engine and precision that both have",
        )
    return Comparison(changes, [*_differences(*results, one, other), *_doubts(*results)])


@dataclass(frozen=True)
class _Field:
    """A value in a result, and where it stands, so that an error can name it."""

    file: Path
    name: str  # keys from the outside in, with dots between: contenders.0.total_ms.p50
    value: Any

    def __getitem__(self, key: str) -> _Field:
        if key not in self.entries:
            raise _no_result(self.file, f"{self.name}.{key} is missing".lstrip("."))
        return self.entries[key]

    @property
    def entries(self) -> dict[str, _Field]:
        """What is in an object by its key, or in a list of objects by its number."""
        values = _numbered(self.value)
        if not isinstance(values, dict):
            raise self.wrong("an object or a list of objects")
        return {str(key): _Field(self.file, f"{self.name}.{key}".lstrip("."), each) for key, each in values.items()}

    @property
    def number(self) -> float | None:
        if self.value is not None and not (_is_number(self.value) and abs(self.value) <= sys.float_info.max):  # nor NaN
            raise self.wrong("a finite number, or null")
        return self.value

    @property
    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.wrong("text")
        return self.value

    def wrong(self, expected: str) -> OptionError:
        return _no_result(self.file, f"{self.name or 'the whole'} is {json.dumps(self.value)[:60]}", expected)


def _no_result(file: Path, why: str, expected: str = "what segrd-bench --json printed") -> OptionError:
    return OptionError(
        f"{file} is no result of segrd-bench: {why}", expected=expected, fix="segrd-bench part.segrd --json > FILE"
    )


def _read(file: Path) -> _Field:
    try:
        text = file.read_text(encoding="utf-8").strip()
        try:
            result = json.loads(text)
        except ValueError:
            result = json.loads(text.rpartition("\n")[-1])  # of a log
    except ValueError as error:
        raise _no_result(file, "neither all of it nor its last line is JSON") from error
    except OSError as error:
        raise _no_result(file, str(error)) from error
    field = _Field(file, "", result)
    mode = field["mode"].text
    if mode.startswith("budget"):
        raise OptionError(
            f"{file} is a result of segrd-bench --budget, which has neither every percentile nor the memory",
            expected="a result of one bundle without --budget",
            fix="segrd-bench part.segrd --json > FILE before the change and after it; with --period at the line's pace",
        )
    if mode not in ("interleaved", "line"):
        raise field["mode"].wrong("interleaved or line")
    return field


class _Measured(NamedTuple):
    """A contender in one result."""

    version: str | None  # of the engine
    readings: dict[str, tuple[str, float | None]]  # name → unit and value


def _measured(result: _Field) -> dict[str, _Measured]:
    """Engine and precision → what was measured of it."""
    if result["mode"].text == "line":
        return {result["name"].text: _of_line(result)}
    return {each["name"].text: _of_contender(each) for each in result["contenders"].entries.values()}


def _of_line(result: _Field) -> _Measured:
    """From the frame's arrival to the verdict."""
    readings = {
        **_durations(result, result["latency_ms"]),
        "waiting p50": ("ms", result["waiting_ms"]["p50"].number),
        "memory of the process": ("MiB", result["rss_mib"]["after"].number),
        "frames": ("frames", result["samples"].number),
        "misses": ("frames", result["misses"].number),
        "misses in a row": ("frames", result["misses_in_a_row"].number),
    }
    return _Measured(result["engine_version"].value, readings)


def _of_contender(contender: _Field) -> _Measured:
    """From the frame's bytes to the verdict."""
    readings = {
        **_durations(contender, contender["total_ms"]),
        "memory added by loading": ("MiB", contender["rss_mib"].number),
    }
    return _Measured(contender["version"].value, readings)


def _durations(found: _Field, latency: _Field) -> dict[str, tuple[str, float | None]]:
    return {
        **{name: ("ms", latency[name].number) for name in LATENCY},
        **{f"{stage} p50": ("ms", each["p50"].number) for stage, each in found["stages_ms"].entries.items()},
        "CPU per frame": ("ms", found["cpu_ms"].number),
    }


def _change(name: str, before: _Measured, after: _Measured) -> Change:
    common = [figure for figure in before.readings if figure in after.readings]  # a line's are not all another run's
    return Change(name, {figure: Figure(*before.readings[figure], after.readings[figure][1]) for figure in common})


def _differences(
    before: _Field, after: _Field, one: dict[str, _Measured], other: dict[str, _Measured]
) -> Iterator[str]:
    for name in _SETTINGS:
        yield from _difference(name, before.value.get(name), after.value.get(name))
    for name in one | other:
        if name in one and name in other:
            yield from _difference(f"engine of {name}", one[name].version, other[name].version)
        else:
            yield f"{name} is only in the result {'before' if name in one else 'after'}"


def _difference(name: str, before: Any, after: Any) -> Iterator[str]:
    """A sentence for each value inside that is not the same."""
    before, after = _numbered(before), _numbered(after)
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before | after:
            if key != _MOMENTARY:
                yield from _difference(f"{name}.{key}", before.get(key), after.get(key))
    elif not _is_same(name.rpartition(".")[-1], before, after):
        yield f"{name}: {_said(before)} before, {_said(after)} after"


def _is_same(key: str, before: Any, after: Any) -> bool:
    if key in _CLOCKS and _is_number(before) and _is_number(after):
        return abs(after - before) <= _STEADY * max(before, after)
    return before == after


def _said(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


def _numbered(value: Any) -> Any:
    """A list of objects, such as contenders or cards, as an object by number; anything else as it is."""
    is_list = isinstance(value, list) and all(isinstance(each, dict) for each in value)
    return dict(enumerate(value)) if is_list else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _doubts(before: _Field, after: _Field) -> Iterator[str]:
    for when, result in (("before", before), ("after", after)):
        if result.value.get("noisy_rounds") or result.value.get("is_noisy"):
            yield f"other programs were busy during the run {when}"
    yield (
        "These are two runs: clocks, temperature and other programs may differ by more than the change. What can be "
        "measured in one interleaved run should be."
    )
