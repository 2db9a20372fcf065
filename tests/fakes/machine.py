"""The fake GPU itself: memory, streams that work when somebody waits for them, graphs, and the faults to provoke."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Outputs = dict[str, npt.NDArray[Any]]
_PAGE = 1 << 16


class CudaError(Exception):
    """A driver call that failed, by CUresult's number. The fakes of pycuda and cuda-bindings report it their way."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONTEXT, INVALID_HANDLE = 1, 2, 201, 400
NOT_READY, ILLEGAL_ADDRESS = 600, 700
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, CAPTURE_WRONG_THREAD = 900, 901, 908


@dataclass
class Faults:
    """What is to go wrong. Tests set these; nothing is wrong at first."""

    enqueue: Callable[[int], bool] = lambda count: False  # whether the count-th enqueue (from 1) is refused
    capture: bool = False  # an enqueue synchronises, as engines with host control flow do: that ends a capture
    instantiate: bool = False  # a captured graph cannot be made executable
    deserialise: str = ""  # the log line with which a plan is refused
    create_context: str = ""  # the log line with which an execution context is refused
    build: str = ""  # the log line with which a build fails
    launch: int = 0  # CUresult of work that fails on the GPU, seen when somebody waits for it
    # Alters the outputs of a run, which has a graph of this precision.
    outputs: Callable[[Outputs, str], None] = lambda outputs, precision: None
    replay: Callable[[Outputs], None] = lambda outputs: None  # the same, only for runs inside a graph's launch


@dataclass
class Stream:
    handle: int
    queue: list[Callable[[], None]] = field(default_factory=list)
    capturing: Capture | None = None


@dataclass
class Capture:
    thread: int
    operations: list[Callable[[], None]] = field(default_factory=list)
    is_valid: bool = True


class FakeGpu:
    """One GPU, as the tests see it.

    `counts` has every driver call by name ("mem_alloc", "host_alloc", "launch", "enqueue", "synchronise", …), and
    `destroyed` the kinds of objects in the order in which they went. `misuse` lists what a real GPU would have answered
    with undefined behaviour; it must stay empty.
    """

    contexts: ClassVar[threading.local] = threading.local()  # .stack: those pushed in this thread, of all machines

    def __init__(
        self,
        *,
        name: str = "Fake RTX",
        compute_capability: tuple[int, int] = (8, 9),
        integrated: bool = False,
        memory_bytes: int = 1 << 32,
        alignment: int = 512,
    ) -> None:
        self.name, self.compute_capability, self.integrated = name, compute_capability, integrated
        self.memory_bytes, self.alignment = memory_bytes, alignment
        self.faults = Faults()
        # Milliseconds on the GPU of one run, by precision. Time passes in these alone, so a test can order it.
        self.run_ms = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "mixed": 1.0}
        self.copy_ms = 0.1
        self.now_ms = 0.0
        self.counts: Counter[str] = Counter()
        self.destroyed: list[str] = []
        self.misuse: list[str] = []
        self.alive: Counter[str] = Counter()  # objects by kind
        self.lock = threading.RLock()
        self.in_replay = False
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self._device: dict[int, Bytes] = {}  # what an address of the GPU leads to; mapped host memory too
        self._host: dict[int, Bytes] = {}  # pinned memory
        self._handles = itertools.count(0x1000, 0x10)
        self._next_address = 0x7F00_0000_0000

    # Objects

    def new_handle(self) -> int:
        return next(self._handles)

    def born(self, kind: str) -> None:
        with self.lock:
            self.counts[kind] += 1
            self.alive[kind] += 1

    def gone(self, kind: str) -> None:
        with self.lock:
            self.alive[kind] -= 1
            self.destroyed.append(kind)

    def leaks(self) -> dict[str, int]:
        """Objects and memory that were made and not destroyed, but for the context, which the process keeps."""
        return {kind: count for kind, count in self.alive.items() if count and kind != "context"}

    # Contexts

    @property
    def context_stack(self) -> list[Any]:
        if not hasattr(self.contexts, "stack"):
            self.contexts.stack = []
        stack: list[Any] = self.contexts.stack
        return stack

    def require_context(self) -> None:
        if not self.context_stack:
            raise CudaError(INVALID_CONTEXT, "no context is current in this thread")

    # Memory

    def allocate(self, size: int, *, host: bool = False, mapped: bool = False) -> tuple[int, Bytes]:
        """Address on the GPU (0 where it has none) and the bytes there."""
        self.require_context()
        self._refuse_in_capture("an allocation")
        if size < 1:
            raise CudaError(INVALID_VALUE, f"{size} bytes")
        if self.in_use() + size > self.memory_bytes:
            raise CudaError(OUT_OF_MEMORY, f"{size} bytes, where {self.memory_bytes - self.in_use()} are left")
        raw = np.full(size + _PAGE, 0xCD, np.uint8)  # not zeros: memory that nobody wrote is to be noticed
        start = -raw.ctypes.data % 4096
        memory = raw[start : start + size]
        address = 0
        if not host or mapped:
            address = self._next_address + (self.alignment if self.alignment < 256 else 0)
            self._next_address += (size // _PAGE + 2) * _PAGE
            self._device[address] = memory
        if host:
            self._host[memory.ctypes.data] = memory
        self.born("host_alloc" if host else "mem_alloc")
        return address, memory

    def free(self, address: int, host_address: int = 0) -> None:
        if address:
            del self._device[address]
        if host_address:
            del self._host[host_address]
        self.gone("host_alloc" if host_address else "mem_alloc")

    def in_use(self) -> int:
        """Bytes of the GPU's memory that are allocated."""
        return sum(memory.nbytes for memory in self._device.values())

    def at(self, address: int, size: int) -> Bytes:
        """Memory behind an address of the GPU."""
        return _find(self._device, address, size)

    def pinned_at(self, address: int, size: int) -> Bytes:
        """Pinned memory of the host."""
        return _find(self._host, address, size)

    # Streams

    def stream(self, handle: int) -> Stream:
        if handle not in self.streams:
            raise CudaError(INVALID_HANDLE, f"no stream {handle:#x}: the default stream, or a destroyed one")
        return self.streams[handle]

    def submit(self, handle: int, operation: Callable[[], None]) -> None:
        """Put work into a stream. It is done when somebody waits, or becomes part of the graph under capture."""
        self.require_context()
        stream = self.stream(handle)
        (stream.queue if stream.capturing is None else stream.capturing.operations).append(operation)

    def synchronise(self, handle: int) -> None:
        self.require_context()
        stream = self.stream(handle)
        self.counts["synchronise"] += 1
        if stream.capturing is not None:
            stream.capturing.is_valid = False
            raise CudaError(CAPTURE_UNSUPPORTED, "a synchronisation during capture")
        with self.lock:
            while stream.queue:
                stream.queue.pop(0)()
        if self.faults.launch:
            raise CudaError(self.faults.launch, "the work failed on the GPU")

    # Capture, in thread-local mode: forbidden is what this thread does

    def begin_capture(self, handle: int) -> None:
        stream = self.stream(handle)
        if stream.capturing is not None:
            raise CudaError(CAPTURE_UNSUPPORTED, "the stream is being captured already")
        stream.capturing = Capture(threading.get_ident())

    def end_capture(self, handle: int) -> int:
        stream = self.stream(handle)
        capture, stream.capturing = stream.capturing, None
        if capture is None:
            raise CudaError(INVALID_VALUE, "the stream is not being captured")
        if capture.thread != threading.get_ident():
            raise CudaError(CAPTURE_WRONG_THREAD, "a capture ends in the thread that began it")
        if not capture.is_valid:
            raise CudaError(CAPTURE_INVALIDATED, "something during the capture is not allowed there")
        graph = self.new_handle()
        self.graphs[graph] = capture.operations
        self.born("graph")
        return graph

    def launch(self, executable: int, handle: int) -> None:
        if executable not in self.executables:
            raise CudaError(INVALID_HANDLE, f"no executable graph {executable:#x}, or a destroyed one")
        self.counts["launch"] += 1

        def replay() -> None:
            if executable not in self.executables:
                raise CudaError(INVALID_HANDLE, "the graph was destroyed while it ran")
            self.in_replay = True
            try:
                for operation in self.executables[executable]:
                    operation()
            finally:
                self.in_replay = False

        self.submit(handle, replay)

    def _refuse_in_capture(self, what: str) -> None:
        for stream in list(self.streams.values()):
            if stream.capturing is not None and stream.capturing.thread == threading.get_ident():
                stream.capturing.is_valid = False
                raise CudaError(CAPTURE_UNSUPPORTED, f"{what} during capture")


def _find(memories: dict[int, Bytes], address: int, size: int) -> Bytes:
    for start, memory in list(memories.items()):
        if start <= address and address + size <= start + memory.nbytes:
            return memory[address - start : address - start + size]
    raise CudaError(ILLEGAL_ADDRESS, f"{size} bytes at {address:#x} are not, or no longer, allocated")
