"""What it costs to calibrate INT8 on good photographs alone: metrics on real defects, with and without synthetic ones.

    python -m segrd_edge.benchmarks.calibration_frames RUN --out benchmarks/results/calibration-frames-bottle.json

Two INT8 graphs of one bundle's float graph, alike but for the calibration frames: as many good photographs as there
are, up to the count, or half of them with synthetic defects, as the export takes them. Both are evaluated on the real
test photographs in the engine that a processor would take, and compared with float on the same photographs. Beside the
metrics stands the reason: how many of the activations that get a scale exceed on real defects what calibration saw.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer

from segrd_edge import engines, machine
from segrd_edge.bundle import Bundle
from segrd_edge.calibration.cache import ObservationCache
from segrd_edge.calibration.calibrate import Calibration, calibrate
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.ranges import observe
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.console import console, track
from segrd_edge.errors import DataError
from segrd_edge.export.bundle import choose_for
from segrd_edge.export.judge import image_predictor
from segrd_edge.files import write_json
from segrd_edge.frames import read_frame
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.data import Photo
from segrd_edge.training.evaluate import Evaluation, evaluate_photos, photos_of_run
from segrd_edge.training.run import Run

METRICS = ("image_auroc", "pixel_ap", "aupro")
DEFECTS_LOOKED_AT = 16  # real defects whose activations are compared with calibration's, evenly spaced


def main(
    run: Annotated[Path, typer.Argument(help="The run's folder, as segrd-train wrote it.")],
    bundle: Annotated[Path | None, typer.Option(help="Its bundle; default: part.segrd in the run's folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="Where the run's photographs are now.")] = None,
    count: Annotated[int, typer.Option(help="Calibration frames.")] = 64,
    scope: Annotated[list[str] | None, typer.Option(help="What INT8 covers; repeatable; default all.")] = None,
    method: Annotated[str, typer.Option(help="How scales are found.")] = "percentile",
    out: Annotated[Path, typer.Option(help="The JSON file to write.")] = Path("calibration-frames.json"),
) -> None:
    """Calibrate twice, evaluate on the run's test photographs, write the figures."""
    loaded = Run.load(run)
    opened = Bundle.open(bundle or run / "part.segrd")
    graph = onnx.load_model_from_string(opened.graph("fp32"))
    photos = _test_photos(loaded, data)
    choices = {"good only": False, "good and synthetic": True}
    good = loaded.photo_paths("train", data)
    frames = {name: choose_for(loaded, good, count, synthetic=flag, track=track) for name, flag in choices.items()}
    scopes = scope or ["all"]
    found = compare(graph, loaded.preprocess, loaded.map_spec, frames, photos, scopes, method)
    options = [f"--count {count}", *(f"--scope {name}" for name in scopes), f"--method {method}"]
    result = {
        "command": " ".join(["python -m segrd_edge.benchmarks.calibration_frames", run.resolve().name, *options]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": "{model}, {cores} cores".format(**machine.cpu()),
        "packages": {name: machine.package_version(name) for name in ("segrd-edge", "onnxruntime", "openvino")},
        "graph_sha256": opened.sha256["graphs/fp32.onnx"],
        "method": method,
        **found,
    }
    write_json(out, result)
    console.print(f"written: {out}", markup=False)


def compare(
    graph: onnx.ModelProto,
    preprocess: Preprocess,
    spec: MapSpec,
    frames: Mapping[str, Sequence[CalibrationFrame]],
    photos: Sequence[Photo],
    scopes: Sequence[Any],
    method: Any,
) -> dict[str, Any]:
    """The figures of fp32, and of INT8 for every scope and choice of calibration frames.

    Args:
        frames: name → calibration frames.
        photos: real photographs, good ones and defects.
    """
    reference = _evaluate(graph, preprocess, spec, photos, "fp32")
    defects = [photo.path for photo in photos if photo.is_defect]
    looked_at = [defects[i * len(defects) // DEFECTS_LOOKED_AT] for i in range(min(DEFECTS_LOOKED_AT, len(defects)))]
    images = [
        image
        for path in looked_at
        for image in preprocess.network_images(read_frame(path, value_range=preprocess.value_range))
    ]
    rows = []
    for scope in scopes:
        settings = Int8Settings(method=method, scope=scope)
        for name, chosen in frames.items():
            console.print(f"calibrating {scope} on {len(chosen)} frames: {name}", markup=False)
            made = calibrate(graph, chosen, settings, cache=ObservationCache(), track=track)
            evaluation = _evaluate(made.model, preprocess, spec, photos, f"{scope}, {name}")
            rows.append({
                "scope": scope,
                "calibration": name,
                "frames": {kind: sum(f.kind == kind for f in chosen) for kind in ("good", "synthetic")},
                "drift_on_calibration_frames": made.drift.to_dict(),
                "activations": _exceeded(graph, made, images),
                **_figures(evaluation, reference),
            })  # fmt: skip
    return {
        "test_images": {"good": len(photos) - len(defects), "defect": len(defects)},
        "defects_looked_at": len(looked_at),
        "fp32": _figures(reference, reference),
        "int8": rows,
    }


def _test_photos(run: Run, data: Path | None) -> list[Photo]:
    photos = photos_of_run(run, data)
    if not photos:
        raise DataError(f"{data or run.config.data} has no photographs of defects", expected="real defects to test on")
    return photos


def _evaluate(
    graph: onnx.ModelProto, preprocess: Preprocess, spec: MapSpec, photos: Sequence[Photo], name: str
) -> Evaluation:
    engine = engines.create(engines.processor_engine(), graph.SerializeToString())
    on_image = image_predictor(engine, preprocess, spec)
    try:
        return evaluate_photos(
            lambda frame: on_image(preprocess.resize(frame)),
            preprocess,
            photos,
            track=lambda items: track(items, f"evaluating {name}", len(items)),
        )
    finally:
        engine.close()


def _figures(evaluation: Evaluation, reference: Evaluation) -> dict[str, Any]:
    """Metrics on the real photographs, and how far the scores are from float's: all, good ones, defects."""
    metrics = evaluation.metrics.to_dict()
    before, after = (np.array([frame.score for frame in e.frames]) for e in (reference, evaluation))
    is_defect = np.array([frame.photo.is_defect for frame in reference.frames])
    moved = after - before
    return {
        **{name: metrics[name] for name in METRICS},
        "score_moved_mean": float(np.abs(moved).mean()),
        "score_moved_good": float(moved[~is_defect].mean()),  # signed: up is towards a false reject
        "score_moved_defect": float(moved[is_defect].mean()),  # signed: down is towards an escape
    }


def _exceeded(graph: onnx.ModelProto, made: Calibration, images: Sequence[Any]) -> dict[str, Any]:
    """How many activations with a scale are larger on real defects than on any calibration frame, and by how much."""
    known = {tensor.name for tensor in graph.graph.value_info}
    names = [name for name in made.ranges.largest if name in known]  # the float graph has none that were levelled
    seen = observe(graph, [], images, also=names, cache=ObservationCache()).largest
    ratios = [seen[name] / made.prepared.largest[name] for name in names if made.prepared.largest[name] > 0]
    return {
        "with_a_scale": len(names),
        "exceeded_by_defects": sum(ratio > 1 for ratio in ratios),
        "largest_ratio": max(ratios, default=0.0),  # largest magnitude on the defects over that on calibration frames
    }


if __name__ == "__main__":
    typer.run(main)
