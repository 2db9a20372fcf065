"""The report's sections that rest on images and scores, each as the template wants it: words, numbers and markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segrd_edge.manifest import Manifest
from segrd_edge.training.data import GOOD
from segrd_edge.training.evaluate import Evaluation, FrameResult
from segrd_edge.training.metrics import Metrics
from segrd_edge.training.run import Run

from . import charts
from .limits import MOST_LOST
from .report_facts import Errors, Share, answer, change, choose_cases, compare, count_errors, score_groups
from .report_pictures import case_pictures, frame_sizes_hw
from .report_text import (
    NO_DEFECTS,
    NOT_EVALUATED,
    advice,
    difference_sentence,
    error_sentences,
    headline,
    number,
    percent,
    plural,
    score,
    share,
    signed,
    significant,
    size,
    unknown_verdict,
)

REFERENCE = "fp32"
METRICS = {
    "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AU-PRO", "iap": "IAP",
    "iap90": "IAP@90", "f1": "best F1",
}  # fmt: skip
SIZES_LOOKED_AT = 8

Evaluations = Mapping[str, Evaluation]


def thresholds_of(manifest: Manifest) -> dict[str, float]:
    """By precision."""
    return {precision: graph.threshold.value for precision, graph in manifest.graphs.items()}


def verdict_section(run: Run, manifest: Manifest, evaluations: Evaluations) -> dict[str, Any]:
    """Can I use this? For the default precision, with the others beside it."""
    chosen, thresholds = manifest.default_precision, thresholds_of(manifest)
    record = manifest.graphs[chosen].threshold
    # Escapes, and so the answer, come from photographs alone: synthetic defects have none to tell of.
    real = {name: evaluation for name, evaluation in evaluations.items() if not evaluation.is_synthetic}
    errors = {name: count_errors(evaluation, thresholds[name]) for name, evaluation in real.items()}
    found, fresh = errors.get(chosen), has_good_test_images(run)
    verdict = answer(found, record.false_reject)
    title, advised = (
        (headline(verdict, found, fresh_good=fresh), advice(verdict, found))
        if found
        else unknown_verdict(missing_images(run))
    )
    sentences = error_sentences(found, record.false_reject, fresh_good=fresh) if found else []
    if caution := caution_of(evaluations):
        sentences.append(caution)
    return {
        "answer": verdict,
        "headline": title,
        "advice": advised,
        "threshold": score(record.value),
        "statement": record.statement,
        "budget": percent(record.false_reject),
        "sentences": [*sentences, *_differences(manifest, evaluations)],
        "rows": [
            _verdict_row(name, value, evaluations.get(name), errors.get(name)) for name, value in thresholds.items()
        ],
        "chosen": chosen,
    }


def caution_of(evaluations: Evaluations) -> str:
    """What must be said beside metrics on synthetic defects; empty where they come from photographs, or not at all."""
    return next((evaluation.caution or "" for evaluation in evaluations.values()), "")


def _differences(manifest: Manifest, evaluations: Evaluations) -> list[str]:
    """A sentence for every precision that fp32 can be compared with, or why there is none."""
    thresholds = thresholds_of(manifest)
    others = [name for name in manifest.graphs if name != REFERENCE]
    if not others:
        return ["Only fp32 was exported; segrd-export --int8 adds the faster graph and this comparison."]
    if REFERENCE not in evaluations:
        return [
            "Without test images there is nothing to compare the precisions on; their held-out scores are in section 5."
        ]
    return [
        difference_sentence(
            name,
            compare(evaluations[REFERENCE], evaluations[name], (thresholds[REFERENCE], thresholds[name])),
            synthetic=evaluations[name].is_synthetic,
        )
        for name in others
        if name in evaluations
    ]


def _verdict_row(
    precision: str, threshold: float, evaluation: Evaluation | None, found: Errors | None
) -> dict[str, str]:
    nothing = Share(0, 0)
    return {
        "precision": precision,
        "threshold": score(threshold),
        "false_rejects": share(found.false_rejects if found else nothing, "unknown"),
        "escapes": share(found.escapes if found else nothing, "unknown"),
        "image_auroc": number(evaluation.metrics.image_auroc if evaluation else None),
        "pixel_ap": number(evaluation.metrics.pixel_ap if evaluation else None),
    }


def data_section(run: Run, evaluation: Evaluation | None, photographs: Sequence[Path]) -> dict[str, Any]:
    """Counts by purpose, problems, sizes; the frame size from some of `photographs`, which may be gone."""
    synthetic = evaluation is not None and evaluation.is_synthetic
    carries = ", and carry the synthetic defects of the metrics" if synthetic else ""
    rows = [
        ("good, to train on", len(run.data["train"]), "set the weights, under synthetic defects"),
        ("good, held out", len(run.data["held_out"]), f"set the threshold{carries}; never trained on"),
    ]
    kinds = {key.removeprefix("test/"): count for key, count in run.data["counts"].items() if key.startswith("test/")}
    good_first = sorted(kinds, key=lambda kind: (kind != GOOD, kind))
    rows += [(f"{kind}, test", kinds[kind], _mask_note(kind, evaluation)) for kind in good_first]
    sizes = frame_sizes_hw(photographs[:SIZES_LOOKED_AT], run.preprocess.value_range)
    return {"rows": rows, "problems": run.data["problems"], "facts": _data_facts(run, sizes)}


def _mask_note(kind: str, evaluation: Evaluation | None) -> str:
    outside = 0 if evaluation is None else sum(photo.kind == kind for photo in evaluation.left_out)
    left_out = f"; {outside} left out: the defects lie outside the crop" if outside else ""
    if evaluation is None or evaluation.is_synthetic or (kind != GOOD and kind not in evaluation.by_kind):
        return f"not evaluated{left_out}"
    if kind == GOOD:
        return "measure false rejects"
    metrics = evaluation.by_kind[kind]
    if not metrics.images_with_mask:
        return f"no masks, so that only image metrics count them{left_out}"
    regions = plural(metrics.defect_instances, "defect region")
    missing = f"; {metrics.images_without_mask} without a mask" if metrics.images_without_mask else ""
    return f"{plural(metrics.images_with_mask, 'mask')}, {regions}{missing}{left_out}"


def _data_facts(run: Run, sizes: list[tuple[int, int]]) -> list[tuple[str, str]]:
    preprocess, config = run.preprocess, run.config
    shown = ", ".join(map(size, sizes[:4])) + (f" and {len(sizes) - 4} more" if len(sizes) > 4 else "")
    facts = [
        ("folder", config.data),
        ("layout", {"mvtec": "MVTec AD", "plain": "plain folder"}.get(run.data["layout"], run.data["layout"])),
        ("frame size", shown or "unknown: the photographs are no longer in that folder"),
        ("network size", f"{size(preprocess.size_hw)} ({preprocess.fit})"),
    ]
    if preprocess.crop_xywh:
        left, top, width, height = preprocess.crop_xywh
        facts.insert(3, ("crop", f"{size((height, width))} from x = {left}, y = {top}; nothing else is looked at"))
    if preprocess.tile_hw:
        counts = sorted({len(preprocess.grid(preprocess.placement(frame_hw).size_hw)) for frame_hw in sizes})
        shown = f"; {' or '.join(map(str, counts))} to a frame" if counts else ""
        facts.append(("tiles", f"{size(preprocess.tile_hw)} frame pixels, {preprocess.overlap:.0%} shared{shown}"))
    if len(sizes) == 1 and preprocess.fit == "stretch":
        across, down = preprocess.placement(sizes[0]).scale_xy
        shape = f"{across:.3g}" if across == down else f"{across:.3g} × {down:.3g}"
        facts.append(("one network pixel", f"covers {shape} frame pixels; smaller defects fade"))
    facts += [
        ("rotation in training", config.rotation),
        ("textures for defects", config.textures or "cut from the photographs themselves"),
        ("seed", str(config.seed)),
    ]
    return facts


def scores_section(
    run: Run, manifest: Manifest, evaluations: Evaluations, held_out: Mapping[str, list[float]]
) -> list[dict[str, str]]:
    """A histogram chart per precision, on one common axis."""
    thresholds = thresholds_of(manifest)
    separate = has_good_test_images(run) and not caution_of(evaluations)
    groups = {
        name: score_groups(held_out.get(name, []), evaluations.get(name), separate=separate) for name in manifest.graphs
    }
    everything = [scores for rows in groups.values() for _, scores in rows.values() if scores]
    axes = charts.score_axis(everything, thresholds[manifest.default_precision])
    panels = []
    for name, rows in groups.items():
        strips = [
            charts.Strip(label, scores, tone, f"{sum(s >= thresholds[name] for s in scores)} of {len(scores)}")
            for label, (tone, scores) in rows.items()
        ]
        panels.append(
            {
                "precision": name,
                "chart": charts.score_strips(strips, thresholds[name], score(thresholds[name]), axes),
                "scale": axes.kind,
            }
        )
    return panels


def has_good_test_images(run: Run) -> bool:
    """False where held-out images stand in for good test images (plain folders)."""
    return bool(run.data["counts"].get(f"test/{GOOD}"))


def missing_images(run: Run) -> str:
    """Why nothing was evaluated."""
    defects = any(key.startswith("test/") and key != f"test/{GOOD}" for key in run.data["counts"])
    return NOT_EVALUATED if defects else NO_DEFECTS


def cases_section(run: Run, manifest: Manifest, evaluations: Evaluations) -> list[dict[str, Any]]:
    """The groups of pictures, of the default precision; empty without test images."""
    chosen = manifest.default_precision
    if chosen not in evaluations:
        return []
    evaluation, threshold = evaluations[chosen], thresholds_of(manifest)[chosen]
    others = {name: {f.photo: f.score for f in other.frames} for name, other in evaluations.items() if name != chosen}

    def card(frame: FrameResult) -> dict[str, Any]:
        path = frame.photo.path
        also = ", ".join(
            f"{name} {score(scores[frame.photo])}" for name, scores in others.items() if frame.photo in scores
        )
        pictures = case_pictures(frame, run.preprocess, threshold)
        painted = "" if frame.painted_bgr_u8 is None else f"{frame.photo.kind} on "
        return {
            "pictures": pictures, "file": f"{painted}{path.parent.name}/{path.name}", "kind": frame.photo.kind,
            "score": f"{chosen} {score(frame.score)}", "also": also, **_judge(frame, threshold),
        }  # fmt: skip

    cases = choose_cases(evaluation.frames)
    hard, clear = (sum(f.score < threshold for f in group) for group in (cases.hardest, cases.clearest))
    rejected = sum(f.score >= threshold for f in cases.highest_good)
    defects, missed = ("synthetic defects", "missed defect") if evaluation.is_synthetic else ("defects", "escape")
    groups = [
        (f"Hardest {defects}", _lead(hard, f"lowest scores of all {defects}", missed), cases.hardest),
        (
            "Highest-scoring good images",
            _lead(rejected, "highest scores of all good images", "false reject"),
            cases.highest_good,
        ),
        ("Clearest detections", _lead(clear, f"highest scores of all {defects}", missed), cases.clearest),
    ]
    return [
        {"title": title, "lead": lead, "cards": [card(f) for f in frames]} for title, lead, frames in groups if frames
    ]


def _lead(wrong: int, what: str, noun: str) -> str:
    return f"The {what}; " + (
        f"{plural(wrong, noun)} among these." if wrong else f"none of them is {_article(noun)} {noun}."
    )


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _judge(frame: FrameResult, threshold: float) -> dict[str, str]:
    if frame.photo.is_defect:
        missed = "escape" if frame.painted_bgr_u8 is None else "missed"
        return (
            {"outcome": "found", "tone": "right"} if frame.score >= threshold else {"outcome": missed, "tone": "wrong"}
        )
    return (
        {"outcome": "false reject", "tone": "wrong"}
        if frame.score >= threshold
        else {"outcome": "accepted", "tone": "right"}
    )


def metrics_section(manifest: Manifest, evaluations: Evaluations) -> list[dict[str, Any]]:
    """A row per defect type and precision, all images last."""
    if not evaluations:
        return []
    thresholds = thresholds_of(manifest)
    kinds = list(next(iter(evaluations.values())).by_kind)
    rows = []
    for kind in [*kinds, None]:
        for position, (precision, evaluation) in enumerate(evaluations.items()):
            escapes = count_errors(evaluation, thresholds[precision])
            missed = escapes.escapes if kind is None else escapes.escapes_by_kind[kind]
            metrics = _metrics_of(evaluation, kind)
            reference = (
                _metrics_of(evaluations[REFERENCE], kind)
                if REFERENCE in evaluations and precision != REFERENCE
                else None
            )
            rows.append({
                "kind": kind or "all images", "first": position == 0, "span": len(evaluations), "total": kind is None,
                "precision": precision,
                "images": f"{metrics.images_good} + {metrics.images_defect}",
                "found": f"{missed.total - missed.count} of {missed.total}" if missed.total else "–",
                "cells": [_metric_cell(name, metrics, reference) for name in METRICS],
            })  # fmt: skip
    return rows


def _metrics_of(evaluation: Evaluation, kind: str | None) -> Metrics:
    return evaluation.metrics if kind is None else evaluation.by_kind[kind]


def _metric_cell(name: str, metrics: Metrics, reference: Metrics | None) -> dict[str, Any]:
    value = getattr(metrics, name)
    difference = change(getattr(reference, name), value) if reference else None
    lost = difference is not None and name in MOST_LOST and difference < -MOST_LOST[name]
    return {
        "value": number(value),
        "difference": signed(difference) if reference and value is not None else "",
        "lost": lost,
    }


def parity_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Largest differences on the golden images: of fp32 from the torch model, of the others from fp32."""
    return [
        (precision, ", ".join(f"{output} {significant(value, 2)}" for output, value in graph.parity.items()))
        for precision, graph in manifest.graphs.items()
        if graph.parity
    ]
