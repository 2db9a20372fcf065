"""The accuracy table: train, export and evaluate every category with one equal budget, fp32 against INT8.

    python -m segrd_edge.benchmarks.accuracy ../shared/data --minutes 8 --threads 1 \
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
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from segrd_edge.console import console
from segrd_edge.errors import OptionError
from segrd_edge.files import write_json
from segrd_edge.preprocess import Preprocess

from .accuracy_table import LATENCY_FILE, read_cells, read_latency, write_table
from .candidate import BUNDLE_FILE

CATEGORIES = ("bottle", "fabric01", "fabric02", "ball_screw", "magnetic_tile", "commutator", "metal_plate")


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
    preprocess: Preprocess
    int8: bool


def main(
    data: Annotated[Path, typer.Argument(help="Folder that holds the categories, at any depth.")],
    teacher: Annotated[str, typer.Option(help="Teacher, as segrd-train takes it.")] = "edge",
    model: Annotated[
        list[str] | None, typer.Option(help="Model, as segrd-train takes it; repeatable; default all.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Name of these settings of one model in file names and the table; default: the model's."),
    ] = None,
    textures: Annotated[Path | None, typer.Option(help="Texture folder.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Category; repeatable; default all.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; repeatable.")] = None,
    minutes: Annotated[float, typer.Option(help="Training budget of a cell, processor time.")] = 10,
    threads: Annotated[int, typer.Option(help="Processor threads of training.")] = 2,
    size: Annotated[str, typer.Option(help="Network size, as segrd-train takes it.")] = "256",
    tile: Annotated[str | None, typer.Option(help="Side of tiles, as segrd-train takes it.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="MODEL.NAME=VALUE, e.g. destseg.head_width=64; repeatable.")
    ] = None,
    int8: Annotated[bool, typer.Option(help="Calibrate and evaluate INT8 as well.")] = True,
    out: Annotated[Path, typer.Option(help="Where results are written.")] = Path("benchmarks/results/accuracy"),
    work: Annotated[Path, typer.Option(help="Where runs and bundles are written.")] = Path("runs/accuracy"),
    latency: Annotated[
        bool,
        typer.Option("--latency", help="Train nothing: time the bundles in --work of the cells in --out."),
    ] = False,
) -> None:
    """Run the missing cells one after another, or time those that are there; then write the table of all of them."""
    if latency:
        measure_latency(out, work, threads, category)
        write_table(out)
        return
    from segrd_edge.training.cli import parse_preprocess
    from segrd_edge.training.models import MODELS

    from .compare_cli import options_by_model

    models = list(dict.fromkeys(model or MODELS))
    if label is not None and len(models) > 1:
        raise OptionError(f"--label {label} with {len(models)} models", expected="one --model: it names its settings")
    options = options_by_model(option or [], models)
    preprocess = parse_preprocess(size, "stretch", None, None, tile, Preprocess().overlap)
    for trained, name, number in product(models, category or CATEGORIES, seed or [0]):
        cell = Cell(name, find_category(data, name), teacher, number, label or trained)
        settings = Settings(trained, textures, minutes, threads, options[trained], preprocess, int8)
        if is_done(cell, settings, out):
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


def is_done(cell: Cell, settings: Settings, out: Path) -> bool:
    """Whether the cell's result is there; OptionError where it is one of other settings."""
    file = out / f"{cell.name}.json"
    if not file.is_file():
        return False
    found = json.loads(file.read_text(encoding="utf-8"))
    tile_hw = settings.preprocess.tile_hw
    asked = {
        "minutes": settings.minutes,
        "options": settings.options,
        "size_hw": list(settings.preprocess.size_hw),
        "tile_hw": None if tile_hw is None else list(tile_hw),
        "teacher": Path(cell.teacher).name,
        "int8": settings.int8,
    }
    teacher = found["teacher"]["name"]
    if cell.teacher == "imagenet" and teacher.startswith("imagenet-"):  # it is recorded with its backbone
        teacher = cell.teacher
    made = {**found, "teacher": teacher, "int8": "int8" in found["precisions"]}
    if other := [f"{name} {made[name]} and not {value}" for name, value in asked.items() if made[name] != value]:
        raise OptionError(
            f"{file} was made with {', '.join(other)}",
            expected="cells of the same settings in one table",
            fix="give another --out or --label, or delete that file",
        )
    return True


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
        preprocess=settings.preprocess,
        minutes=settings.minutes,
        clock="processor",
        batch=default_batch(settings.model, settings.minutes),
        seed=cell.seed,
    )
    made = make_candidate(config, work / cell.name, int8=settings.int8, skip_bad=True, said=console.print)
    names = {"cell": cell.name, "category": cell.category, "label": cell.label}
    write_json(out / f"{cell.name}.json", {**names, **made.record, "threads": settings.threads})


def measure_latency(out: Path, work: Path, threads: int, categories: Sequence[str] | None = None) -> None:
    """latency.json: the bundles of a category in one interleaved run, one category after the other.

    Args:
        categories: measured anew, those of others stay as they are; None is all that have a bundle.

    Raises:
        OptionError: no run of the cells in `out` lies in `work`.
    """
    from segrd_edge.bundle import Bundle

    from .frames import choose_frames
    from .side_by_side import measure_bundles

    cells: dict[str, dict[str, str]] = {}  # category → label → its first cell that has a bundle
    for cell in read_cells(out):
        is_asked = categories is None or cell["category"] in categories
        if is_asked and (work / cell["cell"] / BUNDLE_FILE).is_file():
            cells.setdefault(cell["category"], {}).setdefault(cell["label"], cell["cell"])
    if not cells:
        of = "" if categories is None else f" of {' or '.join(categories)}"
        what = f"--latency: {work} has no bundle of a cell{of} in {out}"
        raise OptionError(what, fix="say with --work where they are")
    measured = read_latency(out)
    for category, names in cells.items():
        console.print(f"measuring the latency of {category}: {', '.join(names)} in turn")
        paths = {label: work / name / BUNDLE_FILE for label, name in names.items()}
        frames = choose_frames(Bundle.open(next(iter(paths.values()))))
        measured[category] = {"cells": names, **measure_bundles(paths, frames, threads=threads)}
        write_json(out / LATENCY_FILE, measured)


if __name__ == "__main__":
    typer.run(main)
