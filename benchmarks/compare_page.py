"""The page of a comparison: recommendation, charts of accuracy over latency, every figure, and where it comes from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segrd_edge.export.charts import Mark, scatter
from segrd_edge.export.limits import LOSS_LIMITS
from segrd_edge.export.page import render
from segrd_edge.export.report_sections import METRICS
from segrd_edge.export.report_text import megabytes, number, plural, significant, size
from segrd_edge.files import replacing

from . import figures
from .candidate import BUNDLE_FILE, Record, is_refused
from .choice import Contestant
from .compare_verdict import verdict
from .html import machine_rows
from .latency_report import QUIET_OTHER_CPU

REPORT_FILE = "part.html"  # of the export, in the folder of the run
_TEMPLATE = Path(__file__).parent / "templates" / "compare.html"
_SHOWN = {name: heading for name, heading in METRICS.items() if name != "f1"}
_OF_KINDS = ("image_auroc", "pixel_ap", "aupro")
# What one seed leaves open, as measured (benchmarks/results/accuracy): three seeds of DeSTSeg on MVTec AD's bottle.
SEEDS = (
    "One seed and few minutes rank models only roughly. Three DeSTSegs of 8 minutes that differ in nothing but the "
    "seed reached 0.938, 0.992 and 0.997 image AUROC and 0.54, 0.72 and 0.78 pixel AP on MVTec AD's bottle. Compare "
    "the best two or three again, with other seeds and more minutes, before you decide."
)


def write_page(path: Path, summary: Record, found: Sequence[Contestant]) -> None:
    """Write the page of a comparison's summary (what compare.json holds) and of what may be chosen."""
    page = render(_TEMPLATE, _values(summary, found)).encode()
    with replacing(path) as file:
        file.write(page)


def _values(summary: Record, found: Sequence[Contestant]) -> dict[str, Any]:
    """Everything that the template shows."""
    models, latency = summary["models"], summary["latency"]
    judged = verdict(found, models, summary["latency_budget_ms"])
    best = judged["choice"].best
    return {
        "title": Path(summary["photos"]).resolve().name,
        "facts": _facts(summary),
        "verdict": judged,
        "warnings": _warnings(summary),
        "charts": _charts(summary, best),
        "metrics": [heading.replace(" ", "\n") for heading in _SHOWN.values()],
        "rows": [_row(timed, models[timed["bundle"]], best) for timed in latency["bundles"]],
        "models": [_model_row(name, record) for name, record in models.items()],
        "kinds": _kinds(models),
        "frames": ", ".join(size((h, w)) for h, w in latency["frames"]["sizes_hw"]),
        "latency": latency,
        "photographs": _photographs(summary),
        "settings": _settings(summary),
        "machine": list(machine_rows(latency["environment"]).items()),
        "least_noise": LOSS_LIMITS,
        "command": summary["command"],
        "next": _next_commands(summary, best),
    }


def _facts(summary: Record) -> list[str]:
    settings, latency = summary["settings"], summary["latency"]
    models = list(summary["models"].values())
    dates = sorted({record["date"] for record in models})
    return [
        plural(len(models), "model"),
        _budget(settings) + " of training each",
        f"{size(tuple(settings['preprocess']['size_hw']))} network pixels",
        f"teacher {models[0]['teacher']['name']}",
        f"seed {settings['seed']}",
        f"latency on {latency['engine']} {latency['engine_version']}",
        dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
    ]


def _budget(settings: Record) -> str:
    minutes: float | None = settings["minutes"]
    return plural(settings["steps"], "step") if minutes is None else f"{minutes:g} min"


def _warnings(summary: Record) -> list[str]:
    """What keeps the recommendation from being the whole truth."""
    latency = summary["latency"]
    found = [record["caution"] for record in summary["models"].values() if record.get("caution")][:1]
    found += [SEEDS]
    found += [f"{name} is missing: {reason}" for name, reason in summary["failed"].items()]
    found += [f"The latency of {name} is missing: {reason}" for name, reason in latency["skipped"].items()]
    if latency["noisy_rounds"]:
        found.append(
            f"Other programs took more than {QUIET_OTHER_CPU:.0%} of the processor in {latency['noisy_rounds']} of "
            f"{latency['rounds']} rounds of the latency run, which p95 shows first. The same command measures again."
        )
    return found


def _charts(summary: Record, best: Contestant | None) -> list[str]:
    """Image AUROC and pixel AP over the median latency, whichever are known."""
    budget_ms = summary["latency_budget_ms"]
    limit = None if budget_ms is None else (budget_ms, f"budget {budget_ms:g} ms")
    x_label = "ms per frame, median" + ("" if budget_ms is None else "; the budget is held against p95")
    charts = []
    for metric in ("image_auroc", "pixel_ap"):
        groups = _marks(summary, metric, best)
        if groups:
            charts.append(scatter(groups, title=METRICS[metric], x_label=x_label, limit=limit))
    return charts


def _marks(summary: Record, metric: str, best: Contestant | None) -> list[tuple[str, list[Mark]]]:
    groups: dict[str, list[Mark]] = {}
    for timed in summary["latency"]["bundles"]:
        name, precision = timed["bundle"], timed["precision"]
        record = summary["models"][name]
        value = record["precisions"][precision].get(metric)
        if value is None:
            continue
        tone = f"mark-{precision}"
        if is_refused(record, precision):
            tone += " refused"
        if best is not None and (best.model, best.precision) == (name, precision):
            tone += " chosen"
        title = f"{name} at {precision}: {METRICS[metric]} {number(value, 3)}, {figures.ms(timed['median_ms'])} ms"
        groups.setdefault(name, []).append(Mark(timed["median_ms"], value, tone, title))
    return list(groups.items())


def _row(timed: Record, record: Record, best: Contestant | None) -> dict[str, Any]:
    """A model at a precision: what it reaches and how long a frame takes."""
    precision = timed["precision"]
    reached = record["precisions"][precision]
    wrong = reached.get("wrong")
    return {
        "model": timed["bundle"],
        "precision": precision,
        "refused": is_refused(record, precision),
        "chosen": best is not None and (best.model, best.precision) == (timed["bundle"], precision),
        "cells": [number(reached.get(name)) for name in _SHOWN],
        "escapes": _of(wrong["escapes"]) if wrong else "–",
        "rejects": _of(wrong["false_rejects"]) if wrong else "–",
        "median": figures.ms(timed["median_ms"]),
        "p95": figures.ms(timed["p95_ms"]),
    }


def _of(pair: Sequence[int]) -> str:
    return f"{pair[0]} of {pair[1]}"


def _model_row(name: str, record: Record) -> dict[str, str]:
    int8 = record["int8"]
    options = ", ".join(f"{option}={value}" for option, value in record["options"].items())
    return {
        "model": name,
        "options": options or "as published",
        "weights": significant(record["model"]["parameters"] / 1e6, 3),
        "gmacs": significant(record["model"]["gmacs"], 3),
        "bundle": megabytes(record["bundle_bytes"]),
        "steps": str(record["steps"]),
        "minutes": significant(record["seconds"] / 60, 3),
        "scope": int8["scope"] if int8 else "–",
        "drift": number(int8["score_mean"]) if int8 else "–",
        "accepted": "no INT8" if not int8 else "refused" if is_refused(record, "int8") else "accepted",
        "report": f"{name}/{REPORT_FILE}",
    }


def _kinds(models: Mapping[str, Record]) -> list[dict[str, Any]]:
    """A table per defect type: what each model reaches at the precision that its bundle runs."""
    chosen = {name: record["precisions"][record["default_precision"]] for name, record in models.items()}
    names = sorted({kind for reached in chosen.values() for kind in reached.get("by_kind") or ()})
    return [
        {
            "name": kind,
            "headings": [METRICS[metric] for metric in _OF_KINDS],
            "rows": [
                {
                    "name": f"{name} at {models[name]['default_precision']}",
                    "cells": [number(reached["by_kind"][kind][metric], 3) for metric in _OF_KINDS],
                    "escapes": _of(reached["wrong"]["escapes_by_kind"][kind]) if reached.get("wrong") else "–",
                }
                for name, reached in chosen.items()
            ],
        }
        for kind in names
    ]


def _photographs(summary: Record) -> str:
    record = next(iter(summary["models"].values()))
    counts = {kind: count for kind, count in record["counts"].items() if kind.startswith("test/")}
    tested = ", ".join(f"{count} {kind.removeprefix('test/')}" for kind, count in counts.items()) or "none"
    return (
        f"{plural(record['good_images'], 'good photograph')} to train on, {record['held_out']} held out for the "
        f"threshold; to test on: {tested}."
    )


def _settings(summary: Record) -> list[tuple[str, str]]:
    settings, threads = summary["settings"], summary["threads"]
    return [
        ("photographs", summary["photos"]),
        ("budget of a model", _budget(settings) + ", images per step: " + str(settings["batch"])),
        ("backbone", settings["backbone"]),
        ("synthetic defects", settings["defects"] or "each model's own"),
        ("textures", settings["textures"] or "cut from the photographs themselves"),
        ("threads", "by torch's and the engine's own choice" if threads is None else str(threads)),
    ]


def _next_commands(summary: Record, best: Contestant | None) -> list[str]:
    """How to use what was recommended."""
    if best is None:
        return []
    bundle = f"{best.model}/{BUNDLE_FILE}"
    return [f"segrd-inspect {shlex.quote(bundle)} frames/ --precision {best.precision} --out results/"]
