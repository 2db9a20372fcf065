"""Every tool's INT8 graph of one part, measured like an export: accuracy, verdicts, latency, TensorRT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import onnx

from segrd_edge.calibration.check import violations
from segrd_edge.calibration.drift import Scale, measure_drift
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.engines import EngineOutput, engine_class
from segrd_edge.errors import DataError, EngineError, SegrdError
from segrd_edge.export.bundle import choose_for
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.export.judge import Judgement, judge
from segrd_edge.export.onnx import export_core
from segrd_edge.export.report_facts import count_errors
from segrd_edge.export.verdicts import VerdictChanges
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.tensorrt.library import is_installed
from segrd_edge.training.data import Photo
from segrd_edge.training.evaluate import photos_of_run
from segrd_edge.training.run import Run

from .. import environment
from ..rtx_build import FLAVOUR, compile_graph
from .latency import measure_latency
from .tools import Quantised, quantise

FLOAT = "float"
_KIND = 3  # last words of a violation, which name no node: of each kind the first is shown
METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "f1")


@dataclass(frozen=True)
class Part:
    """What all tools are given, and what they are judged by."""

    name: str
    graph: onnx.ModelProto  # the float deploy graph
    preprocess: Preprocess
    spec: MapSpec
    frames: Sequence[CalibrationFrame]
    held_out: Sequence[Path]  # good photographs that set each threshold
    test: Sequence[Photo]  # good ones and defects
    false_reject: float

    @classmethod
    def of(cls, run: Run, data: Path | None, count: int) -> Part:
        """The part of a run, with `count` calibration frames, as the export makes and chooses them.

        Raises:
            DataError: the photographs show no defects.
            TrainingError: photographs are missing.
        """
        test = photos_of_run(run, data)
        if not test:
            root = data or run.config.data
            raise DataError(f"{root} has no photographs of defects", expected="test photographs to compare on")
        frames = choose_for(run, run.photo_paths("train", data), count)
        return cls(
            run.folder.name,
            build_deploy_graph(export_core(run.model, run.preprocess.size_hw), run.preprocess, run.map_spec),
            run.preprocess,
            run.map_spec,
            frames,
            run.photo_paths("held_out", data),
            test,
            run.config.false_reject,
        )


def compare(
    part: Part,
    tools: Sequence[str],
    *,
    pythons: Mapping[str, Path],
    rounds: int,
    threads: int | None,
    said: Callable[[str], None] = lambda line: None,
) -> Iterator[dict[str, Any]]:
    """The record of one part, ready for JSON, after each tool and with the latency at last: it takes a while, and what
    is there is worth keeping. A tool that cannot be run has the reason in "not_run".

    Args:
        pythons: see `tools.quantise`.
        rounds: of the latency measurement, 4 samples each; 0 leaves it out.
        threads: of the engines in the latency measurement; None is their own choice.
    """
    said(f"{part.name}: judging float")
    reference = _judge(part, part.graph)
    graphs = {FLOAT: part.graph}
    record = _circumstances(part) | {"tools": {FLOAT: _accuracy(part, reference, reference) | _file(part.graph)}}
    for tool in tools:
        said(f"{part.name}: {tool}")
        try:
            made = quantise(tool, part.graph, part.frames, pythons)
            judgement = _judge(part, made.model, reference)
        except SegrdError as error:
            said(f"{tool} was not run: {error.what}")
            record["tools"][tool] = {"not_run": error.what}
            continue
        graphs[tool] = made.model
        accuracy, tensorrt = _accuracy(part, reference, judgement), {"tensorrt": _tensorrt(made.model)}
        record["tools"][tool] = _made(made) | accuracy | _file(made.model) | tensorrt
        yield record
    if rounds:
        said(f"{part.name}: latency")
        record["latency"] = measure_latency(
            graphs, part.preprocess, part.test, rounds=rounds, threads=threads, reference=FLOAT
        )
    yield record


def _circumstances(part: Part) -> dict[str, Any]:
    return {
        "part": part.name,
        "date": date.today().isoformat(),
        "calibration_frames": len(part.frames),
        "held_out": len(part.held_out),
        "thresholds": "carried over",
        "judged_in": engine_class("auto").name,
        "environment": environment.describe(),
        "latency": None,
    }


def _judge(part: Part, graph: onnx.ModelProto, reference: Judgement | None = None) -> Judgement:
    """Every tool's threshold comes from float's as that of the export's INT8 does, so that a verdict that turns has
    turned by the graph and not by an estimate."""
    return judge(
        graph,
        part.preprocess,
        part.spec,
        part.held_out,
        part.test,
        shown=[frame.image_bgr_u8 for frame in part.frames],
        false_reject=part.false_reject,
        reference=reference,
    )


def _made(made: Quantised) -> dict[str, Any]:
    names = ("seconds", "processor_seconds", "versions", "settings")
    return {name: getattr(made, name) for name in names}


def _accuracy(part: Part, reference: Judgement, judgement: Judgement) -> dict[str, Any]:
    """Metrics, and how far maps, scores and verdicts are from the reference's on the test photographs."""
    assert reference.evaluation is not None  # a Part has defects
    assert judgement.evaluation is not None
    metrics = judgement.evaluation.metrics.to_dict()
    pairs = list(zip(reference.evaluation.frames, judgement.evaluation.frames, strict=True))
    was, now = ([EngineOutput(pair[i].score, pair[i].anomaly_map) for pair in pairs] for i in (0, 1))
    threshold = judgement.threshold.value
    errors = count_errors(judgement.evaluation, threshold)
    return {
        "metrics": {name: metrics[name] for name in METRICS},
        "threshold": threshold,
        "drift": measure_drift(was, now, Scale.of(part.graph, was)).to_dict(),
        "verdicts": {
            "of": len(now),
            "flipped": VerdictChanges.between(reference, judgement).test,
            "false_rejects": errors.false_rejects.count,
            "escapes": errors.escapes.count,
        },
    }


def _file(model: onnx.ModelProto) -> dict[str, Any]:
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    dequantised = [[producers.get(name) == "DequantizeLinear" for name in node.input] for node in model.graph.node]
    nodes = [(node.op_type, inputs) for node, inputs in zip(model.graph.node, dequantised, strict=True)]
    return {
        "bytes": model.ByteSize(),
        "convolutions": sum(kind == "Conv" for kind, _ in nodes),
        "int8_convolutions": sum(kind == "Conv" and all(inputs[:2]) for kind, inputs in nodes),
        "int8_readers": dict(Counter(kind for kind, inputs in nodes if any(inputs) and kind != "QuantizeLinear")),
    }


def _tensorrt(model: onnx.ModelProto) -> dict[str, Any]:
    """What speaks against the file by TensorRT's rules, and what its compiler says (no GPU is needed)."""
    found = violations(model)
    kinds = {tuple(finding.split()[-_KIND:]): finding for finding in reversed(found)}
    rules = {"violations": len(found), "first": [*reversed(kinds.values())]}
    if not is_installed(FLAVOUR):
        return {**rules, "not_run": f"{FLAVOUR} is not installed"}
    try:
        return {**rules, "built": compile_graph(model.SerializeToString())}
    except EngineError as error:
        return {**rules, "refused": error.what}
