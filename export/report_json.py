"""The report for programs: the figures behind the page, as one JSON object. docs/bundle-format.md says what is in it.

Names stay as they are; what changes otherwise counts SCHEMA_VERSION up. Nothing in it says where files lay.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segrd_edge.manifest import CalibrationRecord, Manifest
from segrd_edge.training.evaluate import Evaluation
from segrd_edge.training.run import Run

from . import report_record as records
from .limits import MOST_LOST, MOST_TURNED
from .report_facts import Errors, Share, count_errors
from .report_int8 import Safety, held_to_aims, taken_by_themselves
from .report_latency import LatencyTable
from .report_plans import PlanTried
from .report_precision import form_of, method_metrics, not_exported

SCHEMA_VERSION = 1
SUFFIX = ".report.json"
_NO_INT8 = "This bundle has no INT8 graph."


@dataclass(frozen=True)
class Findings:
    """What the page and this file both show, each figure found once."""

    run: Run
    manifest: Manifest
    bundle: Path
    graph_bytes: Mapping[Any, int]
    evaluations: Mapping[str, Evaluation]
    reason: str  # for the default precision; empty where there is no INT8
    verdict: Mapping[str, Any]  # `report_sections.verdict_section`
    safety: Safety
    plans: list[PlanTried]
    latency: LatencyTable


def report_values(found: Findings) -> dict[str, Any]:
    """Ready for JSON."""
    manifest = found.manifest
    evaluation = found.evaluations.get(manifest.default_precision)
    return {
        "schema_version": SCHEMA_VERSION,
        "product": manifest.product,
        "bundle": found.bundle.name,
        "created": manifest.model_dump(mode="json")["created"],
        "segrd_edge_version": manifest.segrd_edge_version,
        "model": manifest.model.name,
        "size_hw": list(found.run.preprocess.size_hw),
        "verdict": {name: found.verdict[name] for name in ("answer", "headline", "advice")},
        "default": {"precision": manifest.default_precision, "reason": found.reason or _NO_INT8},
        "int8": {
            "taken_by_itself": taken_by_themselves(manifest),
            "aims": {**MOST_LOST, "verdicts": MOST_TURNED},
            **asdict(found.safety),
        },
        "metrics_source": None if evaluation is None else evaluation.source,
        "precisions": {name: _precision(name, found) for name in manifest.graphs},
        "not_exported": not_exported(manifest),
        "latency": _latency(found.latency, manifest),
        "calibration": None
        if manifest.calibration is None
        else _calibration(manifest.calibration, found.plans, found.evaluations),
        "images": _images(found.evaluations),
        "machine": {**dict(records.environment()), "packages": dict(records.packages())},
    }


def _precision(name: Any, found: Findings) -> dict[str, Any]:
    manifest, evaluation = found.manifest, found.evaluations.get(name)
    graph = manifest.graphs[name]
    errors = None
    if evaluation is not None and not evaluation.is_synthetic:
        errors = count_errors(evaluation, graph.threshold.value)
    held = held_to_aims(manifest, found.evaluations, name)
    return {
        "is_default": name == manifest.default_precision,
        "graph_bytes": found.graph_bytes[name],
        "threshold": graph.threshold.value,
        "threshold_statement": graph.threshold.statement,
        "false_rejects": _count(errors, "false_rejects"),
        "escapes": _count(errors, "escapes"),
        "metrics": None if evaluation is None else evaluation.to_dict(),
        "verdict_changes": None if graph.verdict_changes is None else graph.verdict_changes.model_dump(),
        "aims": None
        if held is None
        else {aim.name: {"cost": aim.cost, "limit": aim.limit, "is_missed": aim.is_missed} for aim in held.aims},
        "drift": graph.drift,
        "is_safe": graph.is_safe,
        "parity": graph.parity,
    }


def _count(errors: Errors | None, name: str) -> dict[str, int] | None:
    """None where no image of that kind was evaluated."""
    share: Share | None = None if errors is None else getattr(errors, name)
    return {"count": share.count, "of": share.total} if share and share.total else None


def _latency(table: LatencyTable, manifest: Manifest) -> dict[str, Any]:
    engines: dict[str, dict[str, Any]] = {}
    for row in table.rows:
        engine = engines.setdefault(row.engine, {"automatic": table.automatic.get(row.engine), "precisions": {}})
        engine["precisions"][row.precision] = {
            "median_ms": row.median_ms, "p90_ms": row.p90_ms, "stages_ms": row.stages_ms
        }  # fmt: skip
    budget = manifest.latency
    return {
        "frame_hw": list(table.frame_hw),
        "rounds": table.rounds,
        "engines": engines,
        "not_measured": [{"engine": failure.engine, "precision": failure.precision} for failure in table.failures],
        "budget": None if budget is None else budget.model_dump(mode="json", exclude={"sentences"}),
    }


def _calibration(
    record: CalibrationRecord, plans: list[PlanTried], evaluations: Mapping[str, Evaluation]
) -> dict[str, Any]:
    """How INT8 came about: what else was tried, and what it did."""
    return {
        "frames": len(record.frames),
        "method": record.method,
        "percentile": record.percentile,
        "method_trials": record.method_trials,
        "scope": record.scope,
        "limits": record.budget,
        "int8_share": record.int8_share,
        "two_term_share": record.two_term_share,
        "speedup": record.speedup,
        "second_try": None if record.second_try is None else record.second_try.model_dump(),
        "methods": [
            {
                "method": method,
                "is_exported": method == record.method,
                "drift": drift,
                "metrics": dict(method_metrics(method, record, evaluations)) or None,
            }
            for method, drift in record.drift_by_method.items()
        ],
        "plans": [asdict(plan) for plan in plans],
        "sensitivity": [
            {**block.model_dump(exclude={"nodes"}), "runs_in": form_of(block, record)} for block in record.sensitivity
        ],
    }


def _images(evaluations: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """Each image of the metrics with its score in every precision, in one order; a file may carry several defects."""
    rows = list(zip(*(evaluation.frames for evaluation in evaluations.values()), strict=True))
    paths = [row[0].photo.path.absolute() for row in rows]
    root = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    return [
        {
            "file": path.relative_to(root).as_posix(),
            "kind": row[0].photo.kind,
            "is_defect": row[0].photo.is_defect,
            "scores": {name: frame.score for name, frame in zip(evaluations, row, strict=True)},
        }
        for path, row in zip(paths, rows, strict=True)
    ]
