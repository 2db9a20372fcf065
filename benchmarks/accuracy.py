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

from segrd_edge import machine
from segrd_edge.console import console
from segrd_edge.errors import OptionError

CATEGORIES = ("bottle", "fabric01", "fabric02", "ball_screw", "magnetic_tile", "commutator", "metal_plate")
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

    from segrd_edge.export.bundle import export_bundle
    from segrd_edge.training.run import Run, RunConfig
    from segrd_edge.training.train import default_batch, train

    torch.set_num_threads(settings.threads)
    folder = work / cell.name
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
    if not (folder / "threshold.json").is_file():
        train(config, folder, resume=(folder / "config.json").is_file(), skip_bad=True)
    run = Run.load(folder)
    exported = export_bundle(run, folder / "part.segrd", int8=settings.int8, said=console.print)
    result = {
        "cell": cell.name,
        "category": cell.category,
        "label": cell.label,
        "model": exported.manifest.model.model_dump(include={"name", "parameters", "gmacs"}),
        "seed": cell.seed,
        "minutes": settings.minutes,
        "clock": "processor",
        "threads": settings.threads,
        "options": settings.options,
        "teacher": run.record["teacher"],
        "steps": run.record["steps"],
        "good_images": len(run.data["train"]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": "{model}, {cores} cores".format(**machine.cpu()),
        "precisions": {
            precision: {
                "threshold": graph.threshold.value,
                "escape_rate": graph.threshold.escape_rate,
                **(graph.metrics or {}),
            }
            for precision, graph in exported.manifest.graphs.items()
        },
        "default_precision": exported.manifest.default_precision,
        "int8": None
        if exported.calibration is None
        else {"scope": exported.calibration.scope, **exported.calibration.drift.to_dict()},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{cell.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def write_table(out: Path) -> None:
    """table.md from the JSON files of all cells: one row per cell and precision, then INT8 minus fp32."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    lines = ["# Accuracy", ""]
    for label in sorted({cell["label"] for cell in cells}):
        lines += _label_table(label, [cell for cell in cells if cell["label"] == label])
    lines += _comparison(cells)
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


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
