"""What `gpu_test` checks on a GPU: each check is a function that returns figures, raises `Skip` where the machine
cannot do it, and an error where the GPU does something else than we take for granted.

The first group needs a driver, pycuda and cuda-bindings; the second TensorRT as well, and a bundle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from segrd_edge import cuda, engines
from segrd_edge.bundle import Bundle
from segrd_edge.detector import Detector
from segrd_edge.engines.tensorrt import TensorRtEngine
from segrd_edge.errors import SegrdError
from segrd_edge.selftest import TOLERANCE
from segrd_edge.tensorrt.choose import prepare

Figures = dict[str, Any]
Frame = npt.NDArray[np.uint8]

_BYTES = 2048 * 2448 * 3  # of a camera of five megapixels
_THREADS = 4
_RUNS = 100
_ROUNDS = 50
_FRAMES = 1000
_IDLE_S = (1.0, 8)  # a gap, and how many
_KEEP_WARM_MS = 20.0


class Skip(Exception):  # noqa: N818  (no error: the machine lacks something)
    """This machine cannot do the check; the message says why."""


class CheckError(SegrdError):
    """The GPU did something else than was expected."""


def expect(condition: bool, what: str) -> None:
    """Raise `CheckError` unless the condition holds."""
    if not condition:
        raise CheckError(what)


# pycuda and cuda-bindings


def describe_gpu() -> Figures:
    """The GPU as the driver and pycuda have it."""
    device = cuda.open_device()
    with device.current():
        free, total = device.pycuda.mem_get_info()
    return {
        **vars(device.gpu),
        "integrated": device.is_integrated,
        "maps_host_memory": device.can_map_memory,
        "memory_gib": round(total / 2**30, 1),
        "free_gib": round(free / 2**30, 1),
    }


def copies_through_pinned_memory() -> Figures:
    """A frame to the GPU and back is the same; GB/s of both copies."""
    with _stream() as (device, stream), _buffer(device, "pinned") as buffer:
        frame = _noise(_BYTES)
        buffer.host[...] = frame
        stopwatch = cuda.Stopwatch(device)
        in_ms = [stopwatch.measure_ms(stream, lambda: buffer.copy_in(stream)) for _ in range(10)]
        buffer.host[...] = 0
        out_ms = [stopwatch.measure_ms(stream, lambda: buffer.copy_out(stream)) for _ in range(10)]
        expect(bool((buffer.host == frame).all()), "bytes changed on their way to the GPU and back")
        stopwatch.close()
    return {"bytes": _BYTES, "in_gb_per_s": _rate(in_ms), "out_gb_per_s": _rate(out_ms)}


def writes_into_mapped_memory() -> Figures:
    """The processor sees what the GPU wrote into mapped memory, without a copy."""
    if not cuda.open_device().can_map_memory:
        raise Skip("this GPU cannot map the processor's memory")
    with _stream() as (device, stream), _buffer(device, "mapped") as buffer:
        buffer.host[...] = 0
        device.pycuda.memset_d8_async(buffer.address, 7, _BYTES, stream.raw)
        stream.synchronise()
        expect(bool((buffer.host == 7).all()), "the processor does not see what the GPU wrote into mapped memory")
    return {"bytes": _BYTES}


def captures_and_replays_a_graph() -> Figures:
    """A captured copy in and out, replayed on other bytes; microseconds of a launch from Python."""
    with _stream() as (device, stream), _buffer(device, "pinned") as buffer:

        def round_trip() -> None:
            buffer.copy_in(stream)
            buffer.copy_out(stream)

        round_trip()
        stream.synchronise()
        graph = cuda.Graph(stream, round_trip)
        try:
            frame = _noise(_BYTES)
            buffer.host[...] = frame
            graph.launch()
            stream.synchronise()
            expect(bool((buffer.host == frame).all()), "a replayed graph changed the bytes")
            started = perf_counter()
            for _ in range(_RUNS):
                graph.launch()
            launch_us = (perf_counter() - started) / _RUNS * 1e6
            stream.synchronise()
        finally:
            graph.close()
    return {"launch_us": round(launch_us, 1)}


def serves_several_threads() -> Figures:
    """Streams, buffers and graphs of several threads at once, captured while the others run."""

    def work(seed: int) -> bool:
        with _stream() as (device, stream), _buffer(device, "pinned") as buffer:
            frame = _noise(_BYTES, seed)
            buffer.host[...] = frame

            def round_trip() -> None:
                buffer.copy_in(stream)
                buffer.copy_out(stream)

            graph = cuda.Graph(stream, round_trip)
            for _ in range(_RUNS):
                graph.launch()
            stream.synchronise()
            graph.close()
            return bool((buffer.host == frame).all())

    with ThreadPoolExecutor(_THREADS) as pool:
        right = list(pool.map(work, range(_THREADS)))
    expect(all(right), f"of {_THREADS} threads, {right.count(False)} got back other bytes")
    return {"threads": _THREADS, "launches": _RUNS}


CUDA_CHECKS: tuple[Callable[[], Figures], ...] = (
    describe_gpu,
    copies_through_pinned_memory,
    writes_into_mapped_memory,
    captures_and_replays_a_graph,
    serves_several_threads,
)


# TensorRT


@dataclass(frozen=True)
class Subject:
    """What the checks of an engine are about."""

    bundle: Bundle
    engine: str  # "tensorrt" or "tensorrt-rtx"
    precision: str  # that "auto" chose
    frames: Sequence[Frame]

    def detector(self, **options: Any) -> Detector:
        return Detector(self.bundle, engine=self.engine, **{"precision": self.precision, **options})


def builds_tests_and_chooses(bundle: Bundle, engine: str) -> Figures:
    """`precision="auto"`: every candidate built, self-tested and timed; the choice and its reason."""
    choice = prepare(bundle, flavour=engine)
    try:
        return {
            "chosen": choice.precision,
            "reason": choice.reason,
            "candidates": [vars(candidate) for candidate in choice.candidates],
            "cuda_graph": choice.engine.no_graph_reason or "used",
            "memory": choice.engine.memory,
        }
    finally:
        choice.engine.close()


def runs_every_precision(subject: Subject) -> Figures:
    """Each of the bundle's graphs passes its self-test; milliseconds on the GPU, by events."""
    figures: Figures = {}
    for precision in subject.bundle.manifest.graphs:
        found, chosen = _tensorrt(subject.engine).open(subject.bundle, precision)
        engine = cast(TensorRtEngine, found)
        try:
            figures[chosen] = {
                "run_ms": round(median(engine.time_ms() for _ in range(_RUNS)), 4),
                "cuda_graph": engine.no_graph_reason or "used",
                "batch": engine.batch,
                "takes_frames": engine.takes_frames,
            }
        finally:
            engine.close()
    return figures


def agrees_with_the_cpu(subject: Subject) -> Figures:
    """Verdicts and scores of frames against ONNX Runtime's of the same graph."""
    with (
        subject.detector() as mine,
        Detector(subject.bundle, engine="onnxruntime", precision=subject.precision) as theirs,
    ):
        pairs = [(mine.inspect(frame), theirs.inspect(frame)) for frame in subject.frames]
    difference = max(abs(a.score - b.score) for a, b in pairs)
    expect(difference <= TOLERANCE[mine.precision], f"scores differ from ONNX Runtime's by up to {difference:.4f}")
    changed = sum(a.verdict != b.verdict for a, b in pairs)
    return {"frames": len(pairs), "max_score_difference": difference, "verdicts_changed": changed}


def several_detectors_in_several_threads(subject: Subject) -> Figures:
    """Two Detectors, each called from several threads, give what one thread gives."""
    with subject.detector() as one, subject.detector() as two:
        expected = [one.inspect(frame).score for frame in subject.frames]
        wrong: list[int] = []

        def work(number: int) -> None:
            detector = (one, two)[number % 2]
            for _ in range(_RUNS // len(subject.frames) + 1):
                scores = [detector.inspect(frame).score for frame in subject.frames]
                if not np.allclose(scores, expected, rtol=0, atol=1e-4):
                    wrong.append(number)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    expect(not wrong, f"threads {sorted(set(wrong))} got other scores than one thread alone")
    return {"detectors": 2, "threads": _THREADS}


def allocates_nothing_per_frame(subject: Subject) -> Figures:
    """A thousand frames leave the GPU's free memory as it was."""
    device = cuda.open_device()

    def free() -> int:
        with device.current():
            return int(device.pycuda.mem_get_info()[0])

    with subject.detector() as detector:
        detector.inspect(subject.frames[0])
        before = free()
        for number in range(_FRAMES):
            detector.inspect(subject.frames[number % len(subject.frames)])
        grown = before - free()
    expect(grown <= 1 << 20, f"{_FRAMES} frames took {grown} bytes of the GPU's memory")
    return {"frames": _FRAMES, "grown_bytes": grown}


def compares_memory_modes(subject: Subject) -> Figures:
    """Pinned against mapped memory, interleaved: milliseconds of a whole inspection."""
    return _compare(subject, {mode: {"memory": mode} for mode in ("pinned", "mapped")})


def compares_with_and_without_a_graph(subject: Subject) -> Figures:
    """CUDA graph against plain enqueue, interleaved: milliseconds of a whole inspection."""
    return _compare(subject, {"graph": {"cuda_graph": True}, "enqueue": {"cuda_graph": False}})


def wakes_from_an_idle_gap(subject: Subject) -> Figures:
    """The first frame after a second without any, with and without keep_warm_ms."""
    gap_s, count = _IDLE_S
    figures: Figures = {"gap_s": gap_s, "gaps": count}
    for name, keep_warm_ms in (("cold", None), ("kept_warm", _KEEP_WARM_MS)):
        with subject.detector(keep_warm_ms=keep_warm_ms) as detector:
            busy = [detector.inspect(subject.frames[0]).timings_ms["total"] for _ in range(_RUNS)]
            first = []
            for _ in range(count):
                sleep(gap_s)
                first.append(detector.inspect(subject.frames[0]).timings_ms["total"])
        figures[name] = {"busy_ms": round(median(busy), 3), "first_ms": round(median(first), 3), "max_ms": max(first)}
    return figures


ENGINE_CHECKS: tuple[Callable[[Subject], Figures], ...] = (
    runs_every_precision,
    agrees_with_the_cpu,
    several_detectors_in_several_threads,
    allocates_nothing_per_frame,
    compares_memory_modes,
    compares_with_and_without_a_graph,
    wakes_from_an_idle_gap,
)


def _compare(subject: Subject, variants: dict[str, dict[str, Any]]) -> Figures:
    """Median milliseconds of `inspect` per variant; their turns alternate, so that a changing clock hits all."""
    detectors = {name: subject.detector(**options) for name, options in variants.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in variants}
    try:
        for number in range(_ROUNDS):
            frame = subject.frames[number % len(subject.frames)]
            for name, detector in detectors.items():
                detector.inspect(frame)  # caches are this variant's now
                times_ms[name].append(detector.inspect(frame).timings_ms["total"])
    finally:
        for detector in detectors.values():
            detector.close()
    return {name: {"median_ms": round(median(found), 4), "samples": len(found)} for name, found in times_ms.items()}


def _tensorrt(name: str) -> type[TensorRtEngine]:
    found = engines.engine_class(name)
    if not issubclass(found, TensorRtEngine):
        raise CheckError(f"the engine {name} is no TensorRT")
    return found


@contextmanager
def _stream() -> Iterator[tuple[cuda.Device, cuda.Stream]]:
    device = cuda.open_device()
    with device.current():
        stream = cuda.Stream(device)
        try:
            yield device, stream
        finally:
            stream.synchronise()
            stream.close()


@contextmanager
def _buffer(device: cuda.Device, memory: Any) -> Iterator[cuda.Buffer]:
    buffer = cuda.Buffer(device, (_BYTES,), np.uint8, memory)
    try:
        yield buffer
    finally:
        buffer.close()


def _noise(size: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def _rate(times_ms: list[float]) -> float:
    return round(_BYTES / 1e6 / median(times_ms), 2)
