"""Latency of several graphs in each engine, in one interleaved run.

OpenVINO appears twice where our runtime changes what it reads (`engines.openvino_uint8`): as our runtime loads the
file, and as OpenVINO does on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import onnx

from segrd_edge import engines
from segrd_edge.engines import EngineOutput
from segrd_edge.engines.base import EngineOptions
from segrd_edge.engines.openvino import cpu_settings
from segrd_edge.errors import EngineError
from segrd_edge.frames import read_frame
from segrd_edge.machine import package_version
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.data import Photo

from .. import environment
from ..contenders import Contender, Pixels, Sample
from ..session import SAMPLES_PER_ROUND, ContenderLog, Session

ENGINES = ("openvino", "onnxruntime")
AS_READ = "openvino as read"
_IMAGES = 8  # test photographs, evenly spread


class GraphContender:
    """A graph in one of our engines; its frames are network images, so that nothing but the engine is timed."""

    def __init__(self, engine: str, tool: str, graph: bytes, threads: int | None, preprocess: Preprocess) -> None:
        self._engine = engines.create(engine, graph, EngineOptions(threads=threads))
        self.engine, self.precision, self.preprocess = engine, tool, preprocess
        self.version = package_version(engine) or "unknown"

    def inspect(self, frame: Pixels) -> Sample:
        start = perf_counter()
        output = self._run(frame)
        total_ms = (perf_counter() - start) * 1e3
        return Sample(total_ms, {"preprocess": 0.0, "engine": total_ms, "postprocess": 0.0}, output.score, False)

    def run_bare(self, frame: Pixels, image: Pixels) -> None:
        self._run(image)

    def close(self) -> None:
        self._engine.close()

    def _run(self, image: Pixels) -> EngineOutput:
        return self._engine.run(image)


class AsReadContender(GraphContender):
    """A graph in OpenVINO, but as OpenVINO reads it, without our runtime's rewriting."""

    def __init__(self, tool: str, graph: bytes, threads: int | None, preprocess: Preprocess) -> None:
        import openvino

        core = openvino.Core()
        try:
            self._request: Any = core.compile_model(
                core.read_model(graph), "CPU", cpu_settings(threads)
            ).create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load the graph: {error}") from error
        self.engine, self.precision, self.preprocess = AS_READ, tool, preprocess
        self.version = package_version("openvino") or "unknown"

    def close(self) -> None:
        del self._request

    def _run(self, image: Pixels) -> EngineOutput:
        self._request.infer({0: image[np.newaxis]})
        score = float(self._request.get_tensor("score").data[0])
        return EngineOutput(score, self._request.get_tensor("anomaly_map").data[0])


def measure_latency(
    graphs: Mapping[str, onnx.ModelProto],
    preprocess: Preprocess,
    photos: Sequence[Photo],
    *,
    rounds: int,
    threads: int | None,
    reference: str,
) -> dict[str, Any]:
    """Every graph (by tool) in every engine that is installed, on some of the photographs; ready for JSON.

    Each figure has the speed against `reference` in the same engine, as our runtime loads it.
    """
    chosen = [photos[i] for i in np.linspace(0, len(photos) - 1, min(_IMAGES, len(photos))).astype(int)]
    images = [preprocess.resize(read_frame(photo.path, value_range=preprocess.value_range)) for photo in chosen]
    before = environment.load_average()
    with ExitStack() as stack:
        session = Session(images)
        failed = {}
        for name, load in _loaders(graphs, threads, replace(preprocess, crop_xywh=None)):
            try:
                stack.callback(session.add(load).close)
            except EngineError as error:  # noqa: PERF203  (loading takes a thousand times longer)
                failed[name] = error.what
        session.run(range(rounds))
    by_name = {log.name: log for log in session.logs}
    return {
        "rounds": rounds,
        "threads": threads,
        "images": len(images),
        "figures": [_figures(log, _reference(log, by_name, reference)) for log in session.logs],
        "failed": failed,
        "other_cpu": session.other_cpu,
        "load_average": {"before": before, "after": environment.load_average()},
    }


def speedup(reference_ms: Sequence[float], own_ms: Sequence[float], per_round: int) -> float:
    """How many times faster: the median over the rounds of the ratio of a round's medians, so that drift cancels."""
    rounds = [np.median(np.reshape(samples, (-1, per_round)), axis=1) for samples in (reference_ms, own_ms)]
    return float(np.median(rounds[0] / rounds[1]))


def _loaders(
    graphs: Mapping[str, onnx.ModelProto], threads: int | None, preprocess: Preprocess
) -> Iterator[tuple[str, Callable[[], Contender]]]:
    for tool, model in graphs.items():
        graph = model.SerializeToString()
        for engine in ENGINES:
            if engines.engine_class(engine).is_available():
                yield f"{engine} {tool}", partial(GraphContender, engine, tool, graph, threads, preprocess)
        if engines.engine_class("openvino").is_available() and _is_rewritten(graph):
            yield f"{AS_READ} {tool}", partial(AsReadContender, tool, graph, threads, preprocess)


def _is_rewritten(graph: bytes) -> bool:
    import openvino

    from segrd_edge.engines.openvino_uint8 import use_uint8_activations

    return use_uint8_activations(openvino.Core().read_model(graph)) > 0


def _reference(log: ContenderLog, by_name: Mapping[str, ContenderLog], tool: str) -> ContenderLog:
    return by_name[f"{log.contender.engine.partition(' ')[0]} {tool}"]


def _figures(log: ContenderLog, reference: ContenderLog) -> dict[str, Any]:
    own, other = _samples_ms(log), _samples_ms(reference)
    moved = [abs(sample.score - reference.latest[i].score) for i, sample in log.latest.items()]
    return {
        "engine": log.contender.engine,
        "tool": log.contender.precision,
        "version": log.contender.version,
        "samples": len(own),
        "median_ms": float(np.median(own)),
        "least_ms": min(own),
        "speedup": speedup(other, own, 2 * SAMPLES_PER_ROUND),
        "score_mean": float(np.mean(moved)),  # mean |Δscore| from the reference on the images of this measurement
    }


def _samples_ms(log: ContenderLog) -> list[float]:
    """All samples, round by round: of a network image the inspection and the bare run are the same."""
    rounds = [np.reshape(samples, (-1, SAMPLES_PER_ROUND)) for samples in (log.total_ms, log.bare_ms)]
    return [float(ms) for ms in np.concatenate(rounds, axis=1).ravel()]
