"""`segrd-compare`: which model is best for a part, on photographs of that part."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from segrd_edge.console import console, emit_json, json_option, new_table, parse_frame_size, print_table
from segrd_edge.errors import OptionError

_METRICS = {"image_auroc": "image AUROC", "pixel_ap": "pixel AP", "aupro": "AU-PRO"}


def command(
    photos: Annotated[Path, typer.Argument(help="Photographs, as segrd-train takes them.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the comparison: runs, bundles, reports and compare.html.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to compare, or MODEL:PROFILE, e.g. adps:fast; repeatable; default all."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Training of each model; default 8.")] = None,
    steps: Annotated[int | None, typer.Option(help="Train each model for so many steps instead.")] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Budget from a frame's bytes to the verdict; default is none.")
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="Size of the frames to time with, WIDTHxHEIGHT; default the photographs' own.")
    ] = None,
    size: Annotated[str, typer.Option(help="Network size: 256, or HEIGHTxWIDTH.")] = "256",
    fit: Annotated[str, typer.Option(help="stretch or letterbox.")] = "stretch",
    crop: Annotated[
        str | None, typer.Option(help="LEFT,TOP,WIDTH,HEIGHT of what is looked at, in frame pixels.")
    ] = None,
    tile: Annotated[str | None, typer.Option(help="Side of tiles in frame pixels, or HEIGHTxWIDTH.")] = None,
    overlap: Annotated[float, typer.Option(help="Share of a tile that neighbours have in common.")] = 0.25,
    rotation: Annotated[str, typer.Option(help="Turn training images, as segrd-train does.")] = "none",
    foreground: Annotated[bool, typer.Option(help="Keep synthetic defects on an object, as segrd-train does.")] = True,
    value_range: Annotated[
        str | None, typer.Option("--range", help="BLACK:WHITE of 16-bit images, e.g. 0:4095.")
    ] = None,
    teacher: Annotated[str, typer.Option(help="Teacher, as segrd-train takes it.")] = "edge",
    backbone: Annotated[str, typer.Option(help="resnet18, resnet34 or wide_resnet50_2.")] = "resnet18",
    defects: Annotated[str | None, typer.Option(help="Synthetic defects; default each model's own.")] = None,
    textures: Annotated[Path | None, typer.Option(help="Texture folder; default: the images.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Images per step; default is the published batch (32 or 16), or 4 with --minutes on a CPU."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="MODEL.NAME=VALUE, MODEL as given to --model, e.g. destseg.head_width=64; repeatable."),
    ] = None,
    false_reject: Annotated[str, typer.Option(help="Budget of good parts called defective.")] = "0.5%",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of training and of the engine.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without files the data check refuses.")] = False,
    json: Annotated[bool, json_option] = False,
) -> None:
    """Train, export and time several models on your photographs, and say which is best for them. The same command again
    goes on where it was stopped."""
    from segrd_edge.training.cli import one_of, parse_preprocess, training_progress
    from segrd_edge.training.models import MODELS
    from segrd_edge.training.run import RunConfig
    from segrd_edge.training.threshold import parse_rate
    from segrd_edge.training.train import default_batch

    from .compare import PAGE_FILE, Progress, compare

    if minutes is None and steps is None:
        minutes = 8.0
    config = RunConfig(
        data=str(photos),
        backbone=backbone,
        teacher=teacher,
        defects=defects,
        textures=str(textures) if textures else None,
        foreground=foreground,
        rotation=one_of("--rotation", rotation, ("none", "small", "full")),
        preprocess=parse_preprocess(size, fit, value_range, crop, tile, overlap),
        minutes=minutes,
        steps=steps,
        seed=seed,
        false_reject=parse_rate(false_reject),
    )
    entries = list(dict.fromkeys(model or MODELS))
    options = options_by_model(option or [], entries)
    summary = compare(
        {
            entry.replace(":", "-"): replace(
                config,
                model=(name := entry.partition(":")[0]),
                batch=batch or default_batch(name, minutes),
                options={**_own_options(entry, minutes), **options[entry]},
            )
            for entry in entries
        },
        out,
        latency_ms=latency_ms,
        frame_hw=None if frame is None else parse_frame_size(frame),
        threads=threads,
        skip_bad=skip_bad,
        command=shlex.join(["segrd-compare", *sys.argv[1:]]),
        progress=Progress(lambda line: console.print(line, markup=False), training_progress),
    )
    _show(summary, as_json=json)
    console.print(summary["recommendation"]["headline"], style="bold", markup=False)
    console.print(f"page: {out / PAGE_FILE}", markup=False, soft_wrap=True)
    if json:
        emit_json(summary)


def _own_options(entry: str, minutes: float | None) -> dict[str, Any]:
    """Those of MODEL:PROFILE, or of MODEL what segrd-train takes."""
    from segrd_edge.training.models import profile_options
    from segrd_edge.training.train import default_options

    name, has_profile, profile = entry.partition(":")
    return profile_options(name, profile) if has_profile else default_options(name, minutes)


def options_by_model(texts: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """MODEL.NAME=VALUE options → the options of every model in `names`.

    Raises:
        OptionError: another form, or a model that is not compared.
    """
    from segrd_edge.training.cli import parse_options

    options: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in texts:
        name, found, rest = text.partition(".")
        if not found or "=" in name:
            raise OptionError(
                f"--option {text}", expected="MODEL.NAME=VALUE", fix="for example --option destseg.head_width=64"
            )
        if name not in options:
            raise OptionError(f"--option {text}: {name} is not compared", expected="one of " + ", ".join(names))
        options[name] |= parse_options([rest])
    return options


def _show(summary: dict[str, Any], *, as_json: bool) -> None:
    from .figures import ms

    table = new_table(
        f"comparison on {summary['photos']}", "model", "precision", *_METRICS.values(), "median ms", "p95"
    )
    for timed in summary["latency"]["bundles"]:
        reached = summary["models"][timed["bundle"]]["precisions"][timed["precision"]]
        cells = ["–" if reached.get(name) is None else f"{reached[name]:.4f}" for name in _METRICS]
        table.add_row(timed["bundle"], timed["precision"], *cells, ms(timed["median_ms"]), ms(timed["p95_ms"]))
    print_table(table, as_json=as_json)
