"""The report's section on precisions: what INT8 and float16 do to the results, and why they cover what they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segrd_edge.calibration.budget import Budget
from segrd_edge.calibration.calibrate import Calibration
from segrd_edge.calibration.sensitivity import FRAMES as SENSITIVITY_FRAMES
from segrd_edge.manifest import (
    CalibrationRecord,
    GraphRecord,
    Manifest,
    NodeReason,
    Precision,
    SensitivityRecord,
)
from segrd_edge.training.evaluate import Evaluation

from . import charts
from .limits import MOST_TURNED
from .record import METHOD_METRICS
from .report_facts import change, compare, module_totals
from .report_int8 import finer, second_try, why_default
from .report_latency import LatencyTable
from .report_plans import PlanTried, metrics_of
from .report_text import UNKNOWN, megabytes, number, percent, plural, signed, size

_REFERENCE: Precision = "fp32"
_FORMS = {"int8": "INT8", "two-term": "INT8 in two terms", "float": "float"}
_DRIFT = (
    *("score_mean", "score_max", "map_cosine_mean", "map_cosine_min"),
    *("pairs_turned", "flip_rate", "image_auroc_drop", "pixel_ap_drop"),
)


def precision_section(
    manifest: Manifest,
    calibration: Calibration | None,
    evaluations: Mapping[str, Evaluation],
    graph_bytes: Mapping[Any, int],
    latency: LatencyTable,
    plans: Sequence[PlanTried] = (),
) -> dict[str, Any]:
    """Is INT8 safe for this part? A row per precision, the scores of each against fp32's, and how INT8 came about."""
    others = [name for name in manifest.graphs if name != _REFERENCE]
    engines = list(dict.fromkeys(row.engine for row in latency.rows))
    return {
        "headline": why_default(manifest, calibration),
        "engines": engines,
        "rows": [
            _row(
                name, manifest, evaluations, graph_bytes[name], [latency.median_ms(engine, name) for engine in engines]
            )
            for name in manifest.graphs
        ],
        "above_all": manifest.graphs[_REFERENCE].threshold.is_above_all,
        "agreement": [_agreement(manifest, evaluations, name) for name in others if name in evaluations],
        "int8": _calibration(manifest.calibration, calibration, evaluations, plans) if manifest.calibration else None,
        "float16": _float16(manifest),
        "not_exported": list(not_exported(manifest).values()),
    }


def not_exported(manifest: Manifest) -> dict[str, str]:
    """Why a precision that somebody may look for is not in the bundle."""
    if "fp16" in manifest.graphs:
        return {}
    mixed = " and mixed" if "int8" in manifest.graphs else ""
    return {
        "fp16": "There is no fp16 here: the engines of a processor compute float16 as float32, so that it would gain "
        f"nothing. segrd-export --engine tensorrt adds fp16{mixed}, for a GPU."
    }


def _row(
    name: Precision, manifest: Manifest, evaluations: Mapping[str, Evaluation], count: int, medians: list[float | None]
) -> dict[str, Any]:
    graph, changes = manifest.graphs[name], manifest.graphs[name].verdict_changes
    turned = UNKNOWN if changes is None else f"{changes.held_out} of {changes.held_out_frames}"
    if changes is not None and changes.test is not None:
        turned += f", {changes.test} of {changes.test_frames}"
    return {
        "precision": name,
        "is_default": name == manifest.default_precision,
        "score_mean": number((graph.drift or {}).get("score_mean")),
        "turned": turned,
        "metrics": [_metric(metric, name, evaluations) for metric in ("image_auroc", "pixel_ap", "aupro")],
        "size": megabytes(count),
        "medians": [UNKNOWN if value is None else f"{value:.1f}" for value in medians],
    }


def _metric(metric: str, name: str, evaluations: Mapping[str, Evaluation]) -> tuple[str, str]:
    """The value, and its difference from fp32's."""
    values = {other: getattr(found.metrics, metric) for other, found in evaluations.items()}
    if name not in values:
        return UNKNOWN, ""
    return number(values[name]), "" if name == _REFERENCE else signed(change(values[_REFERENCE], values[name]))


def _agreement(manifest: Manifest, evaluations: Mapping[str, Evaluation], name: Precision) -> dict[str, Any]:
    """Every image's score with `name` over its score with fp32, with both thresholds."""
    before, after = evaluations[_REFERENCE], evaluations[name]
    points = {
        tone: [
            (a.score, b.score)
            for a, b in zip(before.frames, after.frames, strict=True)
            if a.photo.is_defect == (tone == "defect")
        ]
        for tone in ("good", "defect")
    }
    thresholds = manifest.graphs[_REFERENCE].threshold.value, manifest.graphs[name].threshold.value
    difference = compare(before, after, thresholds)
    near = sum(abs(frame.score - thresholds[0]) <= difference.score_mean for frame in before.frames)
    turned = difference.verdicts
    axis = charts.score_axis([[s for pair in pairs for s in pair] for pairs in points.values() if pairs], thresholds[0])
    return {
        "precision": name,
        "source": after.source,
        "chart": charts.agreement(points, thresholds, axis, x_label="score with fp32", y_label=f"score with {name}"),
        "scale": axis.kind,
        # What turns a verdict is a threshold among many scores, more than a large shift.
        "near": f"{name} moves these scores by {number(difference.score_mean)} on average. {plural(near, 'image')} of "
        f"{turned.total} {'lies' if near == 1 else 'lie'} no farther than that from fp32's threshold, and "
        f"{turned.count} {'has' if turned.count == 1 else 'have'} another verdict."
        + (second_try(manifest) if name == "int8" else "")
        + _advice(manifest, name, turned.rate or 0),
    }


def _advice(manifest: Manifest, name: Precision, share: float) -> str:
    """What to do where INT8 turns a larger share of the verdicts than it should."""
    drift = manifest.graphs[name].drift
    if name != "int8" or drift is None or share <= MOST_TURNED:
        return ""
    return f" For fewer, {finer(manifest)}"


def _calibration(
    record: CalibrationRecord,
    calibration: Calibration | None,
    evaluations: Mapping[str, Evaluation],
    plans: Sequence[PlanTried] = (),
) -> dict[str, Any]:
    """Frames by kind, method, convolutions per part of the network, what stays float and why, and the scopes tried."""
    kinds = [frame.kind for frame in record.frames]
    method = _method(record)
    if record.equalised:
        method += "; concatenated features are levelled by channel first"
    if record.unclipped:
        method += f"; {plural(len(record.unclipped), 'tensor')} of what the head reads not clipped"
    return {
        "good": kinds.count("good"),
        "synthetic": kinds.count("synthetic"),
        "photographs": len({frame.file for frame in record.frames}),
        "method": method,
        "modules": module_totals(record.quantised, [left.node for left in record.left_float]),
        "quantised": len(record.quantised),
        "convolutions": len(record.quantised) + len(record.left_float),
        "reasons": _by_reason(record.left_float),
        "two_terms": _two_terms(record),
        "two_term_reasons": _by_reason(record.two_term),
        "trials": [_trial(plan) for plan in plans],
        "limits": str(Budget(**record.budget)),
        "methods": _methods(record, calibration, evaluations),
        "sensitivity": _sensitivity(record),
        "weights": _weights(record),
        "share": None if record.int8_share is None else percent(record.int8_share),
    }


def _two_terms(record: CalibrationRecord) -> list[str]:
    """What of INT8 is finer than one rounding to 256 steps, in sentences."""
    sentences = []
    if record.two_term:
        count, share = plural(len(record.two_term), "convolution"), percent(record.two_term_share)
        sentences.append(
            f"{count}, with {share} of the multiply-accumulates, read their input as the sum of two INT8 tensors: "
            "twice INT8's work, half of float's, and hardly any rounding of the input. Beside float16 they run in that."
        )
    if record.float_skips:
        sentences.append("What skips the residual blocks stays in float.")
    return sentences


def _method(record: CalibrationRecord) -> str:
    """How the scales were found and why so; with "per-tensor", how many tensors took which method."""
    names = {"percentile": f"percentile {record.percentile:g}"} if record.percentile is not None else {}
    if not record.tensor_methods:
        name = names.get(record.method, record.method)
        if not record.method_trials:
            return name
        figures = ", ".join(
            f"{method} {number(drift['score_mean'])} and {number(drift['map_cosine_mean'])}"
            for method, drift in record.method_trials.items()
        )
        return (
            f"{name}, the way that moves scores and maps less with everything in INT8 (mean |Δscore| and mean map "
            f"cosine: {figures})"
        )
    counts = Counter(record.tensor_methods.values()).most_common()
    shares = ", ".join(f"{names.get(method, method)} for {plural(count, 'tensor')}" for method, count in counts)
    return f"{record.method}, by what each does to the output: {shares}"


def _by_reason(nodes: Iterable[NodeReason]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for left in nodes:
        reasons.setdefault(left.reason, []).append(left.node)
    return reasons


def _float16(manifest: Manifest) -> dict[str, Any]:
    """Of the graphs with float16 layers: what each takes and how far it is from fp32; what keeps float32 and why."""
    graphs = {name: graph for name, graph in manifest.graphs.items() if graph.kept_fp32 and graph.drift}
    kept: list[tuple[list[str], dict[str, list[str]]]] = []  # names of the graphs that keep the same nodes
    for name, graph in graphs.items():
        reasons = _by_reason(graph.kept_fp32)
        same = next((names for names, known in kept if known == reasons), None)
        if same is None:
            kept.append(([name], reasons))
        else:
            same.append(name)
    return {
        "graphs": [_float16_row(name, graph) for name, graph in graphs.items()],
        "unsafe": [name for name, graph in graphs.items() if graph.is_safe is False],
        "kept": [(" and ".join(names), sum(map(len, reasons.values())), reasons) for names, reasons in kept],
    }


def _float16_row(name: str, graph: GraphRecord) -> dict[str, Any]:
    item = "network image" if graph.frame_hw is None else "frame"
    drift = graph.drift or {}
    return {
        "precision": name,
        "takes": plural(graph.batch, item) + (f" of {size(graph.frame_hw)}" if graph.frame_hw else ""),
        "figures": _drift_figures(drift),
    }


def _trial(plan: PlanTried) -> dict[str, Any]:
    return {
        "scope": plan.scope,
        "outcome": f"{_outcome(plan)}, {percent(plan.int8_share)} of the work",
        "figures": _drift_figures(plan.drift),
        "metrics": _metric_figures(plan.metrics or {}),
    }


def _outcome(plan: PlanTried) -> str:
    if plan.is_exported:
        return "exported" if plan.is_within_limits else "exported, and moved too far"
    return "kept, with less in INT8" if plan.is_within_limits else "moved too far"


def _drift_figures(drift: Mapping[str, float]) -> list[str]:
    return [number(drift.get(name)) for name in _DRIFT]


def _metric_figures(metrics: Mapping[str, float | None]) -> list[str]:
    """Image AUROC, pixel AP and AU-PRO."""
    return [number(metrics.get(name)) for name in METHOD_METRICS]


def method_metrics(
    method: str, record: CalibrationRecord, evaluations: Mapping[str, Evaluation]
) -> Mapping[str, float | None]:
    """Of the plan with scales by a method; of what was exported they are the INT8 graph's own."""
    if method == record.method and "int8" in evaluations:
        return metrics_of(evaluations["int8"])
    return record.metrics_by_method.get(method, {})


def _methods(
    record: CalibrationRecord, calibration: Calibration | None, evaluations: Mapping[str, Evaluation]
) -> dict[str, Any]:
    """What the other ways to find scales would have done to the same plan, and whether one is clearly better."""
    better = None if calibration is None else calibration.better_method
    return {
        "rows": [
            (method, _drift_figures(drift), _metric_figures(method_metrics(method, record, evaluations)))
            for method, drift in record.drift_by_method.items()
        ],
        "advice": ""
        if better is None
        else f"{better} moves the results less on these frames, by every figure that the limits are about: add "
        f"--calibration {better} to the command that made this bundle, and compare the metrics.",
    }


def _sensitivity(record: CalibrationRecord) -> dict[str, Any] | None:
    """Of every block alone in INT8: a bar, how far it moves the scores, and a row with all that it does."""
    if not record.sensitivity:
        return None
    total = sum(block.macs for block in record.sensitivity)
    groups: dict[str, list[charts.Bar]] = {}
    rows: list[tuple[str, str, list[str]]] = []
    for block in record.sensitivity:
        value, share, form = block.drift["score_mean"], percent(block.macs / total), form_of(block, record)
        tone = "fp32" if form == "float" else "int8"
        note = f"{number(value)}, {share} of the work, {_FORMS[form]}"
        rows.append((block.block, _FORMS[form], _drift_figures(block.drift)))
        module, _, rest = block.block.partition(".")
        groups.setdefault(module, []).append(charts.Bar(rest or module, value, value, note, f"bar-{tone}"))
    return {
        "chart": charts.grouped_bars(list(groups.items()), note_width=290),
        "rows": rows,
        "frames": min(SENSITIVITY_FRAMES, len(record.frames)),
    }


def form_of(block: SensitivityRecord, record: CalibrationRecord) -> str:
    """What a block runs in, by the plan's words: "int8", "two-term" or "float"."""
    if not set(record.quantised).issuperset(block.nodes):
        return "float"
    return "two-term" if {entry.node for entry in record.two_term}.issuperset(block.nodes) else "int8"


def _weights(record: CalibrationRecord) -> list[str]:
    """What was done to the weights for INT8, in sentences."""
    said = {
        "rounding": "Weights are rounded so that their errors make up for each other.",
        "levels": "The channels between convolutions were levelled.",
        "bias": "Biases take up INT8's mean shift.",
    }
    sentences = [said.get(name, f"{name} was applied to the weights.") for name in record.improved]
    if (tuning := record.fine_tuning) is not None:
        moved = [f"mean |Δscore| {number(drift['score_mean'])}" for drift in (tuning.before, tuning.after)]
        taken = "is what the bundle holds" if tuning.is_taken else "was not taken"
        steps = plural(tuning.steps, "step")
        sentences.append(f"Fine-tuning with INT8 for {steps}: {moved[0]} before, {moved[1]} after; the result {taken}.")
    return sentences
