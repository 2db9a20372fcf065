"""A short latency measurement for the report: whole inspections, every engine of the processor and precision in turn.

Taking turns, a busy moment of the machine hits all of them alike. TensorRT's engines are timed where they are built, by
`segrd-build`, and measured by `segrd-bench`: here they could only be those of another GPU than the line's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import numpy.typing as npt

from segrd_edge import engines
from segrd_edge.bundle import Bundle
from segrd_edge.detector import Detector
from segrd_edge.errors import EngineError

ROUNDS = 15
_WARM_UP = 2
_ENOUGH_ROUNDS, _ENOUGH_S = 5, 10.0  # on a slow or busy machine, stop after both


@dataclass(frozen=True)
class Latency:
    """Of one engine and precision: what `Detector.inspect` took, in ms."""

    engine: str
    precision: str
    median_ms: float
    p90_ms: float
    stages_ms: dict[str, float]  # medians: preprocess, engine, postprocess


@dataclass(frozen=True)
class NotMeasured:
    """An engine and precision that could not be had."""

    engine: str
    precision: str
    why: str


@dataclass(frozen=True)
class LatencyTable:
    """All of them, and what could not be measured."""

    rows: list[Latency]
    failures: list[NotMeasured]
    frame_hw: tuple[int, int]
    rounds: int
    automatic: Mapping[str, str] = field(default_factory=dict)  # engine → what precision="auto" is in it

    def median_ms(self, engine: str, precision: str) -> float | None:
        """None of what was not measured."""
        return next((row.median_ms for row in self.rows if (row.engine, row.precision) == (engine, precision)), None)


def measure_latency(bundle: Bundle, frame_bgr_u8: npt.NDArray[np.uint8], rounds: int = ROUNDS) -> LatencyTable:
    """Inspect one frame (H×W×3) with every engine of the processor and every precision that it runs, interleaved.

    Args:
        rounds: inspections each; a slow or busy machine does fewer.
    """
    timings: dict[tuple[str, str], list[dict[str, float]]] = {}
    detectors, failures = _load_all(bundle)
    try:
        started = perf_counter()
        for number in range(-_WARM_UP, rounds):
            if number >= _ENOUGH_ROUNDS and perf_counter() - started > _ENOUGH_S:
                break
            for detector in detectors:
                timings_ms = detector.inspect(frame_bgr_u8).timings_ms
                if number >= 0:
                    timings.setdefault((detector.engine, detector.precision), []).append(timings_ms)
    finally:
        for detector in detectors:
            detector.close()
    rows = [_summarise(engine, precision, measured) for (engine, precision), measured in timings.items()]
    done = max((len(measured) for measured in timings.values()), default=0)
    automatic = {row.engine: engines.engine_class(row.engine).automatic_precision(bundle.manifest) for row in rows}
    return LatencyTable(rows, failures, (frame_bgr_u8.shape[0], frame_bgr_u8.shape[1]), done, automatic)


def _load_all(bundle: Bundle) -> tuple[list[Detector], list[NotMeasured]]:
    """A detector per engine and precision, and why others cannot be had."""
    detectors: list[Detector] = []
    failures: list[NotMeasured] = []
    for engine, precision in itertools.product(engines.processor_engines(), bundle.manifest.graphs):
        if precision not in engines.engine_class(engine).precisions:
            continue
        try:
            detectors.append(Detector(bundle, engine=engine, precision=precision))
        except EngineError as error:
            failures.append(NotMeasured(engine, precision, error.what))
    return detectors, failures


def _summarise(engine: str, precision: str, measured: list[dict[str, float]]) -> Latency:
    median, p90 = np.quantile([timings_ms["total"] for timings_ms in measured], (0.5, 0.9))
    stages = {
        stage: float(np.median([t[stage] for t in measured])) for stage in ("preprocess", "engine", "postprocess")
    }
    return Latency(engine, precision, float(median), float(p90), stages)
