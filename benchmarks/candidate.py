"""A candidate: one training, its export and what was measured of both, as a dictionary that is ready for JSON.

A cell of the accuracy table (`benchmarks.accuracy`) and a model of a comparison (`benchmarks.compare`) are candidates.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrd_edge import machine
from segrd_edge.calibration.calibrate import Calibration
from segrd_edge.errors import TrainingError
from segrd_edge.export.bundle import ExportResult, export_bundle
from segrd_edge.export.report_facts import Share, count_errors
from segrd_edge.manifest import Precision
from segrd_edge.training.evaluate import Evaluation
from segrd_edge.training.fit import Listener
from segrd_edge.training.run import Run, RunConfig
from segrd_edge.training.train import train

BUNDLE_FILE = "part.segrd"  # in the folder of the run

Record = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A finished run, its export, and their figures."""

    run: Run
    exported: ExportResult
    record: Record


def make_candidate(
    config: RunConfig,
    folder: Path,
    *,
    int8: bool = True,
    skip_bad: bool = False,
    listener: Listener = lambda report: None,
    said: Callable[[str], None] = lambda line: None,
) -> Candidate:
    """Train in `folder` unless the run there has finished, continue one that was interrupted, and export it.

    Raises:
        SegrdError: what `training.train.train` and `export.bundle.export_bundle` raise.
    """
    check_same_settings(config, folder)
    if not (folder / "threshold.json").is_file():
        resume = (folder / "config.json").is_file()
        train(config, folder, resume=resume, skip_bad=skip_bad, listener=listener, said=said)
    run = Run.load(folder)
    exported = export_bundle(run, folder / BUNDLE_FILE, int8=int8, said=said)
    return Candidate(run, exported, describe(run, exported))


def check_same_settings(config: RunConfig, folder: Path) -> None:
    """TrainingError where `folder` holds a run that was begun with other settings."""
    file = folder / "config.json"
    if not file.is_file():
        return
    begun = RunConfig.from_dict(json.loads(file.read_text(encoding="utf-8"))).to_dict()
    asked = config.to_dict()
    if other := [name for name in asked if begun[name] != asked[name]]:
        values = ", ".join(f"{name} {begun[name]} and not {asked[name]}" for name in other)
        raise TrainingError(
            f"the run in {folder} was begun with {values}",
            expected="the settings that it was begun with",
            fix="give those again, name another --out, or delete that folder",
        )


def describe(run: Run, exported: ExportResult) -> Record:
    """What a run and its export are and reach; metrics are missing where there was nothing to evaluate on."""
    calibration = exported.calibration
    evaluation = next(iter(exported.evaluations.values()), None)
    return {
        "model": exported.manifest.model.model_dump(include={"name", "parameters", "gmacs"}),
        "seed": run.config.seed,
        "minutes": run.config.minutes,
        "clock": run.config.clock,
        "options": run.config.options,
        "size_hw": run.preprocess.size_hw,
        "tile_hw": run.preprocess.tile_hw,
        "teacher": run.record["teacher"],
        "steps": run.record["steps"],
        "good_images": len(run.data["train"]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": "{model}, {cores} cores".format(**machine.cpu()),
        "bundle_bytes": exported.path.stat().st_size,
        "precisions": {precision: _figures(exported, precision) for precision in exported.manifest.graphs},
        "caution": evaluation.caution if evaluation else None,
        "default_precision": exported.manifest.default_precision,
        "int8": None if calibration is None else _int8(exported, calibration),
    }


def _int8(exported: ExportResult, calibration: Calibration) -> Record:
    """What of the network it covers, and what it changes: on the calibration frames, and of the verdicts."""
    changes, record = exported.manifest.graphs["int8"].verdict_changes, exported.manifest.calibration
    second = None if record is None else record.second_try
    return {
        "scope": calibration.scope,
        "scales": calibration.ranges.method,
        "share": round(calibration.int8_share, 4),
        "two_term_share": round(calibration.two_term_share, 4),
        "verdict_changes": changes and changes.model_dump(),
        "second_try": second and second.model_dump(),
        **calibration.drift.to_dict(),
    }


def is_refused(record: Record, precision: str) -> bool:
    """Whether it is INT8, and the bundle keeps fp32 as its default because INT8 moves the scores too far."""
    return precision == "int8" and record["default_precision"] != "int8"


def _figures(exported: ExportResult, precision: Precision) -> Record:
    graph = exported.manifest.graphs[precision]
    return {
        "threshold": graph.threshold.value,
        "escape_rate": graph.threshold.escape_rate,
        "wrong": _wrong(exported.evaluations.get(precision), graph.threshold.value),
        **(graph.metrics or {}),
    }


def _wrong(evaluation: Evaluation | None, threshold: float) -> Record | None:
    """False rejects and escapes at the threshold, each as [count, total]; synthetic defects say nothing of them."""
    if evaluation is None or evaluation.is_synthetic:
        return None
    errors = count_errors(evaluation, threshold)
    return {
        "false_rejects": _pair(errors.false_rejects),
        "escapes": _pair(errors.escapes),
        "escapes_by_kind": {kind: _pair(share) for kind, share in errors.escapes_by_kind.items()},
    }


def _pair(share: Share) -> list[int]:
    return [share.count, share.total]
