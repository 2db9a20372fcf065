"""`segrd-train` and `segrd-eval`."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.progress import BarColumn, Progress, TextColumn

from segrd_edge.console import console, emit_json, json_option, new_table, parse_ints, print_table, track
from segrd_edge.errors import OptionError

if TYPE_CHECKING:
    from .fit import StepReport

METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "iap", "iap90", "f1")


def train(
    photos: Annotated[Path, typer.Argument(help="Photographs of good parts: MVTec AD layout or a plain folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the run to write.")],
    model: Annotated[
        str, typer.Option(help="Model to train: adps, destseg, segrdpp, nferd, rbd, rd, rdpp or stfpm.")
    ] = "adps",
    minutes: Annotated[float | None, typer.Option(help="Train for so many minutes.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Train for so many steps, by the published recipe. Default: as long as the model's paper."),
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="edge (shipped), imagenet (downloaded), or a state dict's path.")
    ] = "edge",
    backbone: Annotated[str, typer.Option(help="resnet18, resnet34 or wide_resnet50_2.")] = "resnet18",
    defects: Annotated[
        str | None, typer.Option(help="Synthetic defects: perlin, nsa, simplex, or several with commas between.")
    ] = None,
    textures: Annotated[
        Path | None, typer.Option(help="Texture folder for synthetic defects; default: the images.")
    ] = None,
    size: Annotated[str, typer.Option(help="Network size: 256, or HEIGHTxWIDTH.")] = "256",
    fit: Annotated[str, typer.Option(help="stretch or letterbox.")] = "stretch",
    crop: Annotated[
        str | None, typer.Option(help="Look at this part of every frame only: LEFT,TOP,WIDTH,HEIGHT in its pixels.")
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            help="For large frames: cut them into tiles of so many of their pixels, SIDE or HEIGHTxWIDTH, each shown "
            "at --size."
        ),
    ] = None,
    overlap: Annotated[float, typer.Option(help="Share of a tile that neighbours have in common.")] = 0.25,
    rotation: Annotated[str, typer.Option(help="Turn training images: none, small (5 degrees) or full.")] = "none",
    foreground: Annotated[
        bool, typer.Option(help="Keep synthetic defects on an object before a plain background.")
    ] = True,
    value_range: Annotated[
        str | None, typer.Option("--range", help="BLACK:WHITE of 16-bit images, e.g. 0:4095.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Images per step; default is the published batch (32 or 16), or 4 with --minutes on a CPU."),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Size of what judges, of adps, destseg and segrdpp: accurate (published), balanced or fast. Default "
            "accurate; with --minutes balanced for destseg and segrdpp."
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Model option NAME=VALUE, e.g. head_width=128; repeatable.")
    ] = None,
    false_reject: Annotated[str, typer.Option(help="Budget of good parts called defective.")] = "0.5%",
    held_out: Annotated[float, typer.Option(help="Share of the good images that sets the threshold.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that make samples.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the unfinished run in --out.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Train without the files the data check refuses.")
    ] = False,
    json: Annotated[bool, json_option] = False,
) -> None:
    """Train a detector from photographs of good parts only."""
    from .models import profile_options
    from .run import RunConfig
    from .threshold import parse_rate
    from .train import default_batch, default_options
    from .train import train as train_run

    config = RunConfig(
        data=str(photos),
        model=model,
        backbone=backbone,
        options={
            **(profile_options(model, profile) if profile else default_options(model, minutes)),
            **parse_options(option or []),
        },
        teacher=teacher,
        defects=defects,
        textures=str(textures) if textures else None,
        foreground=foreground,
        rotation=one_of("--rotation", rotation, ("none", "small", "full")),
        preprocess=parse_preprocess(size, fit, value_range, crop, tile, overlap),
        steps=steps,
        minutes=minutes,
        batch=batch or default_batch(model, minutes),
        seed=seed,
        held_out=held_out,
        false_reject=parse_rate(false_reject),
        workers=workers,
    )
    with training_progress() as listener:
        run = train_run(config, out, resume=resume, skip_bad=skip_bad, listener=listener, said=console.print)
    assert run is not None  # stop_after is not given
    summary = {
        "run": str(out),
        **run.record,
        "threshold": run.threshold["value"],
        "statement": run.threshold["statement"],
    }
    table = new_table(f"run {out}", "figure", "value")
    for key in ("steps", "seconds", "threshold", "statement"):
        table.add_row(key, f"{summary[key]:.4g}" if isinstance(summary[key], float) else str(summary[key]))
    print_table(table, as_json=json)
    if json:
        emit_json(summary)


def evaluate(
    model: Annotated[Path, typer.Argument(help="A run's folder or a .segrd bundle.")],
    photos: Annotated[Path, typer.Argument(help="Photographs to evaluate on, with defect folders.")],
    synthetic: Annotated[
        bool,
        typer.Option("--synthetic", help="Without defect photographs: synthetic defects on the held-out good images."),
    ] = False,
    precision: Annotated[str, typer.Option(help="Precision of a bundle: auto, fp32 or int8.")] = "auto",
    engine: Annotated[str, typer.Option(help="Engine of a bundle: auto, openvino or onnxruntime.")] = "auto",
    json: Annotated[bool, json_option] = False,
) -> None:
    """Measure a run or a bundle on a folder of photographs, per defect type."""
    from .evaluate import evaluate as evaluate_model

    result = evaluate_model(
        model,
        photos,
        synthetic=synthetic,
        precision=precision,
        engine=engine,
        track=lambda items: track(items, "evaluating", len(items)),
    )
    for remark in (result.notice, result.caution):
        if remark:
            console.print(remark, markup=False, soft_wrap=True)
    title = f"{model} on {result.source}, {photos}" if synthetic else f"{model} on {photos}"
    table = new_table(title, "kind", *METRICS, "images")
    rows = {**result.by_kind, "all": result.metrics}
    for kind, metrics in rows.items():
        values = metrics.to_dict()
        cells = ["–" if values[m] is None else f"{values[m]:.4f}" for m in METRICS]
        table.add_row(kind, *cells, f"{values['images_good']} + {values['images_defect']}")
    print_table(table, as_json=json)
    if json:
        emit_json({"model": str(model), "photos": str(photos), **result.to_dict()})


def parse_preprocess(
    size: str, fit: str, value_range: str | None, crop: str | None, tile: str | None, overlap: float
) -> Any:
    """The preprocessing that the options describe."""
    from segrd_edge.preprocess import Preprocess

    sides = parse_ints("--size", size, 2 if "x" in size else 1, "x", "256x640")
    tile_sides = parse_ints("--tile", tile, 2 if "x" in tile else 1, "x", "512x640") if tile else None
    limits = parse_ints("--range", value_range, 2, ":", "0:4095") if value_range else None
    crop_xywh = parse_ints("--crop", crop, 4, ",", "100,0,1800,1800") if crop else None
    return Preprocess(
        size_hw=(sides[0], sides[-1]),
        fit=cast(Any, fit),
        value_range=cast(Any, limits),
        crop_xywh=cast(Any, crop_xywh),
        tile_hw=(tile_sides[0], tile_sides[-1]) if tile_sides else None,
        overlap=overlap,
    )


def parse_options(options: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; values are read as JSON where they can be, else as text."""
    parsed: dict[str, Any] = {}
    for text in options:
        name, found, value = text.partition("=")
        if not found or not name:
            raise OptionError(f"--option {text}", expected="NAME=VALUE", fix="for example --option head_width=128")
        try:
            parsed[name] = json_module.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def one_of(option: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise OptionError(f"{option} {value}", expected="one of " + ", ".join(choices))
    return value


@contextmanager
def training_progress() -> Iterator[Callable[[StepReport], None]]:
    """A bar per phase with the loss and the time left; a line per tenth of a phase where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[news]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}
        told: dict[str, int] = {}

        def listen(report: StepReport) -> None:
            news = f"step {report.step}  loss {report.loss:.3f}  {report.seconds_left:.0f} s left"
            title = f"phase {report.phase_number}/{report.phases} {report.phase}"
            if report.phase not in tasks:
                tasks[report.phase] = progress.add_task(title, total=1.0, news="")
            progress.update(tasks[report.phase], completed=report.progress, news=news)
            if not console.is_terminal and told.get(report.phase, -1) < int(report.progress * 10):
                told[report.phase] = int(report.progress * 10)
                console.print(f"{title}: {report.progress:4.0%}  {news}")

        yield listen
