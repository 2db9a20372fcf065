"""The manifest of an export: what the stations found, in the words of `segrd_edge.manifest`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any, NamedTuple

import onnx

from segrd_edge.calibration.calibrate import Calibration
from segrd_edge.calibration.graph import OPSET, multiply_accumulates
from segrd_edge.manifest import Manifest, Precision
from segrd_edge.training.evaluate import Evaluation
from segrd_edge.training.run import Run

from .graphs import ExportGraph
from .judge import Judgement
from .second_try import SecondTry
from .verdicts import VerdictChanges

GOLDEN_FILE = "golden.npz"


METHOD_METRICS = ("image_auroc", "pixel_ap", "aupro")


class GraphFacts(NamedTuple):
    """What the manifest says of one graph."""

    graph: ExportGraph
    parity: dict[str, float]
    judgement: Judgement


def graph_file(precision: Precision) -> str:
    """The member of the bundle that holds a graph."""
    return f"graphs/{precision}.onnx"


def build_manifest(
    run: Run,
    product: str,
    graphs: Mapping[Precision, GraphFacts],
    calibration: Calibration | None,
    golden_count: int,
    other_methods: Mapping[str, Evaluation],
    second_try: SecondTry | None = None,
) -> Manifest:
    """The manifest of a bundle with these graphs; on a processor INT8 is the default where it keeps to its budget.

    Args:
        other_methods: how the plan would do with scales found in other ways.
        second_try: of the calibration, where there was one.
    """
    default = "int8" if calibration is not None and calibration.is_safe and calibration.is_fast else "fp32"
    fields: dict[str, Any] = {
        "product": product,
        "created": datetime.now(timezone.utc).replace(microsecond=0),
        "segrd_edge_version": version("segrd-edge"),
        "model": _model(run, graphs["fp32"].graph.model),
        "data": _data(run),
        "preprocess": run.preprocess.to_dict(),
        "map_spec": run.map_spec.to_dict(),
        "graphs": {precision: _graph(precision, facts, graphs["fp32"]) for precision, facts in graphs.items()},
        "default_precision": default,
        "calibration": None if calibration is None else _calibration(run, calibration, other_methods, second_try),
        "golden": {"file": GOLDEN_FILE, "count": golden_count},
    }
    return Manifest.model_validate(fields)


def _model(run: Run, graph: onnx.ModelProto) -> dict[str, Any]:
    return {
        "name": run.config.model,
        "backbone": run.config.backbone,
        "teacher": run.record["teacher"],
        "parameters": sum(math.prod(tensor.dims) for tensor in graph.graph.initializer),
        "gmacs": round(sum(multiply_accumulates(graph).values()) / 1e9, 3),
        "training": {
            "steps": run.record["steps"],
            "seed": run.config.seed,
            "batch": run.config.batch,
            "minutes": round(run.record["seconds"] / 60, 2),
            "images": len(run.data["train"]),
        },
    }


def _data(run: Run) -> dict[str, Any]:
    return {
        "layout": run.data["layout"],
        "counts": run.data["counts"],
        "train": len(run.data["train"]),
        "held_out": len(run.data["held_out"]),
        # so that an evaluation of the bundle can tell the good images that training has not seen
        "held_out_sha256": [entry["sha256"] for entry in run.data["held_out"]],
        "foreground": run.config.foreground,  # and can keep synthetic defects where training kept them
    }


def _graph(precision: Precision, facts: GraphFacts, fp32: GraphFacts) -> dict[str, Any]:
    graph, evaluation = facts.graph, facts.judgement.evaluation
    changes = None if precision == "fp32" else VerdictChanges.between(fp32.judgement, facts.judgement).to_dict()
    return {
        "file": graph_file(precision),
        "opset": OPSET,
        "batch": graph.batch,
        "frame_hw": graph.frame_hw,
        "parity": facts.parity,
        "drift": None if graph.drift is None else graph.drift.to_dict(),
        "is_safe": graph.is_safe,
        "kept_fp32": _with_reasons(graph.kept_fp32),
        "threshold": facts.judgement.threshold.to_dict(),
        "metrics": None if evaluation is None else evaluation.to_dict(),
        "verdict_changes": changes,
    }


def _calibration(
    run: Run, calibration: Calibration, other_methods: Mapping[str, Evaluation], second_try: SecondTry | None
) -> dict[str, Any]:
    recorded = {entry["sha256"]: entry["file"] for entry in run.data["train"]}
    return {
        "method": calibration.ranges.method,
        "percentile": calibration.ranges.percentile,
        "tensor_methods": calibration.ranges.chosen,
        "method_trials": {method: drift.to_dict() for method, drift in calibration.prepared.method_trials.items()},
        "equalised": list(calibration.prepared.equalised),
        "unclipped": list(calibration.ranges.unclipped),
        "scope": calibration.scope,
        "drift": {scope: drift.to_dict() for scope, drift in calibration.trials.items()},
        "drift_by_method": {method: drift.to_dict() for method, drift in calibration.by_method.items()},
        "metrics_by_method": {
            method: {name: getattr(found.metrics, name) for name in METHOD_METRICS}
            for method, found in other_methods.items()
        },
        "budget": calibration.budget.to_dict(),
        "int8_share": calibration.int8_share,
        "two_term_share": calibration.two_term_share,
        "speedup": calibration.speedup,
        "improved": calibration.improved,
        "fine_tuning": None if calibration.fine_tuning is None else calibration.fine_tuning.to_dict(),
        "second_try": None if second_try is None else second_try.to_dict(),
        "sensitivity": [found.to_dict() for found in calibration.sensitivity],
        "frames": [
            {
                "file": recorded[frame.sha256],
                "sha256": frame.sha256,
                "pixels_sha256": frame.pixels_sha256,
                "kind": frame.kind,
                "defect": frame.defect,
            }
            for frame in calibration.frames
        ],
        "quantised": list(calibration.plan.quantised),
        "two_term": _with_reasons(calibration.plan.two_term),
        "float_skips": calibration.plan.float_skips,
        "left_float": _with_reasons(calibration.plan.left_float),
    }


def _with_reasons(reasons: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"node": name, "reason": reason} for name, reason in reasons.items()]
