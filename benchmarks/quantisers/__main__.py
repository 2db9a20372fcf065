"""The program of this folder, see there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segrd_edge.console import console, run_command
from segrd_edge.files import write_json

from .table import write_table
from .tools import TOOLS


def command(
    run: Annotated[Path, typer.Argument(help="Folder that segrd-train wrote.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The JSON file; table.md beside it is made of all that are there.")],
    data: Annotated[Path | None, typer.Option(help="The photographs; default: where training found them.")] = None,
    tool: Annotated[list[str] | None, typer.Option(help=f"{', '.join(TOOLS)}; repeatable; default all.")] = None,
    frames: Annotated[int, typer.Option(help="Calibration frames.")] = 64,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds of the latency measurement; 0: none.")] = 8,
    threads: Annotated[int, typer.Option(help="Threads of an engine while latency is measured; 0: its own.")] = 0,
    modelopt_python: Annotated[Path | None, typer.Option(help="A Python that has nvidia-modelopt.")] = None,
    nncf_python: Annotated[Path | None, typer.Option(help="A Python that has nncf.")] = None,
) -> None:
    """Quantise a run's graph with several tools and compare the results."""
    from segrd_edge.training.run import Run

    from .compare import Part, compare

    named = {"modelopt": modelopt_python, "nncf": nncf_python}
    for record in compare(
        Part.of(Run.load(run), data, frames),
        tool or list(TOOLS),
        pythons={name: path for name, path in named.items() if path},
        rounds=rounds,
        threads=threads or None,
        said=console.print,
    ):
        write_json(out, record)
    console.print(f"{out} and {write_table(out.parent)}", soft_wrap=True)


if __name__ == "__main__":
    run_command(
        command,
        name="quantisers",
        example="python -m segrd_edge.benchmarks.quantisers runs/bottle --out quantisers/bottle.json",
    )
