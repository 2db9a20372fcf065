"""Does memory stay flat? Inspects tens of thousands of frames with one `Detector` and watches the process grow.

    python -m segrd_edge.benchmarks.soak bottle.segrd --frames 50000

Resident memory is read at the start, after the warm-up, and so often after it. Its slope is the median of the slopes
between all pairs of readings (Theil and Sen), so that a single step or a busy moment does not count as growth. Page
faults per frame are memory that the system hands out anew for every frame, which costs time even where it is returned.

Prints one JSON object as its last line. Exit code 1: it grew by more than the limit.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from segrd_edge.bundle import Bundle
from segrd_edge.console import FOUND, OK, emit_json, new_table, parse_frame_size, print_table, run_command
from segrd_edge.detector import Detector
from segrd_edge.errors import OptionError, SegrdError

from . import environment
from .environment import rss_mib
from .frames import golden_frames

READINGS = 50


@dataclass(frozen=True)
class Soak:
    """Resident memory of the process over many frames, MiB."""

    frames: int  # after the warm-up
    warm_up: int  # frames of the warm-up
    start_mib: float
    warm_mib: float  # after the warm-up
    readings_mib: tuple[float, ...]  # evenly spread after it, the last after the last frame
    faults_per_frame: float  # page faults that read nothing from disk, after the warm-up
    frames_per_second: float

    @property
    def kib_per_1000_frames(self) -> float:
        """Slope of the readings; see the module."""
        levels = np.array((self.warm_mib, *self.readings_mib)) * 1024
        earlier, later = np.triu_indices(len(levels), 1)
        slopes = (levels[later] - levels[earlier]) / (later - earlier)
        return float(np.median(slopes)) * len(self.readings_mib) / self.frames * 1000

    @property
    def grown_mib(self) -> float:
        """What the slope comes to over all frames."""
        return self.kib_per_1000_frames * self.frames / 1000 / 1024

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "kib_per_1000_frames": self.kib_per_1000_frames, "grown_mib": self.grown_mib}


def soak(detector: Detector, frames: Sequence[npt.NDArray[Any]], count: int, warm_up: int) -> Soak:
    """Inspect `warm_up` and then `count` frames, the given ones in turn; nothing is kept of the inspections.

    Raises:
        OptionError: fewer than one frame per reading, or no warm-up.
        SegrdError: the system does not say how much memory the process has.
        As `Detector.inspect`.
    """
    if count < READINGS or warm_up < 1:
        raise OptionError(f"{count} frames after {warm_up}", expected=f"at least {READINGS} after at least 1")
    supply = cycle(frames)
    start_mib = _memory_mib()
    _inspect(detector, islice(supply, warm_up))
    warm_mib, faults, start = _memory_mib(), _page_faults(), perf_counter()
    readings = []
    for number in range(READINGS):
        _inspect(detector, islice(supply, count * (number + 1) // READINGS - count * number // READINGS))
        readings.append(_memory_mib())
    seconds = perf_counter() - start
    per_frame = (_page_faults() - faults) / count
    return Soak(count, warm_up, start_mib, warm_mib, tuple(readings), per_frame, count / seconds)


def command(
    bundle: Annotated[Path, typer.Argument(help="The .segrd file.", show_default=False)],
    frames: Annotated[int, typer.Option(help="Frames after the warm-up.")] = 50_000,
    warm_up: Annotated[int, typer.Option(help="Frames before the first reading that counts.")] = 2_000,
    frame: Annotated[str, typer.Option(help="Size of the frames, WIDTHxHEIGHT.")] = "1024x1024",
    engine: Annotated[str, typer.Option(help="Engine.")] = "auto",
    precision: Annotated[str, typer.Option(help="Precision.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of the engine.")] = None,
    limit_mib: Annotated[float, typer.Option(min=0, help="Growth over all frames above which the exit code is 1.")] = 2,
) -> int:
    """Inspect frame after frame and watch the memory of the process."""
    opened = Bundle.open(bundle)
    supply = golden_frames(opened, parse_frame_size(frame)).frames
    with Detector(opened, engine=engine, precision=precision, threads=threads) as detector:
        result = soak(detector, supply, frames, warm_up)
        run = {"bundle": bundle.name, "engine": detector.engine, "precision": detector.precision, "frame": frame}
    grew = result.grown_mib > limit_mib
    table = new_table(f"{bundle.name} on {run['engine']} {run['precision']}, {frames} frames of {frame}", "", "")
    table.add_row("memory at the start, MiB", f"{result.start_mib:.1f}")
    table.add_row(f"after {warm_up} frames", f"{result.warm_mib:.1f}")
    for number in range(READINGS // 5 - 1, READINGS, READINGS // 5):
        table.add_row(f"{frames * (number + 1) // READINGS} frames later", f"{result.readings_mib[number]:.1f}")
    table.add_row("slope, KiB per 1000 frames", f"{result.kib_per_1000_frames:.2f}")
    table.add_row(f"grown, MiB (limit {limit_mib:g})", f"{result.grown_mib:.2f}", style="red" if grew else "")
    table.add_row("page faults per frame", f"{result.faults_per_frame:.2f}")
    table.add_row("frames per second", f"{result.frames_per_second:.1f}")
    print_table(table)
    facts = {"date": time.strftime("%Y-%m-%d"), "threads": threads, "environment": environment.describe()}
    emit_json({**run, **result.to_dict(), "limit_mib": limit_mib, "grew": grew, **facts})
    return FOUND if grew else OK


def _inspect(detector: Detector, frames: Any) -> None:
    for frame in frames:
        detector.inspect(frame)


def _memory_mib() -> float:
    found = rss_mib()
    if found is None:
        raise SegrdError("the system does not say how much memory the process has", expected="Linux, with /proc")
    return found


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    run_command(
        command,
        name="python -m segrd_edge.benchmarks.soak",
        example="python -m segrd_edge.benchmarks.soak bottle.segrd --frames 50000",
    )
