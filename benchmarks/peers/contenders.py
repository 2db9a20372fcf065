"""Who is measured: our Detector, models of anomalib, eager torch, and the engines alone. Each says how long it took."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from segrd_edge.bundle import Bundle
from segrd_edge.detector import Detector
from segrd_edge.engines.openvino import cpu_settings
from segrd_edge.errors import EngineError, SegrdError
from segrd_edge.machine import package_version
from segrd_edge.preprocess import Preprocess

from ..contenders import Pixels, TorchContender
from .installation import Installed

WORKER = Path(__file__).with_name("worker.py")
# Key in the worker → what anomalib calls it.
PEERS = {"efficientad-s": "EfficientAD-S", "stfpm": "STFPM", "reverse-distillation": "Reverse Distillation"}
PEER_PRECISIONS = ("fp32", "int8")
_CLOSING_S = 30


class Took(NamedTuple):
    """What a frame took."""

    ms: float  # by the clock
    processor_ms: float  # of all the process's threads: what is left of the clock on a machine that others use too


class Contender(Protocol):
    """Something that inspects a frame."""

    name: str
    kind: str  # own, torch, floor or peer
    precision: str
    version: str

    def run(self, frame: Pixels) -> Took:
        """A frame (uint8 H×W×3) to its result."""

    def close(self) -> None: ...


class OwnDetector:
    """A `Detector` on the fastest engine for the processor."""

    kind = "own"

    def __init__(self, bundle: Bundle, engine: str, precision: str, threads: int) -> None:
        self._detector = Detector(bundle, engine=engine, precision=precision, threads=threads)
        self.name, self.precision = f"segrd-edge {bundle.manifest.model.name}, {bundle.path.stem}", precision
        self.version = f"{engine} {self._detector.engine_version}"

    def run(self, frame: Pixels) -> Took:
        return _timed(lambda: self._detector.inspect(frame))

    def close(self) -> None:
        self._detector.close()


class EagerTorch:
    """The model of a run in eager torch, as its authors run it: behind our resize, to score, map and verdict."""

    kind, precision = "torch", "fp32"

    def __init__(self, run: Path, bundle: Bundle, threads: int) -> None:
        self._contender = TorchContender(run, bundle, threads)
        self.name, self.version = f"eager torch, {run.name}", self._contender.version

    def run(self, frame: Pixels) -> Took:
        return _timed(lambda: self._contender.inspect(frame))

    def close(self) -> None:
        self._contender.close()


class Floor:
    """An engine that reads our graph's file on its own, behind our resize: no threshold, no regions, no Inspection."""

    kind = "floor"

    def __init__(self, engine: str, graph: bytes, precision: str, preprocess: Preprocess, threads: int) -> None:
        load = {"openvino": _openvino, "onnxruntime": _onnxruntime}[engine]
        try:
            self._infer = load(graph, threads)
        except RuntimeError as error:
            raise EngineError(f"{engine} cannot load the graph: {error}") from error
        self._preprocess = preprocess
        self.name, self.precision, self.version = f"plain {engine}", precision, package_version(engine) or "unknown"

    def run(self, frame: Pixels) -> Took:
        ready = frame.shape[:2] == self._preprocess.size_hw
        return _timed(lambda: self._infer((frame if ready else self._preprocess.resize(frame))[np.newaxis]))

    def close(self) -> None:
        del self._infer


def _timed(step: Callable[[], object]) -> Took:
    start, processor = perf_counter(), process_time()
    step()
    return Took((perf_counter() - start) * 1e3, (process_time() - processor) * 1e3)


def _openvino(graph: bytes, threads: int) -> Any:
    import openvino

    core = openvino.Core()
    request = core.compile_model(core.read_model(graph), "CPU", cpu_settings(threads)).create_infer_request()
    return lambda item: request.infer({0: item})


def _onnxruntime(graph: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda item: session.run(None, {name: item})


class Peer:
    """A model of anomalib in a process of its own, which stays open. Times are taken there, around `predict`."""

    kind = "peer"

    def __init__(
        self, key: str, precision: str, installed: Installed, frames: Path, size_hw: tuple[int, int], threads: int
    ) -> None:
        self.name, self.precision = f"anomalib {PEERS[key]}", precision
        self.version = f"{installed.versions['anomalib']}, openvino {installed.versions.get('openvino')}"
        exports = installed.folder.absolute() / "exports"
        exports.mkdir(exist_ok=True)
        self._said: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            worker_command(installed.python, key, precision, size_hw, threads, frames, exports),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        try:
            self._reply()
        except SegrdError:
            self.close()
            raise

    def run(self, frame: Pixels) -> Took:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"shape": frame.shape}).encode() + b"\n" + frame.tobytes())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said last is the better message
        reply = self._reply()
        return Took(reply["ms"], reply["processor_ms"])

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(_CLOSING_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return dict(json.loads(line))
        code = self._process.wait()
        self._said.seek(0)
        last = ([line.strip() for line in self._said if line.strip()] or [f"exit code {code}"])[-1]
        raise EngineError(f"{self.name} {self.precision} ended: {last}")


def worker_command(
    python: Path, key: str, precision: str, size_hw: tuple[int, int], threads: int, frames: Path, exports: Path
) -> Sequence[str]:
    """The command line of a worker. Isolated (-I): modules here are named like other people's."""
    size = [str(side) for side in size_hw]
    start = [str(python), "-I", str(WORKER), key, precision, "--size", *size, "--threads", str(threads)]
    return [*start, "--frames", str(frames), "--exports", str(exports)]
