"""Who is measured: a Detector on each engine and precision, and the eager torch model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from segrd_edge import engines
from segrd_edge.bundle import Bundle
from segrd_edge.detector import Detector
from segrd_edge.engines import EngineOutput
from segrd_edge.errors import EngineError, MissingExtraError, OptionError
from segrd_edge.preprocess import Preprocess

Pixels = npt.NDArray[np.uint8]
STAGES = ("preprocess", "engine", "postprocess", "other")


class Sample(NamedTuple):
    """One inspected frame."""

    total_ms: float  # around the whole call
    stages_ms: dict[str, float]  # preprocess, engine, postprocess
    score: float
    is_defect: bool

    @property
    def other_ms(self) -> float:
        """What lies between the stages: locking, copying the map, building the Inspection."""
        return self.total_ms - sum(self.stages_ms.values())

    @property
    def durations_ms(self) -> dict[str, float]:
        """All STAGES, which add up to the total."""
        return {**self.stages_ms, STAGES[-1]: self.other_ms}


def inspect(detector: Detector, frame: Pixels) -> Sample:
    """Inspect one frame, with a clock around the whole call."""
    start = perf_counter()
    inspection = detector.inspect(frame)
    total_ms = (perf_counter() - start) * 1e3
    stages_ms = {stage: inspection.timings_ms[stage] for stage in STAGES[:-1]}
    return Sample(total_ms, stages_ms, inspection.score, inspection.is_defect)


class Contender(Protocol):
    """Something that turns a frame's bytes into a verdict."""

    engine: str
    precision: str
    version: str
    preprocess: Preprocess  # what makes its network images

    def inspect(self, frame: Pixels) -> Sample:
        """A frame (uint8 H×W×3 BGR) all the way to the verdict."""

    def run_bare(self, frame: Pixels, image: Pixels) -> None:
        """The engine alone, on a frame or its network image that is ready (uint8 h×w×3 BGR), whichever it takes."""

    def close(self) -> None: ...


class DetectorContender:
    """A `Detector` of its own."""

    def __init__(self, bundle: Bundle, engine: str, precision: str, threads: int | None) -> None:
        self._detector = Detector(bundle, engine=engine, precision=precision, threads=threads)
        self.engine, self.precision = engine, precision
        self.version = self._detector.engine_version or "unknown"
        self.preprocess = self._detector.preprocess

    def inspect(self, frame: Pixels) -> Sample:
        return inspect(self._detector, frame)

    def run_bare(self, frame: Pixels, image: Pixels) -> None:
        self._detector.run_engine(frame if self._detector.takes_frames else image)

    def close(self) -> None:
        self._detector.close()


class TorchContender:
    """The trained model in eager torch, fp32, on the CPU: where every speed-up starts. It finds no regions."""

    engine, precision = "torch", "fp32"

    def __init__(self, folder: str | Path, bundle: Bundle, threads: int | None) -> None:
        try:
            import torch

            from segrd_edge.training.run import Run
        except ModuleNotFoundError as error:
            raise MissingExtraError("--run", "train", (error.name or "torch").partition(".")[0]) from error
        self._run = Run.load(folder)
        self.preprocess = self._run.preprocess
        expected = tuple(bundle.manifest.preprocess["size_hw"])
        if self.preprocess.size_hw != expected:
            raise OptionError(
                f"the run in {folder} has the network size {self.preprocess.size_hw} (height, width)",
                expected=f"{expected}, as {bundle.path}",
                fix="give the run that this bundle was exported from",
            )
        if threads is not None:
            torch.set_num_threads(threads)
        self._threshold = float(self._run.threshold["value"])
        self.version = str(torch.__version__)

    def inspect(self, frame: Pixels) -> Sample:
        start = perf_counter()
        image = self.preprocess.resize(frame)
        prepared = perf_counter()
        score = self._predict(image).score
        executed = perf_counter()
        is_defect = score >= self._threshold
        end = perf_counter()
        stages_ms = {
            "preprocess": (prepared - start) * 1e3,
            "engine": (executed - prepared) * 1e3,
            "postprocess": (end - executed) * 1e3,
        }
        return Sample((end - start) * 1e3, stages_ms, score, is_defect)

    def run_bare(self, frame: Pixels, image: Pixels) -> None:
        self._predict(image)

    def close(self) -> None:
        del self._run

    def _predict(self, image: Pixels) -> EngineOutput:
        from segrd_edge.training.predict import predict_image

        return predict_image(self._run.model, self.preprocess, image)


class Wanted(NamedTuple):
    """A contender that is not loaded yet."""

    engine: str
    precision: str


def choose(bundle: Bundle, names: Sequence[str] | None, precisions: Sequence[str] | None) -> list[Wanted]:
    """Every engine × precision that is asked for. None is all engines that work here, and all of the bundle's
    precisions that are worth running on an engine.

    Raises:
        EngineError: a named engine is unknown or not installed, or none is installed.
        OptionError: the bundle has no such precision.
    """
    names = names or engines.available() or ["auto"]  # "auto" raises where there is no engine
    classes = dict.fromkeys(engines.engine_class(name) for name in names)
    asked = list(dict.fromkeys(precisions or bundle.manifest.graphs))
    for engine in classes:
        if not engine.is_available():
            raise EngineError(f"the engine {engine.name} is not installed", fix=engine.install)
    return [
        Wanted(engine.name, bundle.precision(precision))
        for precision in asked
        for engine in classes
        if precisions or precision in engine.precisions
    ]
