"""The accuracy table: train, export and evaluate every category with one equal budget, fp32 against INT8.

    python -m segrd_edge.benchmarks.accuracy ../shared/data --minutes 10 --threads 1 \
        --teacher ../shared/data/weights/resnet18_imagenet1k_bnfolded_layer1-3.pth --textures ../shared/data/textures

A cell is one category with one seed, one model and one teacher, and its budget is of processor time, all threads
together, so that other programs on the machine take nothing from it. Its result is a JSON file under `--out`, written
when the cell is done, and the table is made from whatever cells are there: an interrupted table continues where it
stopped, a cell too. To measure another export of the same trainings, delete the JSON files and keep the `--work`
folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from segrd_edge.console import console
from segrd_edge.errors import OptionError

from .candidate import write_json

CATEGORIES = ("bottle", "fabric01", "fabric02", "ball_screw", "magnetic_tile", "commutator", "metal_plate")
LATENCY_FILE = "latency.json"  # beside the cells
FRAME_HW = (1024, 1024)  # of the latency run, as segrd-bench has it
COLUMNS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "iap", "iap90", "f1")


@dataclass(frozen=True)
class Cell:
    """One training run of the table."""

    category: str
    photos: Path
    teacher: str
    seed: int
    label: str  # name of the column group: which model, teacher and head

    @property
    def name(self) -> str:
        return f"{self.label}-{self.category}-seed{self.seed}"


@dataclass(frozen=True)
class Settings:
    """What all cells of one call share."""

    model: str
    textures: Path | None
    minutes: float  # of processor time
    threads: int
    options: dict[str, Any]  # of the model
    int8: bool


def main(
    data: Annotated[Path, typer.Argument(help="Folder that holds the categories, at any depth.")],
    teacher: Annotated[str, typer.Option(help="Teacher, as segrd-train takes it.")] = "edge",
    model: Annotated[str, typer.Option(help="Model, as segrd-train takes it.")] = "destseg",
    label: Annotated[
        str | None, typer.Option(help="Name of these settings in file names and the table; default: the model's.")
    ] = None,
    textures: Annotated[Path | None, typer.Option(help="Texture folder.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Category; repeatable; default all.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; repeatable.")] = None,
    minutes: Annotated[float, typer.Option(help="Training budget of a cell, processor time.")] = 10,
    threads: Annotated[int, typer.Option(help="Processor threads of training.")] = 2,
    option: Annotated[list[str] | None, typer.Option(help="Model option NAME=VALUE; repeatable.")] = None,
    int8: Annotated[bool, typer.Option(help="Calibrate and evaluate INT8 as well.")] = True,
    out: Annotated[Path, typer.Option(help="Where results are written.")] = Path("benchmarks/results/accuracy"),
    work: Annotated[Path, typer.Option(help="Where runs and bundles are written.")] = Path("runs/accuracy"),
    latency: Annotated[
        bool, typer.Option("--latency", help="Time a bundle of every label in --out whose runs lie in --work.")
    ] = False,
) -> None:
    """Run the missing cells one after another, then write the table of all cells that are there."""
    from segrd_edge.training.cli import parse_options

    settings = Settings(model, textures, minutes, threads, parse_options(option or []), int8)
    for name in category or CATEGORIES:
        for number in seed or [0]:
            cell = Cell(name, find_category(data, name), teacher, number, label or model)
            if (out / f"{cell.name}.json").is_file():
                console.print(f"{cell.name}: done before")
                continue
            console.print(f"{cell.name}: started {time.strftime('%H:%M:%S')}")
            run_cell(cell, settings, out, work)
    if latency:
        measure_latency(out, work, threads)
    write_table(out)


def find_category(data: Path, name: str) -> Path:
    """The category's folder somewhere below `data`; OptionError where there is none."""
    found = sorted(p for p in data.rglob(name) if (p / "train").is_dir())
    if not found:
        raise OptionError(f"no category {name!r} below {data}", expected="a folder of that name in MVTec AD layout")
    return found[0]


def run_cell(cell: Cell, settings: Settings, out: Path, work: Path) -> None:
    """Train (or resume), export with the metrics of each precision, write the result."""
    import torch

    from segrd_edge.training.run import RunConfig
    from segrd_edge.training.train import default_batch

    from .candidate import make_candidate

    torch.set_num_threads(settings.threads)
    config = RunConfig(
        data=str(cell.photos),
        model=settings.model,
        teacher=cell.teacher,
        textures=str(settings.textures) if settings.textures else None,
        options=settings.options,
        minutes=settings.minutes,
        clock="processor",
        batch=default_batch(settings.minutes),
        seed=cell.seed,
    )
    made = make_candidate(config, work / cell.name, int8=settings.int8, skip_bad=True, said=console.print)
    names = {"cell": cell.name, "category": cell.category, "label": cell.label}
    write_json(out / f"{cell.name}.json", {**names, **made.record, "threads": settings.threads})


def measure_latency(out: Path, work: Path, threads: int) -> None:
    """latency.json: one bundle of every label, in one run. Which category trained it makes no difference, but for what
    of it INT8 covers.

    Raises:
        OptionError: no run of the cells in `out` lies in `work`.
    """
    from segrd_edge.bundle import Bundle

    from .candidate import BUNDLE_FILE
    from .frames import golden_frames
    from .side_by_side import measure_bundles

    cells: dict[str, dict[str, Any]] = {}  # label → the first of its cells that has a bundle
    for cell in read_cells(out):
        if (work / cell["cell"] / BUNDLE_FILE).is_file():
            cells.setdefault(cell["label"], cell)
    if not cells:
        raise OptionError(f"--latency: {work} has no bundle of a cell in {out}", fix="say with --work where they are")
    bundles = {label: work / cell["cell"] / BUNDLE_FILE for label, cell in cells.items()}
    console.print(f"measuring the latency of {', '.join(cells)} in turn")
    frames = golden_frames(Bundle.open(next(iter(bundles.values()))), FRAME_HW)
    measured = measure_bundles(bundles, frames, threads=threads)
    write_json(out / LATENCY_FILE, {"cells": {label: cell["cell"] for label, cell in cells.items()}, **measured})


def read_cells(out: Path) -> list[dict[str, Any]]:
    """The results of all cells that are there, sorted by name."""
    files = sorted(path for path in out.glob("*.json") if path.name != LATENCY_FILE)
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def write_table(out: Path) -> None:
    """table.md from the JSON files: size and latency of the models, then a row per cell and precision."""
    cells = read_cells(out)
    latency = out / LATENCY_FILE
    measured = json.loads(latency.read_text(encoding="utf-8")) if latency.is_file() else None
    lines = ["# Accuracy", "", *_models_table(cells, measured)]
    for label in sorted({cell["label"] for cell in cells}):
        lines += _label_table(label, [cell for cell in cells if cell["label"] == label])
    lines += _comparison(cells)
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _models_table(cells: Sequence[dict[str, Any]], latency: dict[str, Any] | None) -> list[str]:
    """Weights and multiply-accumulates of every label whose cells have them, and latency where it was measured."""
    models = {cell["label"]: cell["model"] for cell in cells if "model" in cell}
    if not models:
        return []
    lines = [
        "## Size and latency",
        "",
        *([latency_setting(latency), ""] if latency else []),
        "| model | million weights | GMACs | fp32, ms | int8, ms | bundle of |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for label, model in sorted(models.items()):
        size = f"{model['parameters'] / 1e6:.1f} | {model['gmacs']:.1f}"
        times = [milliseconds(latency, label, precision) for precision in ("fp32", "int8")]
        cell = latency["cells"].get(label, "–") if latency else "–"
        lines.append(f"| {label} | {size} | {times[0]} | {times[1]} | {cell} |")
    return [*lines, ""]


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
    dates = f"{min(c['date'] for c in cells)} to {max(c['date'] for c in cells)}."
    lines = [
        f"## {label}",
        "",
        f"{budget} {settings} nothing selected on the test images. {dates}",
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
    """What other settings change against the first label, where both trained the same category and seed; fp32."""
    labels = sorted({cell["label"] for cell in cells}, key=lambda label: -sum(c["label"] == label for c in cells))
    lines = []
    for label in labels[1:]:
        lines += [f"## {label} − {labels[0]}, fp32", "", _header(), _rule()]
        for cell in (c for c in cells if c["label"] == label):
            same = [
                c
                for c in cells
                if (c["label"], c["category"], c["seed"]) == (labels[0], cell["category"], cell["seed"])
            ]
            for other in same:
                pairs = [(cell["precisions"]["fp32"].get(c), other["precisions"]["fp32"].get(c)) for c in COLUMNS]
                lines.append(_row(cell, "fp32", [_difference(a, b) for a, b in pairs], sign="+"))
        lines.append("")
    return lines


def _header() -> str:
    return "| category | seed | steps | precision | " + " | ".join(COLUMNS) + " |"


def _rule() -> str:
    return "| --- | ---: | ---: | --- | " + " | ".join("---:" for _ in COLUMNS) + " |"


def _row(cell: dict[str, Any], precision: str, values: Sequence[float | None], sign: str = "") -> str:
    numbers = " | ".join("–" if v is None else f"{v:{sign}.4f}" for v in values)
    return f"| {cell['category']} | {cell['seed']} | {cell['steps']} | {precision} | {numbers} |"


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


if __name__ == "__main__":
    typer.run(main)
