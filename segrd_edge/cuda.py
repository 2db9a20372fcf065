"""CUDA for the TensorRT engines: the GPU's context, a stream, buffers, a captured graph, and a stopwatch on the GPU.

pycuda has the context, streams, events and memory; it knows nothing of CUDA graphs, so these come from cuda-bindings,
on the same stream. Both are imported when they are first needed, and the driver is asked before.

Every object belongs to a `Device`, and everything on it happens inside `with device.current():`, in any thread. The
process keeps one primary context per GPU for as long as it lives: TensorRT uses the same one, and objects can be freed
in whichever thread has it current.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from .errors import EngineError
from .tensorrt import driver

ALIGNMENT = 256  # bytes: that of addresses which TensorRT takes
_NON_BLOCKING = (
    1  # CU_STREAM_NON_BLOCKING: work on the default stream, of whatever library, neither waits nor is waited for
)
_PYCUDA = "'pycuda>=2024.1' (it is compiled there: CUDA's toolkit must be installed, with nvcc on the PATH)"
_BINDINGS = "pip install 'cuda-bindings<13' for CUDA 12 (JetPack 6), or cuda-bindings for CUDA 13"
_LOST = (
    "the GPU's context is lost and every later call would fail too: restart the program; if it happens again, look for "
    "Xid in the kernel's log (dmesg) and send it with segrd-doctor --json"
)

_contexts: dict[int, Device] = {}
_lock = threading.Lock()


def open_device(index: int = 0) -> Device:
    """The GPU of an index, with its primary context; the same object for the whole process.

    Raises:
        EngineError: no driver, no such GPU, or pycuda is missing or cannot be imported.
    """
    with _lock:
        if index not in _contexts:
            _contexts[index] = Device(index)
        return _contexts[index]


class Device:
    """One GPU and its primary context. Made by `open_device`."""

    def __init__(self, index: int) -> None:
        self.gpu = driver.gpu(index)
        self.pycuda = import_pycuda()
        with self.reported(f"{self.gpu.name} cannot be opened"):
            self.pycuda.init()
            device = self.pycuda.Device(index)
            attribute = self.pycuda.device_attribute
            # Whether processor and GPU share their memory, as on a Jetson.
            self.is_integrated = bool(device.get_attribute(attribute.INTEGRATED))
            self.can_map_memory = bool(device.get_attribute(attribute.CAN_MAP_HOST_MEMORY))
            self._context = device.retain_primary_context()
        # pycuda releases a primary context wrongly when it is only forgotten. At exit this happens after the engines,
        # which are made later: the interpreter finalises in reverse.
        weakref.finalize(self, self._context.detach)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU's context the calling thread's, and give the thread back what it had."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def memory_mode(self, wanted: Literal["auto", "pinned", "mapped"]) -> Literal["pinned", "mapped"]:
        """How frames reach this GPU: "auto" is mapped where it shares the processor's memory.

        Raises:
            EngineError: this GPU cannot read the processor's memory.
        """
        if wanted == "mapped" and not self.can_map_memory:
            raise EngineError(f"{self.gpu.name} cannot map the processor's memory", fix="use memory='pinned' or 'auto'")
        if wanted == "auto":
            return "mapped" if self.is_integrated and self.can_map_memory else "pinned"
        return wanted

    @contextmanager
    def reported(self, what: str) -> Iterator[None]:
        """pycuda's errors as ours."""
        try:
            yield
        except self.pycuda.MemoryError as error:
            fix = (
                "close other programs that use the GPU (nvidia-smi lists them), or export with a smaller batch or frame"
            )
            raise EngineError(f"{what}: {error}", fix=fix) from error
        except self.pycuda.Error as error:
            raise EngineError(f"{what}: {error}", fix=_LOST) from error


class Stream:
    """A queue of work for the GPU, independent of the default stream."""

    def __init__(self, device: Device) -> None:
        self.device = device
        with device.reported("a CUDA stream cannot be made"):
            self.raw: Any = device.pycuda.Stream(flags=_NON_BLOCKING)

    @property
    def handle(self) -> int:
        return int(self.raw.handle)

    def synchronise(self) -> None:
        """Wait until all work is done.

        Raises:
            EngineError: some of it failed.
        """
        with self.device.reported(f"a run on {self.device.gpu.name} failed"):
            self.raw.synchronize()

    def close(self) -> None:
        self.raw = None


class Buffer:
    """Memory of one tensor: `host` for the processor, `address` for the GPU.

    Pinned: two memories, between which `copy_in` and `copy_out` copy. Mapped: one, which both read and write in place,
    and the two calls do nothing. `host` is not initialised, and must not be used while the GPU works on it.
    """

    def __init__(
        self, device: Device, shape: tuple[int, ...], dtype: npt.DTypeLike, memory: Literal["pinned", "mapped"]
    ) -> None:
        self._device = device
        self.host: npt.NDArray[Any] = np.empty(0, dtype)
        self._memory: Any = None
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        flags = device.pycuda.host_alloc_flags.DEVICEMAP if memory == "mapped" else 0
        try:
            with device.reported(f"{size} bytes for a tensor {list(shape)} cannot be had"):
                self.host = device.pycuda.pagelocked_empty(shape, dtype, mem_flags=flags)
                if memory == "mapped":
                    # No variable holds the allocation: an exception's frames would keep it alive.
                    self.address = int(cast(Any, self.host.base).get_device_pointer())
                else:
                    self._memory = device.pycuda.mem_alloc(size)
                    self.address = int(self._memory)
            if self.address % ALIGNMENT:
                raise EngineError(
                    f"memory for a tensor {list(shape)} lies at {self.address:#x}",
                    expected=f"an address that is a multiple of {ALIGNMENT}, as TensorRT asks",
                    fix="use memory='pinned'" if memory == "mapped" else "report it with segrd-doctor --json",
                )
        except BaseException:
            self.close()
            raise

    def copy_in(self, stream: Stream) -> None:
        """Enqueue the copy from `host` to the GPU."""
        if self._memory is not None:
            self._device.pycuda.memcpy_htod_async(self.address, self.host, stream.raw)

    def copy_out(self, stream: Stream) -> None:
        """Enqueue the copy from the GPU to `host`."""
        if self._memory is not None:
            self._device.pycuda.memcpy_dtoh_async(self.host, self.address, stream.raw)

    def close(self) -> None:
        """Free the memory. That of the processor lives on while somebody holds a view of it."""
        memory, self._memory = self._memory, None
        self.host = np.empty(0, self.host.dtype)
        if memory is not None:
            memory.free()


class Stopwatch:
    """Time on the GPU, by events in a stream: what the processor does meanwhile is not in it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        with device.reported("a CUDA event cannot be made"):
            self._start: Any = device.pycuda.Event()
            self._end: Any = device.pycuda.Event()

    def measure_ms(self, stream: Stream, work: Callable[[], None]) -> float:
        """Milliseconds from the start to the end of what `work` enqueues; it waits for the end.

        Raises:
            EngineError: the work failed.
        """
        with self._device.reported(f"a run on {self._device.gpu.name} failed"):
            self._start.record(stream.raw)
            work()
            self._end.record(stream.raw)
            self._end.synchronize()
            return float(self._end.time_since(self._start))

    def close(self) -> None:
        self._start = self._end = None


class Graph:
    """Work that a stream was given once, launched again as a whole: one call instead of one per kernel and copy."""

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        """Capture what `work` enqueues in the stream; nothing of it runs.

        The capture is thread-local: other threads may allocate and synchronise meanwhile.

        Raises:
            EngineError: cuda-bindings is missing, or the work cannot be captured. The stream can be used again.
        """
        self._bindings = import_bindings()
        self._stream = self._bindings.CUstream(stream.handle)
        self._executable: Any = None
        graph = self._capture(stream, work)
        try:
            with _bindings_reported():
                self._executable = self._checked("cuGraphInstantiate", self._bindings.cuGraphInstantiate(graph, 0))
        finally:
            self._bindings.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Enqueue the work once more, on the memory and addresses of the capture.

        Raises:
            EngineError: the driver refuses.
        """
        self._checked("cuGraphLaunch", self._bindings.cuGraphLaunch(self._executable, self._stream))

    def close(self) -> None:
        executable, self._executable = self._executable, None
        if executable is not None:
            self._bindings.cuGraphExecDestroy(executable)

    def _capture(self, stream: Stream, work: Callable[[], None]) -> Any:
        thread_local = self._bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with _bindings_reported():
            self._checked("cuStreamBeginCapture", self._bindings.cuStreamBeginCapture(self._stream, thread_local))
        try:
            with stream.device.reported("the work cannot be captured"), _no_garbage_collection():
                work()
        except BaseException:
            result, graph = self._bindings.cuStreamEndCapture(self._stream)
            if result == self._bindings.CUresult.CUDA_SUCCESS:
                self._bindings.cuGraphDestroy(graph)
            raise
        return self._checked("cuStreamEndCapture", self._bindings.cuStreamEndCapture(self._stream))

    def _checked(self, function: str, answer: tuple[Any, ...]) -> Any:
        result, *values = answer
        if result != self._bindings.CUresult.CUDA_SUCCESS:
            raise EngineError(f"{function} gives {getattr(result, 'name', result)}", fix=_LOST)
        return values[0] if values else None


@contextmanager
def _bindings_reported() -> Iterator[None]:
    """What cuda-bindings raises, instead of giving a result, where the driver has no such function or is not found."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f"cuda-bindings does not fit this driver: {error}", fix=_BINDINGS) from error


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """An engine that nobody closed is freed when garbage is collected, and a capture forbids its thread to free."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def import_pycuda() -> Any:
    """`pycuda.driver`. Raises EngineError where it is missing or cannot be imported, as without a driver."""
    try:
        import pycuda.driver
    except ImportError as error:
        if error.name in ("pycuda", "pycuda.driver"):
            raise EngineError("the TensorRT engines need the package 'pycuda'", fix=f"pip install {_PYCUDA}") from error
        raise EngineError(
            f"pycuda is installed but cannot be imported: {error}",
            fix=f"it was compiled for another CUDA or Python: pip install --force-reinstall --no-cache-dir {_PYCUDA}",
        ) from error
    return pycuda.driver


def import_bindings() -> Any:
    """`cuda.bindings.driver`. Raises EngineError where it is missing or cannot be imported."""
    try:
        from cuda.bindings import driver as bindings
    except ImportError as error:
        raise EngineError(
            f"CUDA graphs need the package 'cuda-bindings' ({error})",
            fix=_BINDINGS,
        ) from error
    return bindings
