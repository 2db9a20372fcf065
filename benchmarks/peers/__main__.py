"""The program of this folder, see there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segrd_edge.console import console, parse_frame_size, run_command
from segrd_edge.files import write_json

from .installation import install
from .table import write_table


def command(
    bundle: Annotated[
        list[Path],
        typer.Argument(help="Bundles of one network size; the first one is what the others are held against."),
    ],
    out: Annotated[Path, typer.Option(help="The JSON file; a table is written beside it, with .md behind its name.")],
    venv: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the Python that has anomalib; made and filled where missing. Without it no anomalib."
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A run whose model is measured in eager torch as well; needs the train extra.")
    ] = None,
    frame: Annotated[str, typer.Option(help="Size of the frames, WIDTHxHEIGHT.")] = "1024x1024",
    rounds: Annotated[
        int, typer.Option(min=1, help="Interleaved rounds, two samples of each frame size in each.")
    ] = 15,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of everyone's engine.")] = 1,
) -> None:
    """Measure our Detector, anomalib, eager torch and the engines alone on the same frames."""
    from .measure import measure

    installed = None if venv is None else install(venv, console.print)
    record = measure(
        bundle,
        installed,
        run=run,
        frame_hw=parse_frame_size(frame),
        rounds=rounds,
        threads=threads,
        said=lambda line: console.print(line, markup=False),
    )
    write_json(out, record)
    console.print(f"{out} and {write_table(out)}", soft_wrap=True)


if __name__ == "__main__":
    run_command(
        command,
        name="peers",
        example="python -m segrd_edge.benchmarks.peers bottle.segrd --venv venvs/peers --out peers/bottle.json",
    )
