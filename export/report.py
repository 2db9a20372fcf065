"""The report: one self-contained HTML page that a machine-vision engineer reads before a detector goes on the line.

Everything shown comes from the run and the export's result. What they do not hold is said in words, never left blank.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segrd_edge.bundle import Bundle
from segrd_edge.errors import SegrdError
from segrd_edge.frames import read_frame
from segrd_edge.training.run import Run

from . import report_record as record
from . import report_sections as sections
from .report_latency import LatencyTable, measure_latency
from .report_pictures import synthetic_pictures
from .report_text import megabytes, number, percent, plural, significant, size, training_time

if TYPE_CHECKING:
    from .bundle import ExportResult

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(path: str | Path, run: Run, result: ExportResult) -> Path:
    """Write the HTML report of a trained and exported model.

    It times a few inspections with every engine, which takes some seconds.

    Args:
        path: where to; an existing file is replaced.
        run: what training left behind; its photographs are shown if they are still where they were.
        result: what the export gave. Without evaluations, the report says what is therefore unknown.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_render(_page(run, result)), encoding="utf-8")
    return path


def _page(run: Run, result: ExportResult) -> dict[str, Any]:
    """Everything that the template shows."""
    manifest, evaluations = result.manifest, result.evaluations or {}
    bundle = Bundle.open(result.path)
    latency = measure_latency(bundle, _typical_frame(run, bundle))
    has_good = sections.has_good_test_images(run)
    return {
        "manifest": manifest,
        "title": manifest.product,
        "facts": _facts(run, result),
        "evaluated": bool(evaluations),
        "verdict": sections.verdict_section(manifest, evaluations, held_out_again=not has_good),
        "data": sections.data_section(run, evaluations.get(manifest.default_precision)),
        "synthetic": synthetic_pictures(run.folder / "synthetic"),
        "training": {"curves": record.training_curves(run.folder), "time": training_time(run), "budget": _budget(run)},
        "scores": sections.scores_section(run, manifest, evaluations, result.held_out_scores),
        "cases": sections.cases_section(run, manifest, evaluations),
        "metrics": {"names": list(sections.METRICS.values()), "rows": sections.metrics_section(manifest, evaluations)},
        "calibration": record.calibration_section(manifest.calibration) if manifest.calibration else None,
        "decision": "",
        "parity": sections.parity_rows(manifest),
        "latency": _latency(latency),
        "environment": [*record.environment(), ("engines", record.engine_versions())],
        "checksums": record.checksums(bundle, run),
        "commands": record.commands(run, result.path),
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


def _latency(table: LatencyTable) -> dict[str, Any]:
    return {
        "chart": record.latency_chart(table) if table.rows else "",
        "sentences": record.latency_sentences(table),
        "rows": table.rows,
        "failures": table.failures,
        "frame": size(table.frame_hw),
    }


def _typical_frame(run: Run, bundle: Bundle) -> npt.NDArray[np.uint8]:
    """A held-out photograph, or a golden image where the photographs are gone."""
    try:
        return read_frame(run.photo_paths("held_out")[0], value_range=run.preprocess.value_range)
    except SegrdError:
        return np.asarray(bundle.golden()["images"][0], np.uint8)


def _render(page: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters.update(number=number, percent=percent, plural=plural, svg=Markup)
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))  # noqa: S704  (our own file)
    return templates.get_template("report.html").render(page, style=style)
