"""What INT8's rounding does to a trained network, and what it takes to round less: the reasons behind the search.

    python -m segrd_edge.benchmarks.rounding RUN --out rounding-bottle.json

One float graph, one set of calibration frames, and INT8 of all that the rules allow with less and less of it rounded to
one INT8 tensor: everything; all but the skips of residual blocks (`calibration.rules.residual_skip`); then also, for
some of the convolutions or all, the input as the sum of two INT8 tensors (`calibration.rules.two_terms`), where what is
left of INT8's error is that of the weights. Each with weights rounded to the nearest step and as the export rounds them
(`calibration.weight_rounding`): its drift on the frames and, in one interleaved run, its time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
import typer

from segrd_edge import engines, machine
from segrd_edge.calibration.cache import ObservationCache
from segrd_edge.calibration.calibrate import calibrate
from segrd_edge.calibration.drift import Drift
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.ladder import SCOPES
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.console import console, new_table, track
from segrd_edge.export.bundle import choose_for
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.export.onnx import export_core
from segrd_edge.files import write_json
from segrd_edge.training.run import Run

FP32 = "fp32"


def main(
    run: Annotated[Path, typer.Argument(help="The run's folder, as segrd-train wrote it.")],
    data: Annotated[Path | None, typer.Option(help="Where the run's photographs are now.")] = None,
    count: Annotated[int, typer.Option(help="Calibration frames.")] = 32,
    rounds: Annotated[int, typer.Option(help="Frames that are timed on each graph.")] = 15,
    out: Annotated[Path, typer.Option(help="The JSON file to write.")] = Path("rounding.json"),
) -> None:
    """Quantise in each way, measure drift and processor time, show and write them."""
    loaded = Run.load(run)
    core = export_core(loaded.model, loaded.preprocess.size_hw)
    graph = build_deploy_graph(core, loaded.preprocess, loaded.map_spec)
    frames = choose_for(loaded, loaded.photo_paths("train", data), count, track=track)
    rows = measure(graph, frames, loaded.threshold["value"], rounds)
    result = {
        "command": f"python -m segrd_edge.benchmarks.rounding {run.resolve().name} --count {count} --rounds {rounds}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": "{model}, {cores} cores".format(**machine.cpu()),
        "packages": {name: machine.package_version(name) for name in ("segrd-edge", "onnxruntime", "openvino")},
        "ways": rows,
    }
    write_json(out, result)
    show(rows)
    console.print(f"written: {out}", markup=False)


def measure(
    graph: onnx.ModelProto, frames: Sequence[CalibrationFrame], threshold: float, rounds: int
) -> dict[str, dict[str, Any]]:
    """Drift and processor time of every way to quantise a float deploy graph, and the time of fp32."""
    rows: dict[str, dict[str, Any]] = {FP32: {}}
    graphs = {FP32: graph}
    for name, plan in ways(Plan.of(graph)).items():
        console.print(f"quantising: {name}", markup=False)
        by_plan = Int8Settings(plan=plan.to_dict(), method="percentile")  # one way to find scales for all of them
        nearest, made = (
            calibrate(graph, frames, settings, threshold=threshold, cache=ObservationCache(), track=track)
            for settings in (replace(by_plan, improve=()), by_plan)
        )
        graphs[name] = made.model
        shares = {"int8_share": made.int8_share, "two_term_share": made.two_term_share}
        rows[name] = {**shares, "drift_nearest": nearest.drift.to_dict(), "drift": made.drift.to_dict()}
    for name, time_ms in processor_ms(graphs, frames[0].image_bgr_u8, rounds).items():
        rows[name]["processor_ms"] = time_ms
    return rows


def ways(everything: Plan) -> dict[str, Plan]:
    """Name → plan, from the most rounding to the least; `everything` is what the rules allow."""
    float_skips = everything.with_float_skips()
    coarse = frozenset(everything.only(*SCOPES["no-fine"]).quantised)
    fine = [name for name in everything.quantised if name not in coarse]
    found = {"everything": everything, "skips in float": float_skips}
    if fine and coarse:
        found["and the fine level in two terms"] = float_skips.in_two_terms(dict.fromkeys(fine, "of the fine level"))
    found["and everything in two terms"] = float_skips.in_two_terms(dict.fromkeys(everything.quantised, "to compare"))
    return found


def processor_ms(
    graphs: Mapping[str, onnx.ModelProto], image_bgr_u8: npt.NDArray[np.uint8], rounds: int
) -> dict[str, float]:
    """Median processor time of one network image through each graph, all cores together; the graphs take turns."""
    chosen = engines.processor_engine()
    loaded = {name: engines.create(chosen, graph.SerializeToString()) for name, graph in graphs.items()}
    times: dict[str, list[float]] = {name: [] for name in loaded}
    try:
        for number in range(rounds):
            for name in list(loaded) if number % 2 else list(loaded)[::-1]:
                engine = loaded[name]
                engine.run(image_bgr_u8)  # what the others have displaced comes back first
                start = time.process_time()
                engine.run(image_bgr_u8)
                times[name].append(1000 * (time.process_time() - start))
    finally:
        for engine in loaded.values():
            engine.close()
    return {name: float(np.median(found)) for name, found in times.items()}


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    columns = (
        "what is rounded", "INT8", "in two terms", "mean |Δscore|", "map cosine", "pixel AP lost", "× fp32",
        "weights to nearest: mean |Δscore|", "map cosine",
    )  # fmt: skip
    table = new_table("INT8 with less and less rounding", *columns)
    fp32_ms = rows[FP32]["processor_ms"]
    for name, row in rows.items():
        if name != FP32:
            drift, nearest = Drift(**row["drift"]), Drift(**row["drift_nearest"])
            lost = "" if drift.pixel_ap_drop is None else f"{drift.pixel_ap_drop:+.4f}"
            table.add_row(
                name, f"{row['int8_share']:.0%}", f"{row['two_term_share']:.0%}", f"{drift.score_mean:.4f}",
                f"{drift.map_cosine_mean:.4f}", lost, f"{fp32_ms / row['processor_ms']:.2f}",
                f"{nearest.score_mean:.4f}", f"{nearest.map_cosine_mean:.4f}",
            )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
