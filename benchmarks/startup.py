"""How long a line program takes from its start to the first verdict.

    python -m segrd_edge.benchmarks.startup bottle.segrd

Every start is a process of its own: importing the Detector, opening the bundle, inspecting the first frame. The first
start of a graph on a machine compiles it, later ones read back what was compiled (`engines.openvino_cache`); both are
measured, in turn, with cache folders of the measurement's own. What the interpreter takes by itself is not counted.

Prints one JSON object as its last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from segrd_edge.bundle import Bundle
from segrd_edge.console import OK, emit_json, new_table, parse_frame_size, print_table, run_command
from segrd_edge.errors import SegrdError

from . import environment

STAGES = ("import", "open", "first", "total")
_PROGRAM = """
import json, sys, time
began = time.perf_counter()
from segrd_edge import Detector
imported = time.perf_counter()
bundle, engine, precision, threads, height, width = sys.argv[1:]
detector = Detector(bundle, engine=engine, precision=precision, threads=int(threads) or None)
opened = time.perf_counter()
import numpy
inspection = detector.inspect(numpy.full((int(height), int(width), 3), 127, numpy.uint8))
done = time.perf_counter()
stages = {"import": imported - began, "open": opened - imported, "first": done - opened, "total": done - began}
ms = {name: seconds * 1e3 for name, seconds in stages.items()}
print(json.dumps({"ms": ms, "engine": detector.engine, "precision": detector.precision}))
detector.close()
"""


@dataclass(frozen=True)
class Start:
    """One start of a program, durations in ms by stage."""

    kind: str  # "compiles", or "reads back"
    ms: dict[str, float]
    engine: str
    precision: str


def measure(
    bundle: Path, frame_hw: tuple[int, int], *, engine: str, precision: str, threads: int | None, rounds: int
) -> list[Start]:
    """Start programs: in every round one that compiles, and one that reads back what that one kept.

    Raises:
        SegrdError: a program failed; the message is its own.
    """
    Bundle.open(bundle)  # refused here rather than in a program; and its pages are in memory for every start
    arguments = [str(bundle), engine, precision, str(threads or 0), *map(str, frame_hw)]
    return [start for _ in range(rounds) for start in _round(arguments)]


def _round(arguments: list[str]) -> Iterator[Start]:
    with TemporaryDirectory() as folder:
        for kind in ("compiles", "reads back"):
            done = subprocess.run(
                [sys.executable, "-c", _PROGRAM, *arguments],
                env={**os.environ, "SEGRD_CACHE": folder},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SegrdError(f"a start failed: {done.stderr.rpartition('Error: ')[2].strip()}")
            yield Start(kind, **json.loads(done.stdout.splitlines()[-1]))


def medians(starts: list[Start]) -> dict[str, dict[str, float]]:
    """Kind of start → stage → median in ms."""
    kinds = dict.fromkeys(start.kind for start in starts)
    return {
        kind: {stage: float(np.median([s.ms[stage] for s in starts if s.kind == kind])) for stage in STAGES}
        for kind in kinds
    }


def command(
    bundle: Annotated[Path, typer.Argument(help="The .segrd file.", show_default=False)],
    frame: Annotated[str, typer.Option(help="Size of the first frame, WIDTHxHEIGHT.")] = "1024x1024",
    engine: Annotated[str, typer.Option(help="Engine.")] = "auto",
    precision: Annotated[str, typer.Option(help="Precision.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of the engine.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Starts of each kind.")] = 5,
) -> int:
    """Start line programs and show where the time until the first verdict goes."""
    starts = measure(
        bundle, parse_frame_size(frame), engine=engine, precision=precision, threads=threads, rounds=rounds
    )
    found = medians(starts)
    run = {"bundle": bundle.name, "engine": starts[0].engine, "precision": starts[0].precision, "frame": frame}
    title = f"{bundle.name} on {run['engine']} {run['precision']}: a start, ms (medians of {rounds})"
    table = new_table(title, "", *(f"{kind} the graph" for kind in found))
    for stage, label in zip(STAGES, ("import", "open the bundle", "first frame", "to the first verdict"), strict=True):
        table.add_row(label, *(f"{found[kind][stage]:.0f}" for kind in found))
    print_table(table)
    emit_json({**run, "rounds": rounds, "median_ms": found, "environment": environment.describe()})
    return OK


if __name__ == "__main__":
    run_command(
        command,
        name="python -m segrd_edge.benchmarks.startup",
        example="python -m segrd_edge.benchmarks.startup bottle.segrd",
    )
