"""Two results of `segrd-bench`, before and after a change: `segrd-bench --compare before.json after.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrd_edge.errors import OptionError

from .distribution import PERCENTILES

FIGURES = (*PERCENTILES, "max", "mean")
# Of what must be the same for a difference to be the change's: where in a result it stands → how it is called.
_SETTINGS = {
    ("bundle",): "bundle",
    ("arrivals",): "arrivals",
    ("environment", "cpu", "model"): "processor",
    ("environment", "cpu", "governor"): "frequency governor",
    ("environment", "os"): "system",
    ("environment", "packages"): "packages",
    ("environment", "variables"): "environment variables",
    ("environment", "opencv_threads"): "OpenCV threads",
    ("threads",): "threads",
    ("keep_warm_ms",): "keep-warm",
    ("network_hw",): "network size",
    ("frames", "sizes_hw"): "frame sizes",
    ("deadline_ms",): "deadline",
}


@dataclass(frozen=True)
class Change:
    """One contender in both results; durations in ms, None where too few samples were taken to know."""

    name: str  # engine and precision
    before: dict[str, float | None]  # by FIGURES
    after: dict[str, float | None]

    def ratio(self, figure: str) -> float | None:
        """After over before: below 1 is faster."""
        before, after = self.before[figure], self.after[figure]
        return None if before is None or after is None or before == 0 else after / before

    def to_dict(self) -> dict[str, Any]:
        ratios = {figure: self.ratio(figure) for figure in FIGURES}
        rounded = {figure: None if ratio is None else round(ratio, 4) for figure, ratio in ratios.items()}
        return {"name": self.name, "before_ms": self.before, "after_ms": self.after, "ratio": rounded}


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
        OptionError: a file is no such result, or they have no engine and precision in common.
    """
    one, other = _read(before), _read(after)
    distributions = [_distributions(result) for result in (one, other)]
    common = [name for name in distributions[0] if name in distributions[1]]
    if not common:
        names = [", ".join(found) for found in distributions]
        raise OptionError(
            f"nothing to compare: {before} has {names[0]}, {after} has {names[1]}",
            expected="at least one engine and precision that both have",
        )
    changes = [Change(name, *(_figures(found[name]) for found in distributions)) for name in common]
    return Comparison(changes, _cautions(one, other))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8").strip()
        try:
            result = json.loads(text)
        except ValueError:
            result = json.loads(text.splitlines()[-1])  # of a log
        _distributions(result)
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{path} is no result of segrd-bench: {error}", expected="what segrd-bench --json printed"
        ) from error
    return dict(result)


def _distributions(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Contender → its latency from the frame's bytes, or on a line from its arrival, to the verdict."""
    if result.get("mode") == "line":
        return {result["name"]: result["latency_ms"]}
    return {contender["name"]: contender["total_ms"] for contender in result["contenders"]}


def _figures(found: dict[str, float | None]) -> dict[str, float | None]:
    return {figure: found[figure] for figure in FIGURES}


def _cautions(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    found = [
        f"{name}: {_said(before, path)} before, {_said(after, path)} after"
        for path, name in _SETTINGS.items()
        if _at(before, path) != _at(after, path)
    ]
    for when, result in (("before", before), ("after", after)):
        if result.get("noisy_rounds") or result.get("is_noisy"):
            found.append(f"other programs were busy during the run {when}")
    found.append(
        "These are two runs: clocks, temperature and other programs may differ by more than the change. What can be "
        "measured in one interleaved run should be."
    )
    return found


def _said(result: Any, path: tuple[str, ...]) -> str:
    value = _at(result, path)
    return "not set" if value is None else json.dumps(value)


def _at(result: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        result = result.get(name) if isinstance(result, dict) else None
    return result
