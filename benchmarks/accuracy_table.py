"""The accuracy table as Markdown: what every model reaches, what INT8 changes of it, and how large and fast each is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrd_edge.export.limits import LEAST_SPEEDUP, MOST_LOST, MOST_TURNED

LATENCY_FILE = "latency.json"  # beside the cells: category → what `side_by_side.measure_bundles` found
COLUMNS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "iap", "iap90", "f1")
MOST_AUROC_LOST, MOST_AP_LOST = MOST_LOST["image_auroc"], MOST_LOST["pixel_ap"]

_WRONG = ("false_rejects", "escapes")


def read_cells(out: Path) -> list[dict[str, Any]]:
    """The results of all cells that are there, sorted by name."""
    files = sorted(path for path in out.glob("*.json") if path.name != LATENCY_FILE)
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def read_latency(out: Path) -> dict[str, Any]:
    """What LATENCY_FILE holds; empty where nothing was timed yet."""
    file = out / LATENCY_FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def write_table(out: Path) -> None:
    """table.md from the JSON files: size and latency of the models, then a row per cell and precision."""
    cells, latency = read_cells(out), read_latency(out)
    lines = ["# Accuracy", "", *_models_table(cells, latency), *_int8_table(cells, latency), *_verdicts_table(cells)]
    for label in sorted({cell["label"] for cell in cells}):
        lines += _label_table(label, [cell for cell in cells if cell["label"] == label])
    lines += _comparison(cells)
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _models_table(cells: Sequence[dict[str, Any]], latency: dict[str, Any]) -> list[str]:
    """Weights and multiply-accumulates of every label whose cells have them, and latency where it was measured: of the
    category that has most labels, and of equals of the one where least else ran."""
    models = {cell["label"]: cell["model"] for cell in cells if "model" in cell}
    if not models:
        return []
    category = max(latency, key=lambda n: (len(latency[n]["bundles"]), -latency[n]["noisy_rounds"]), default="")
    measured = latency.get(category)
    lines = [
        "## Size and latency",
        "",
        *([f"{latency_setting(measured)} Bundles of {category}.", ""] if measured else []),
        "| model | million weights | GMACs | fp32, ms | int8, ms |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for label, model in sorted(models.items()):
        size = f"{model['parameters'] / 1e6:.1f} | {model['gmacs']:.1f}"
        times = [milliseconds(measured, label, precision) for precision in ("fp32", "int8")]
        lines.append(f"| {label} | {size} | {times[0]} | {times[1]} |")
    return [*lines, ""]


def _int8_table(cells: Sequence[dict[str, Any]], latency: dict[str, Any]) -> list[str]:
    """INT8 against fp32, and which of its aims each cell misses."""
    rows = [cell for cell in cells if cell.get("int8") and "share" in cell["int8"]]
    if not rows:
        return []
    lines = [
        "## INT8 against fp32",
        "",
        f"The aims: at most {MOST_AUROC_LOST} image AUROC and {MOST_AP_LOST} pixel AP lost, at most {MOST_TURNED:.0%} "
        f"of the test images with another verdict (each precision with its own threshold), at least {LEAST_SPEEDUP} "
        "times as fast, medians of one interleaved run. Work is the share of the multiply-accumulates in INT8. Where "
        "the first calibration turned more than that, it is said what a second, for half the shift, made of it.",
        "",
        "| model | category | seed | scope | work | Δ image AUROC | Δ pixel AP | other verdicts | × as fast | misses |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for cell in rows:
        int8, before, after = cell["int8"], cell["precisions"]["fp32"], cell["precisions"]["int8"]
        changes = int8["verdict_changes"]
        auroc, ap = (_difference(after.get(name), before.get(name)) for name in ("image_auroc", "pixel_ap"))
        speedup = _speedup(latency.get(cell["category"]), cell)
        aims = {
            "image AUROC": None if auroc is None else -auroc > MOST_AUROC_LOST,
            "pixel AP": None if ap is None else -ap > MOST_AP_LOST,
            "verdicts": None if changes["test"] is None else changes["test"] > MOST_TURNED * changes["test_frames"],
            "speed": None if speedup is None else speedup < LEAST_SPEEDUP,
        }
        missed = [name if found else f"{name}: not measured" for name, found in aims.items() if found is not False]
        refused = "" if cell["default_precision"] == "int8" else " (fp32 stays the default)"
        turned = "–" if changes["test"] is None else f"{changes['test']} of {changes['test_frames']}"
        if second := int8.get("second_try"):
            taken = f"by a second try; the first turned {second['turned_before']}"
            turned += f" ({taken})" if second["is_taken"] else f" (a second try {second['turned']}, not taken)"
        fields = [
            cell["label"], cell["category"], str(cell["seed"]), int8["scope"] + refused, f"{int8['share']:.0%}",
            _signed(auroc), _signed(ap), turned, "–" if speedup is None else f"{speedup:.2f}",
            ", ".join(missed) or "none",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(fields)} |")
    return [*lines, ""]


def _verdicts_table(cells: Sequence[dict[str, Any]]) -> list[str]:
    """False rejects and escapes of the test images at the threshold of fp32, where photographs of defects say so."""
    wrong = {(cell["label"], cell["category"], cell["seed"]): cell["precisions"]["fp32"].get("wrong") for cell in cells}
    rows = [
        f"| {label} | {category} | {seed} | {' | '.join('{} of {}'.format(*found[k]) for k in _WRONG)} |"
        for (label, category, seed), found in wrong.items()
        if found
    ]
    if not rows:
        return []
    head = ["## Verdicts of fp32", "", "| model | category | seed | false rejects | escapes |"]
    return [*head, "| --- | --- | ---: | ---: | ---: |", *rows, ""]


def _speedup(latency: dict[str, Any] | None, cell: dict[str, Any]) -> float | None:
    """fp32's median over INT8's; None where not this cell's bundle was timed, but another seed's."""
    if latency is None or latency["cells"].get(cell["label"]) != cell["cell"]:
        return None
    timed = {b["precision"]: b["median_ms"] for b in latency["bundles"] if b["bundle"] == cell["label"]}
    return timed["fp32"] / timed["int8"] if {"fp32", "int8"} <= timed.keys() else None


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def latency_setting(latency: dict[str, Any]) -> str:
    """How `side_by_side.measure_bundles` measured, in a sentence."""
    cpu, sizes = latency["environment"]["cpu"], latency["frames"]["sizes_hw"]
    machine = f"{cpu['model']}, {cpu['cores']} cores"
    frames = ", ".join(f"{width}×{height}" for height, width in sizes)
    noisy = f", other programs busy in {latency['noisy_rounds']}" if latency["noisy_rounds"] else ""
    return (
        f"Median (p95) from the frame's bytes to the verdict: frames of {frames}, {latency['engine']} "
        f"{latency['engine_version']}, threads: {latency['threads']}, {latency['samples']} samples each in "
        f"{latency['rounds']} interleaved rounds{noisy}, {machine}, {latency['started'][:10]}."
    )


def milliseconds(latency: dict[str, Any] | None, label: str, precision: str) -> str:
    """Median and p95 of one bundle and precision, for a table."""
    for timed in latency["bundles"] if latency else ():
        if (timed["bundle"], timed["precision"]) == (label, precision):
            p95 = "" if timed["p95_ms"] is None else f" ({timed['p95_ms']:.1f})"
            return f"{timed['median_ms']:.1f}{p95}"
    return "–"


def _label_table(label: str, cells: Sequence[dict[str, Any]]) -> list[str]:
    first = cells[0]
    clock = " of processor time" if first.get("clock") == "processor" else ""
    budget = f"{first['minutes']:g} minutes{clock} of training on {first['threads']} thread(s) of: {first['machine']}."
    settings = f"Teacher {first['teacher']['name']}, options {first['options'] or 'published'}, last checkpoint,"
    dates = sorted({c["date"] for c in cells})
    exported = " to ".join(dates[:: max(1, len(dates) - 1)])
    lines = [
        f"## {label}",
        "",
        f"{budget} {settings} no weights selected on the test images. Exported {exported}.",
        "",
        "INT8 covers what its row names. Where it moves the score on the calibration frames beyond the limit, the "
        "bundle keeps fp32 as its default, and the INT8 row is what was refused.",
        "",
        _header(),
        _rule(),
    ]
    for cell in cells:
        precisions = cell["precisions"]
        for precision, values in precisions.items():
            lines.append(_row(cell, _described(cell, precision), [values.get(c) for c in COLUMNS]))
        if "int8" in precisions:
            change = [_difference(precisions["int8"].get(c), precisions["fp32"].get(c)) for c in COLUMNS]
            lines.append(_row(cell, "int8 − fp32", change, sign="+"))
    return [*lines, ""]


def _described(cell: dict[str, Any], precision: str) -> str:
    """The precision, what of the network it covers, and whether the bundle runs it unless told otherwise."""
    scope = f", {cell['int8']['scope']}" if precision == "int8" else ""
    return precision + scope + (" (default)" if precision == cell["default_precision"] else "")


def _comparison(cells: Sequence[dict[str, Any]]) -> list[str]:
    """What models, or other settings of one, change, where both trained the same category and seed; fp32."""
    lines = []
    for label, reference in _references(cells).items():
        others = {(c["category"], c["seed"]): c for c in cells if c["label"] == reference}
        rows = []
        for cell in (c for c in cells if c["label"] == label):
            if (other := others.get((cell["category"], cell["seed"]))) is not None:
                pairs = [(cell["precisions"]["fp32"].get(c), other["precisions"]["fp32"].get(c)) for c in COLUMNS]
                rows.append(_row(cell, "fp32", [_difference(a, b) for a, b in pairs], sign="+"))
        if rows:
            lines += [f"## {label} − {reference}, fp32", "", _header(), _rule(), *rows, ""]
    return lines


def _references(cells: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Label → the one that it is compared with: of other settings of a model, the model as it is; of models, the one
    with most cells. Cells that do not name their model are of one and the same."""
    models = {cell["label"]: cell.get("model", {}).get("name", cell["label"]) for cell in cells}
    plain = sorted((n for n in models if models[n] == n), key=lambda n: -sum(c["label"] == n for c in cells))
    references = {label: first for first in plain[:1] for label in plain[1:]}
    return references | {label: name for label, name in models.items() if label != name and name in plain}


def _header() -> str:
    return "| category | seed | steps | precision | " + " | ".join(COLUMNS) + " |"


def _rule() -> str:
    return "| --- | ---: | ---: | --- | " + " | ".join("---:" for _ in COLUMNS) + " |"


def _row(cell: dict[str, Any], precision: str, values: Sequence[float | None], sign: str = "") -> str:
    numbers = " | ".join("–" if v is None else f"{v:{sign}.4f}" for v in values)
    return f"| {cell['category']} | {cell['seed']} | {cell['steps']} | {precision} | {numbers} |"


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
