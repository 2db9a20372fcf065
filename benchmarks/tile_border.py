"""How far a tile's own edge reaches into its map, which is what neighbours have to share.

    python -m segrd_edge.benchmarks.tile_border tiles.segrd photos/part/test/good

Beyond its edge a network sees zeros instead of the part. The same pixels are therefore shown at several distances from
the edge, by moving the tile a little at a time across the resized photograph, and each map is compared with that of the
tile in which they lie nearest the middle. What is left there is what moving alone changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from segrd_edge import machine, sources
from segrd_edge.bundle import Bundle
from segrd_edge.console import emit_json, new_table, print_table, run_command
from segrd_edge.detector import Detector
from segrd_edge.errors import DataError, SegrdError
from segrd_edge.frames import as_frame

STEPS = 16  # places of the tile per tile width
SHARES = (0.0, 0.03, 0.06, 0.125, 0.1875, 0.25, 0.375)  # distances from the edge, of the tile's width


def command(
    bundle: Annotated[Path, typer.Argument(help="A .segrd file with tiles.", show_default=False)],
    photos: Annotated[Path, typer.Argument(help="Folder of photographs, wider than one tile.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, help="Photographs that are looked at.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of the engine.")] = None,
) -> None:
    """Difference of the anomaly map by its distance from the tile's edge."""
    opened = Bundle.open(bundle)
    found = []
    with Detector(opened, precision="fp32", threads=threads) as detector:
        preprocess = detector.preprocess
        for _, content in islice(sources.frames(photos, value_range=preprocess.value_range), count):
            if isinstance(content, SegrdError):
                raise content
            image = preprocess.resize(as_frame(content))
            found.append(
                border_differences(lambda tile: detector.run_engine(tile).anomaly_map.copy(), image, preprocess.size_hw)
            )
        threshold = detector.threshold
    if not found:
        raise DataError(f"no photographs in {photos}", expected="at least one that is wider than a tile")
    means = np.mean(found, axis=0) / threshold
    width = preprocess.size_hw[1]
    table = new_table(
        f"{bundle.name}: mean |difference of the map| near a tile's edge", "pixels from it", "of the threshold"
    )
    for share, value in zip(SHARES, means, strict=True):
        table.add_row(str(round(share * width)), f"{value:.2%}")
    print_table(table)
    emit_json({
        "bundle": bundle.name,
        "model": opened.manifest.model.name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.cpu()["model"],
        "photographs": len(found),
        "pixels_from_edge": [round(share * width) for share in SHARES],
        "of_threshold": [round(float(value), 5) for value in means],
    })  # fmt: skip


def border_differences(
    run: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]],
    image: npt.NDArray[np.uint8],
    tile_hw: tuple[int, int],
) -> list[float]:
    """For each of SHARES the mean |difference| of the columns that far from an inner edge, left or right.

    Args:
        run: tile (uint8 h×w×3) → map (float32 h×w).
        image: uint8 H×W×3, wider than a tile; its first rows are looked at.

    Raises:
        DataError: the image is too narrow to move a tile in.
    """
    height, width = tile_hw
    step = max(1, width // STEPS)
    lefts = range(0, image.shape[1] - width + 1, step)
    if len(lefts) <= STEPS // 2:
        raise DataError(
            f"a resized photograph of {image.shape[1]}×{image.shape[0]} pixels",
            expected=f"at least one and a half tiles, {width * 3 // 2} pixels wide",
        )
    maps = [run(np.ascontiguousarray(image[:height, left : left + width])) for left in lefts]
    differences = []
    for share in SHARES:
        distance = min(width - 1, round(share * width))
        values = []
        for number, left in enumerate(lefts):
            inner = [distance] if number else []  # the image's own edges are no seams
            inner += [width - 1 - distance] if number + 1 < len(lefts) else []
            for column in inner:
                best = min(range(len(lefts)), key=lambda k: abs(left + column - lefts[k] - width / 2))
                if best != number:
                    other = left + column - lefts[best]
                    values.append(float(np.abs(maps[number][:, column] - maps[best][:, other]).mean()))
        differences.append(float(np.mean(values)))
    return differences


if __name__ == "__main__":
    run_command(
        command,
        name="python -m segrd_edge.benchmarks.tile_border",
        example="python -m segrd_edge.benchmarks.tile_border tiles.segrd photos/part/test/good",
    )
