"""What the resize costs: `Preprocess.resize` beside OpenCV's area averaging of the whole frame, for colour and grey.

    python -m segrd_edge.benchmarks.resize 1024x1024 2448x2048 --size 256 --threads 1

Frames are noise, because time does not depend on what they show. The two take turns; the figures are the least of all
turns, which other programs cannot make smaller, and the largest difference of any pixel, in grey levels.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Annotated, Any

import cv2
import numpy as np
import typer

from segrd_edge import machine
from segrd_edge.console import console, emit_json, json_option, new_table, parse_frame_size, print_table, run_command
from segrd_edge.preprocess import Preprocess

FRAMES = ("1024x1024", "1920x1200", "2048x2048", "2448x2048", "2592x1944", "4096x3000")


def command(
    frames: Annotated[list[str] | None, typer.Argument(help="WIDTHxHEIGHT of frames.", show_default=False)] = None,
    size: Annotated[int, typer.Option(help="Network size.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="OpenCV's threads.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 30,
    json: Annotated[bool, json_option] = False,
) -> None:
    """Time the resize of frames of several sizes."""
    kept = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        rows = [
            measure(parse_frame_size(frame), channels, size, rounds)
            for frame in frames or FRAMES
            for channels in (3, 1)
        ]
    finally:
        cv2.setNumThreads(kept)
    table = new_table(
        f"resize to {size}×{size}, {threads} thread(s), ms", "frame", "plain", "segrd-edge", "pixels differ"
    )
    for row in rows:
        kind = "colour" if row["channels"] == 3 else "grey"
        name = "{1}×{0}".format(*row["frame_hw"])
        table.add_row(f"{name} {kind}", f"{row['plain_ms']:.2f}", f"{row['ours_ms']:.2f}", str(row["most_differing"]))
    print_table(table, as_json=json)
    if json:
        cpu = "{model}, {cores} cores".format(**machine.cpu())
        emit_json({"machine": cpu, "opencv": cv2.__version__, "threads": threads, "size": size, "rows": rows})
    else:
        console.print("{model}, {cores} cores".format(**machine.cpu()), markup=False)


def measure(frame_hw: tuple[int, int], channels: int, size: int, rounds: int) -> dict[str, Any]:
    """Least durations in ms, and how far the pixels of the two are apart."""
    frame = np.random.default_rng(0).integers(0, 256, (*frame_hw, 3)[: 2 + (channels == 3)], np.uint8)
    preprocess = Preprocess((size, size))

    def plain() -> Any:
        small = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
        return small if channels == 3 else cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)

    def ours() -> Any:
        return preprocess.resize(frame)

    differing = int(np.abs(plain().astype(int) - ours()).max())
    least = {plain: np.inf, ours: np.inf}
    for number in range(rounds):
        for way in (plain, ours)[:: -1 if number % 2 else 1]:
            least[way] = min(least[way], _ms(way))
    return {
        "frame_hw": frame_hw,
        "channels": channels,
        "plain_ms": round(float(least[plain]), 3),
        "ours_ms": round(float(least[ours]), 3),
        "most_differing": differing,
    }


def _ms(way: Callable[[], Any]) -> float:
    start = perf_counter()
    way()
    return (perf_counter() - start) * 1e3


if __name__ == "__main__":
    run_command(command, name="resize", example="python -m segrd_edge.benchmarks.resize 2448x2048")
