"""The report: one self-contained HTML page that a machine-vision engineer reads before a detector goes on the line, and
beside it the same figures as JSON.

Everything shown comes from the run and the export's result, but for what is measured here: the latency of this machine,
and the plans of INT8 that were tried. What is not known is said in words, never left blank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segrd_edge.bundle import Bundle
from segrd_edge.calibration.progress import Said
from segrd_edge.errors import FrameError, TrainingError
from segrd_edge.files import replacing, write_json
from segrd_edge.frames import read_frame
from segrd_edge.manifest import Manifest
from segrd_edge.selftest import golden_frame
from segrd_edge.training.evaluate import Evaluation
from segrd_edge.training.run import Run

from . import report_record as records
from . import report_sections as sections
from .limits import MOST_LOST
from .page import render
from .report_int8 import safety, why_default
from .report_json import SUFFIX, Findings, report_values
from .report_latency import LatencyTable, measure_latency
from .report_pictures import synthetic_pictures
from .report_plans import PlanTried, measure_plans, plans_tried
from .report_precision import precision_section
from .report_text import megabytes, plural, significant, size, training_time

if TYPE_CHECKING:
    from .bundle import ExportResult

_TEMPLATE = Path(__file__).parent / "templates" / "report.html"


def write_report(path: str | Path, run: Run, result: ExportResult, *, said: Said = lambda line: None) -> Path:
    """Write the report of a trained and exported model: the HTML page, and the JSON file of `json_path` beside it.

    It times a few inspections with every engine, which takes some seconds, and scores the images of the metrics with
    the plans that were tried for INT8 and not taken, see `report_plans`.

    Args:
        path: of the page; existing files are replaced.
        run: what training left behind; its photographs are shown if they are still where they were.
        result: what the export gave. Without evaluations, the report says what is therefore unknown.
        said: called with a line of progress.
    """
    path = Path(path)
    bundle = Bundle.open(result.path)
    photographs = _photographs(run, result.evaluations)
    found = _look(run, result, bundle, photographs, said)
    page, values = render(_TEMPLATE, _page(found, result, bundle, photographs)), report_values(found)
    write_json(json_path(path), values)
    with replacing(path) as file:
        file.write(page.encode())
    return path


def json_path(page: Path) -> Path:
    """Where `write_report` writes the figures of a page."""
    return page.with_suffix(SUFFIX)


def _look(run: Run, result: ExportResult, bundle: Bundle, photographs: Sequence[Path], said: Said) -> Findings:
    """Everything that page and JSON have in common."""
    manifest, evaluations, calibration = result.manifest, result.evaluations, result.calibration
    plans: list[PlanTried] = []
    if calibration is not None:
        int8 = evaluations.get("int8")
        plans = plans_tried(calibration, int8, measure_plans(run, calibration, int8, said) if int8 else {})
    return Findings(
        run=run,
        manifest=manifest,
        bundle=result.path,
        graph_bytes=result.graph_bytes,
        evaluations=evaluations,
        reason=why_default(manifest, calibration),
        verdict=sections.verdict_section(run, manifest, evaluations),
        safety=safety(manifest, calibration, evaluations),
        plans=plans,
        latency=measure_latency(bundle, _typical_frame(photographs, run, bundle)),
    )


def _page(found: Findings, result: ExportResult, bundle: Bundle, photographs: Sequence[Path]) -> dict[str, Any]:
    """Everything that the template shows."""
    run, manifest, evaluations = found.run, found.manifest, found.evaluations
    caution = sections.caution_of(evaluations)
    return {
        "manifest": manifest,
        "title": manifest.product,
        "facts": _facts(run, result),
        "missing": "" if evaluations else sections.missing_images(run),
        "caution": caution,
        "verdict": found.verdict,
        "safety": found.safety,
        "most_lost": MOST_LOST,
        "data": sections.data_section(run, evaluations.get(manifest.default_precision), photographs),
        "synthetic": synthetic_pictures(run.folder / "synthetic"),
        "training": {"curves": records.training_curves(run.folder), "time": training_time(run), "budget": _budget(run)},
        "scores": sections.scores_section(run, manifest, evaluations, result.held_out_scores),
        "cases": sections.cases_section(run, manifest, evaluations),
        "metrics": {"names": list(sections.METRICS.values()), "rows": sections.metrics_section(manifest, evaluations)},
        "precision": precision_section(
            manifest, result.calibration, evaluations, found.graph_bytes, found.latency, found.plans
        ),
        "parity": sections.parity_rows(manifest),
        "latency": _latency(found.latency, manifest),
        "environment": [*records.training_record(run), *records.environment()],
        "packages": records.packages(),
        "checksums": records.checksums(bundle, run),
        "commands": records.commands(run, result, synthetic=bool(caution)),
    }


def _facts(run: Run, result: ExportResult) -> list[str]:
    """The line under the title."""
    manifest = result.manifest
    model = manifest.model
    gmacs = f", {model.gmacs:.2g} billion multiply-accumulates per image" if model.gmacs is not None else ""
    return [
        f"{model.name} on {model.backbone}",
        f"{size(run.preprocess.size_hw)} network pixels",
        f"{significant(model.parameters / 1e6, 3)} million weights{gmacs}",
        f"trained for {training_time(run)}",
        f"exported {manifest.created:%Y-%m-%d %H:%M} UTC",
        f"{result.path.name}, {megabytes(result.path.stat().st_size)}",
    ]


def _budget(run: Run) -> str:
    config = run.config
    if config.minutes is not None:
        return f"a budget of {config.minutes:g} min"
    return f"a budget of {plural(config.steps or 0, 'step')}"


def _latency(table: LatencyTable, manifest: Manifest) -> dict[str, Any]:
    budget = (
        [] if manifest.latency is None else [records.budget_sentence(manifest.latency), *manifest.latency.sentences]
    )
    return {
        "chart": records.latency_chart(table) if table.rows else "",
        "sentences": [*budget, *records.latency_sentences(table)],
        "rows": table.rows,
        "failures": table.failures,
        "frame": size(table.frame_hw),
    }


def _photographs(run: Run, evaluations: Mapping[str, Evaluation]) -> list[Path]:
    """Photographs to look at: the evaluated ones, which lie where the export found them, or the held-out ones."""
    for evaluation in evaluations.values():
        return list(dict.fromkeys(frame.photo.path for frame in evaluation.frames))
    try:
        return run.photo_paths("held_out")
    except TrainingError:
        return []


def _typical_frame(photographs: Sequence[Path], run: Run, bundle: Bundle) -> npt.NDArray[np.uint8]:
    """A photograph to time with, or a golden image where the photographs are gone."""
    try:
        return read_frame(photographs[0], value_range=run.preprocess.value_range)
    except (IndexError, FrameError):
        image = np.asarray(bundle.golden()["images"][0], np.uint8)
        preprocess = run.preprocess
        return golden_frame(image, preprocess, preprocess.least_frame_hw) if preprocess.crop_xywh else image
