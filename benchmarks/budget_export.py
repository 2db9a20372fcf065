"""`segrd-export --budget`: of the exports of one run or several, what keeps a time per frame, as segrd-bench finds it.

exports ─► the engine of each graph ─► one interleaved run, p99 ─► choice ─► bundle: its default, and its record
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from segrd_edge import engines, machine
from segrd_edge.bundle import Bundle, write_bundle
from segrd_edge.errors import OptionError
from segrd_edge.export.bundle import ExportResult
from segrd_edge.export.report_text import plural
from segrd_edge.export.target import Target
from segrd_edge.manifest import LatencyRecord, Manifest, Precision
from segrd_edge.training.run import Run

from .budget import Answer, Timed
from .budget_run import Said, Settings, measure_budget
from .budget_text import best_of


@dataclass(frozen=True)
class Held:
    """The export that was chosen, and whether it keeps the budget."""

    run: Run
    result: ExportResult  # of the bundle as it is now
    answer: Answer
    found: dict[str, Any]  # the measurement, ready for JSON
    sentences: list[str]  # for the user: what was chosen, and what the other steps cost

    @property
    def holds(self) -> bool:
        return bool(self.answer.fitting)


def check_budget(target: Target, speedup: float | None) -> None:
    """Refused now rather than after minutes of work.

    Raises:
        OptionError: graphs for a GPU, which only the device can time; a least speed-up, which the budget says better.
        EngineError: no engine for the processor.
    """
    if target.is_tensorrt:
        raise OptionError(
            f"--budget for the engine {target.engine}",
            expected="--engine cpu: the budget is measured on this machine's processor",
            fix="on the device, segrd-bench BUNDLE --budget says what keeps it",
        )
    if speedup is not None:
        raise OptionError(
            f"--min-speedup {speedup:g} with --budget",
            expected="one or the other: within the budget accuracy decides, and of equals the faster is taken",
        )
    engines.processor_engine()


def check_same_images(a: Run, b: Run) -> None:
    """OptionError where nothing can be said across the metrics of two runs."""
    fix = "train them on the same folder, with the same --held-out and --seed, or compare their bundles by hand"
    if Path(a.config.data).resolve() != Path(b.config.data).resolve():
        raise OptionError(
            f"{a.folder} was trained on {a.config.data}, {b.folder} on {b.config.data}",
            expected="runs of one part: the most accurate is chosen by metrics of the same images",
            fix=fix,
        )
    has_defects = any(kind.startswith("test/") and kind != "test/good" for kind in a.data["counts"])
    held_out = ({entry["file"] for entry in run.data["held_out"]} for run in (a, b))
    if not has_defects and next(held_out) != next(held_out):
        raise OptionError(
            f"{a.folder} and {b.folder} hold different photographs out, on which their synthetic defects would lie",
            expected="metrics of the same images: there are no photographs of defects in test/",
            fix=fix,
        )


def hold_budget(
    runs: Sequence[Run],
    results: Sequence[ExportResult],
    out: Path,
    settings: Settings,
    said: Said = lambda line: None,
) -> Held:
    """Measure exported bundles, and write to `out` the one that keeps the budget and is the most accurate of those that
    do, with the graph in question as its default; where none does, the one that comes nearest, its default as it was.

    Args:
        runs: of the results.
        out: may be the path of the only result. The others stay as they are.
        settings: the budget; its engines are those of the processor.
        said: called with a line of progress, between two rounds.
    """
    paths = [result.path for result in results]
    answer, found = measure_budget(paths, replace(settings, engines=engines.processor_engines()), said, screen=True)
    chosen = next(iter(best_of(answer).values()), next(iter(answer.fitting), answer.nearest))
    number = [str(path) for path in paths].index(chosen.model)
    result = results[number]
    default = cast(Precision, chosen.precision) if answer.fitting else result.manifest.default_precision
    sentences = [*_outcome(chosen, default, out, answer, settings.threads), found["headline"], *found["sentences"]]
    record = _record(chosen, found, sentences)
    changes = {"product": out.stem, "default_precision": default, "latency": record}
    manifest = Manifest.model_validate(result.manifest.model_dump() | changes)
    bundle = Bundle.open(result.path)
    members = {member: bundle.read(member) for member in manifest.files}
    write_bundle(out, manifest, members)
    return Held(runs[number], replace(result, path=out, manifest=manifest), answer, found, sentences)


def _record(chosen: Timed, found: Mapping[str, Any], sentences: Sequence[str]) -> LatencyRecord:
    own = [row for row in found["bundles"] if row["bundle"] == chosen.model]
    height, width = found["frames"]["sizes_hw"][-1]
    return LatencyRecord(
        budget_ms=found["budget_ms"],
        frame_hw=(height, width),
        threads=found["threads"],
        engines={row["precision"]: "{engine} {engine_version}".format(**row) for row in own},
        machine="{model}, {cores} cores".format(**machine.cpu()),
        samples=found["samples"],
        p50_ms={row["precision"]: row["median_ms"] for row in own},
        p99_ms={row["precision"]: row["p99_ms"] for row in own},
        sentences=list(sentences),
    )


def _outcome(chosen: Timed, default: Precision, out: Path, answer: Answer, threads: int | None) -> list[str]:
    """What `out` is, and how to open it where a Detector would by itself take another engine or other threads."""
    what = f"{out} has" if Path(chosen.model) == out else f"{out} is {chosen.model}, with"
    name = f"{what} {default} as its default."
    if not answer.fitting:
        return [f"{name} It is whole, and nothing else was changed."]
    options: dict[str, Any] = {} if chosen.engine == engines.processor_engine() else {"engine": chosen.engine}
    options |= {} if threads is None else {"threads": threads}
    if not options:
        return [name]
    on = "" if threads is None else f" on {plural(threads, 'thread')}"
    given = "".join(f", {option}={json.dumps(value)}" for option, value in options.items())
    return [name, f'Its time is that of {chosen.engine}{on}: open it as Detector("{out}"{given}).']
