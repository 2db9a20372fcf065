"""A short latency measurement for the report: whole inspections, every engine and precision in turn, so that a busy moment hits all alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segrd_edge import engines
from segrd_edge.bundle import Bundle
from segrd_edge.detector import Detector
from segrd_edge.errors import EngineError

ROUNDS = 15
_WARM_UP = 3


@dataclass(frozen=True)
class Latency:
    """Of one engine and precision: what `Detector.inspect` took, in ms."""

    engine: str
    precision: str
    median_ms: float
    p90_ms: float
    stages_ms: dict[str, float]  # medians: preprocess, engine, postprocess


@dataclass(frozen=True)
class LatencyTable:
    """All of them, and what could not be measured."""

    rows: list[Latency]
    failures: list[str]
    frame_hw: tuple[int, int]
    rounds: int


def measure_latency(bundle: Bundle, frame_bgr_u8: npt.NDArray[np.uint8], rounds: int = ROUNDS) -> LatencyTable:
    """Inspect one frame (H×W×3) `rounds` times with every installed engine and every precision of the bundle, interleaved."""
    detectors: list[Detector] = []
    failures: list[str] = []
    timings: dict[tuple[str, str], list[dict[str, float]]] = {}
    try:
        for engine in engines.available():
            for precision in bundle.manifest.graphs:
                try:
                    detectors.append(Detector(bundle, engine=engine, precision=precision))
                except EngineError as error:
                    failures.append(f"{engine} at {precision}: {error.what}")
        for number in range(-_WARM_UP, rounds):
            for detector in detectors:
                timings_ms = detector.inspect(frame_bgr_u8).timings_ms
                if number >= 0:
                    timings.setdefault((detector.engine, detector.precision), []).append(timings_ms)
    finally:
        for detector in detectors:
            detector.close()
    rows = [_summarise(engine, precision, measured) for (engine, precision), measured in timings.items()]
    return LatencyTable(rows, failures, (frame_bgr_u8.shape[0], frame_bgr_u8.shape[1]), rounds)


def _summarise(engine: str, precision: str, measured: list[dict[str, float]]) -> Latency:
    median, p90 = np.quantile([timings_ms["total"] for timings_ms in measured], (0.5, 0.9))
    stages = {stage: float(np.median([t[stage] for t in measured])) for stage in ("preprocess", "engine", "postprocess")}
    return Latency(engine, precision, float(median), float(p90), stages)
