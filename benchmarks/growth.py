"""How the cost of a frame grows: with its size, with tiles, cameras, streams and regions, and with the network size.

    python -m segrd_edge.benchmarks.growth bottle.segrd --size 128 --size 192 --out growth.json

Each table is one interleaved run: every row takes its turn in every round, in alternating order, and the figures are
medians. Streams are Detectors side by side, each with its share of the cores and a thread of its own. Frames are made
of the bundle's golden images, so that any size can be had. Tiles are tried on the same bundle, whatever it was trained
for, because time does not depend on what the network has learned; verdicts are not looked at.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from time import perf_counter
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer

from segrd_edge import machine
from segrd_edge.bundle import Bundle
from segrd_edge.console import console, new_table, print_table, run_command
from segrd_edge.detector import Detector
from segrd_edge.errors import MissingExtraError
from segrd_edge.files import check_can_write, write_json
from segrd_edge.pool import DetectorPool
from segrd_edge.preprocess import Preprocess
from segrd_edge.regions import find_regions

from . import environment
from .frames import golden_frames

FRAME_SIDES = (512, 1024, 2048, 4096)
TILES_PER_SIDE = (1, 2, 3, 4)
CAMERAS = (1, 2, 4)
STREAMS = (1, 2, 4, 8)
REGIONS = (0, 1, 10, 100)
TILED_SIDE = CAMERA_SIDE = 1024
FRAMES_PER_CAMERA = 8  # of a round

Row = dict[str, Any]
Turn = Callable[[], Mapping[str, float]]


def command(
    bundle: Annotated[Path, typer.Argument(help="The .segrd file.", show_default=False)],
    size: Annotated[
        list[int] | None,
        typer.Option(
            help="Also time the model at this network size, with random weights; repeatable, needs the export extra.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each row.")] = 15,
    precision: Annotated[str, typer.Option(help="Precision.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of the engine.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """How the cost of a frame grows."""
    opened = Bundle.open(bundle)
    if out is not None:
        check_can_write(out)
    tables: dict[str, list[Row]] = {}
    with Detector(opened, precision=precision, threads=threads) as detector:
        setting = {"bundle": bundle.name, "engine": detector.engine, "precision": detector.precision}
        preprocess = detector.preprocess
        tables["frame size"] = interleaved(frame_turns(detector, opened), rounds)
        tables["tiles"] = interleaved(tile_turns(detector, opened), rounds)
        detector.preprocess = preprocess
        tables["cameras"] = interleaved(camera_turns(detector, opened), max(1, rounds // 5))
        tables["streams"] = streams(opened, detector.engine, detector.precision, max(1, rounds // 5))
        tables["regions"] = interleaved(region_turns(preprocess), rounds)
    if size:
        tables["network size"] = network_sizes(opened.manifest.model.name, size, setting["precision"], threads, rounds)
    for title, rows in tables.items():
        table = new_table(f"{title}: {setting['bundle']} on {setting['engine']} {setting['precision']}", *rows[0])
        for row in rows:
            table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
        print_table(table)
    if out is not None:
        facts = {**setting, "date": time.strftime("%Y-%m-%d"), "threads": threads, "rounds": rounds}
        write_json(out, {**facts, "environment": environment.describe(), "tables": tables})
        console.print(f"wrote {out}")


def interleaved(turns: Mapping[str, Turn], rounds: int) -> list[Row]:
    """A row for each name with the median of every figure; each takes a turn in every round, after one untimed. Every
    other round goes backwards."""
    taken: dict[str, list[Mapping[str, float]]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name in list(turns)[:: -1 if number % 2 else 1]:
            figures = turns[name]()
            if number:
                taken[name].append(figures)
    return [
        {"": name, **{key: float(np.median([figures[key] for figures in found])) for key in found[0]}}
        for name, found in taken.items()
    ]


def frame_turns(detector: Detector, bundle: Bundle) -> dict[str, Turn]:
    """Frames of growing size, one network image each."""
    return {f"{side}×{side}": _inspecting(detector, _frame(bundle, side)) for side in FRAME_SIDES}


def tile_turns(detector: Detector, bundle: Bundle) -> dict[str, Turn]:
    """One frame, in more and more tiles."""
    turns = {}
    frame = _frame(bundle, TILED_SIDE)
    for count in TILES_PER_SIDE:
        overlap = Preprocess().overlap
        tile = math.ceil(TILED_SIDE / (1 + (count - 1) * (1 - overlap)))  # so many fill the side, and no more
        preprocess = Preprocess(detector.preprocess.size_hw, tile_hw=(tile, tile), overlap=overlap)
        found = len(preprocess.grid(preprocess.placement((TILED_SIDE, TILED_SIDE)).size_hw))
        turns[f"{found} of {tile}×{tile}"] = _inspecting(detector, frame, preprocess)
    return turns


def camera_turns(detector: Detector, bundle: Bundle) -> dict[str, Turn]:
    """More and more cameras, each of which sends a frame as soon as it has the verdict of the one before."""
    frames = golden_frames(bundle, (CAMERA_SIDE, CAMERA_SIDE)).frames
    return {str(count): partial(_cameras, detector, frames, count) for count in CAMERAS}


def streams(bundle: Bundle, engine: str, precision: str, rounds: int) -> list[Row]:
    """One Detector on all cores, two on half of them each, and so on."""
    cores = machine.cpu()["usable_cores"]
    frames = golden_frames(bundle, (CAMERA_SIDE, CAMERA_SIDE)).frames
    turns: dict[str, Turn] = {}
    with ExitStack() as stack:
        for count in (count for count in STREAMS if count <= cores):
            share = cores // count
            detectors = [
                stack.enter_context(Detector(bundle, engine=engine, precision=precision, threads=share))
                for _ in range(count)
            ]
            turns[f"{count} of {share} threads"] = partial(_side_by_side, detectors, frames)
        return interleaved(turns, rounds)


def region_turns(preprocess: Preprocess) -> dict[str, Turn]:
    """Postprocessing of a map with more and more defects."""
    return {str(count): partial(_regions, preprocess, count) for count in REGIONS}


def network_sizes(model: str, sizes: Sequence[int], precision: str, threads: int | None, rounds: int) -> list[Row]:
    """A model, as it is without a profile, at several network sizes on the same frame."""
    try:
        from .untrained import Network, build
    except ModuleNotFoundError as error:
        raise MissingExtraError("--size", "export", (error.name or "torch").partition(".")[0]) from error
    with TemporaryDirectory(prefix="segrd-growth-") as folder, ExitStack() as stack:
        turns = {}
        for network_size in sizes:
            console.print(f"building {model} at {network_size}×{network_size}")
            opened = build(Network(model, None, network_size), Path(folder) / f"{network_size}.segrd")
            detector = stack.enter_context(Detector(opened, precision=precision, threads=threads))
            turns[f"{network_size}×{network_size}"] = _inspecting(detector, _frame(opened, TILED_SIDE))
        return interleaved(turns, rounds)


def _frame(bundle: Bundle, side: int) -> npt.NDArray[np.uint8]:
    return golden_frames(bundle, (side, side)).frames[0]


def _inspecting(detector: Detector, frame: npt.NDArray[np.uint8], preprocess: Preprocess | None = None) -> Turn:
    """Inspect a frame, with `preprocess` in place of the detector's own."""
    used = preprocess or detector.preprocess

    def turn() -> Mapping[str, float]:
        detector.preprocess = used
        timings_ms = detector.inspect(frame).timings_ms
        return {f"{stage} ms": timings_ms[stage] for stage in ("preprocess", "engine", "postprocess", "total")}

    return turn


def _cameras(detector: Detector, frames: Sequence[npt.NDArray[np.uint8]], count: int) -> Mapping[str, float]:
    names = [f"camera {number}" for number in range(count)]
    latencies_ms: list[float] = []

    def camera(name: str) -> None:
        for number in range(FRAMES_PER_CAMERA):
            outcome = pool.submit(name, frames[number % len(frames)]).result()
            latencies_ms.append(outcome.latency_ms)

    with DetectorPool(detector, names, when_full="wait") as pool:
        seconds = _at_once([Thread(target=camera, args=(name,)) for name in names])
    return {
        "latency ms": float(np.median(latencies_ms)),
        "frames per second, all cameras": count * FRAMES_PER_CAMERA / seconds,
    }


def _side_by_side(detectors: Sequence[Detector], frames: Sequence[npt.NDArray[np.uint8]]) -> Mapping[str, float]:
    latencies_ms: list[float] = []

    def stream(detector: Detector) -> None:
        found = detector.inspect_many(islice(cycle(frames), FRAMES_PER_CAMERA))
        latencies_ms.extend(inspection.timings_ms["total"] for inspection in found)

    seconds = _at_once([Thread(target=stream, args=(detector,)) for detector in detectors])
    return {
        "latency ms": float(np.median(latencies_ms)),
        "frames per second, all streams": len(latencies_ms) / seconds,
    }


def _at_once(threads: Sequence[Thread]) -> float:
    """Seconds until all have ended."""
    start = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return perf_counter() - start


def _regions(preprocess: Preprocess, count: int) -> Mapping[str, float]:
    height, width = preprocess.size_hw
    anomaly_map = np.zeros((height, width), np.float32)
    for number in range(count):  # spread evenly, at most 10 to a row
        centre = (int((number % 10 + 0.5) * width / 10), int((number // 10 + 0.5) * height / 10))
        cv2.circle(anomaly_map, centre, max(1, min(height, width) // 50), 1.0, cv2.FILLED)
    placement = preprocess.placement((CAMERA_SIDE, CAMERA_SIDE))
    start = perf_counter()
    found = find_regions(anomaly_map, placement, 0.5).regions
    milliseconds = (perf_counter() - start) * 1e3
    return {"found": float(len(found)), "regions ms": milliseconds}


if __name__ == "__main__":
    run_command(
        command,
        name="python -m segrd_edge.benchmarks.growth",
        example="python -m segrd_edge.benchmarks.growth bottle.segrd --out growth.json",
    )
