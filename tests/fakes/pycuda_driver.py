"""In the place of `pycuda.driver`: what segrd_edge.cuda calls of it, with pycuda's rules about contexts and threads."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from . import machine
from .machine import CudaError, FakeGpu

gpu = FakeGpu()  # another for each test, by `install`


class Error(Exception):
    pass


class MemoryError(Error):  # pycuda's name
    pass


class LogicError(Error):
    pass


class RuntimeError(Error):  # pycuda's name
    pass


class LaunchError(Error):
    pass


_NAMES = {
    machine.OUT_OF_MEMORY: (MemoryError, "out of memory"),
    machine.INVALID_VALUE: (LogicError, "invalid argument"),
    machine.INVALID_CONTEXT: (LogicError, "invalid device context"),
    machine.INVALID_HANDLE: (LogicError, "invalid resource handle"),
    machine.ILLEGAL_ADDRESS: (LogicError, "an illegal memory access was encountered"),
}


@contextmanager
def _reported(function: str) -> Iterator[None]:
    """Errors as pycuda raises them."""
    try:
        yield
    except CudaError as error:
        kind, text = _NAMES.get(error.code, (LogicError, "operation not permitted"))
        raise kind(f"{function} failed: {text} ({error.text})") from error


class device_attribute(enum.Enum):  # noqa: N801  (pycuda's name)
    INTEGRATED = 18
    CAN_MAP_HOST_MEMORY = 19


class host_alloc_flags:  # noqa: N801  (pycuda's name)
    PORTABLE, DEVICEMAP, WRITECOMBINED = 1, 2, 4


class event_flags:  # noqa: N801  (pycuda's name)
    DEFAULT, BLOCKING_SYNC, DISABLE_TIMING = 0, 1, 2


_is_initialised = False


def init(flags: int = 0) -> None:
    global _is_initialised
    _is_initialised = True


class Device:
    def __init__(self, ordinal: int, /) -> None:
        if not _is_initialised:
            raise LogicError("cuDeviceGet failed: initialization error")
        if ordinal != 0:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")

    def name(self) -> str:
        return gpu.name

    def get_attribute(self, attribute: device_attribute, /) -> int:
        return int({device_attribute.INTEGRATED: gpu.integrated}.get(attribute, 1))

    def retain_primary_context(self) -> Context:
        return Context()


class Context:
    """`push` and `pop` are of the calling thread. Objects remember the context that they were made in."""

    def __init__(self) -> None:
        self._gpu, self._thread = gpu, threading.get_ident()
        self._is_valid = True
        gpu.born("context")

    def push(self) -> None:
        self._gpu.context_stack.append(self)

    @staticmethod
    def pop() -> None:
        with _reported("cuCtxPopCurrent"):
            gpu.require_context()
        gpu.context_stack.pop()

    def detach(self) -> None:
        if not self._is_valid:
            raise LogicError("context::detach failed: invalid device context - cannot detach from invalid context")
        self._is_valid = False
        self._gpu.gone("context")

    def __del__(self) -> None:
        if self._is_valid:
            self._gpu.misuse.append("a primary context was forgotten, for which pycuda calls cuCtxDetach")


class _Owned:
    """An object of a context. pycuda cannot destroy it in another thread, unless the context is current there."""

    def __init__(self) -> None:
        with _reported("explicit_context_dependent"):
            gpu.require_context()
        self._gpu = gpu
        self._context: Context | None = gpu.context_stack[-1]

    def _destroy(self, destroy: Callable[[], None]) -> None:
        context, self._context = self._context, None
        if context is None:
            return
        if not context._is_valid:
            return  # nothing is left to be destroyed, and pycuda says nothing
        if context not in self._gpu.context_stack and context._thread != threading.get_ident():
            self._gpu.misuse.append(f"{type(self).__name__} in out-of-thread context could not be cleaned up")
            return
        destroy()


class Stream(_Owned):
    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self.handle = gpu.new_handle()
        gpu.streams[self.handle] = machine.Stream(self.handle)
        gpu.born("stream")

    def synchronize(self) -> None:
        with _reported("cuStreamSynchronize"):
            gpu.synchronise(self.handle)

    def is_done(self) -> bool:
        return not gpu.streams[self.handle].queue

    def __del__(self) -> None:
        def destroy() -> None:
            stream = self._gpu.streams.pop(self.handle)
            if stream.queue:
                self._gpu.misuse.append("a stream was destroyed with work in it")
            self._gpu.gone("stream")

        if hasattr(self, "handle"):
            self._destroy(destroy)


class Event(_Owned):
    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self._stream: Stream | None = None
        self._time_ms: float | None = None
        gpu.born("event")

    def record(self, stream: Stream | None = None) -> Event:
        def reached() -> None:
            self._time_ms = gpu.now_ms

        if stream is None:
            raise LogicError("the fake has no default stream")
        self._stream, self._time_ms = stream, None
        with _reported("cuEventRecord"):
            gpu.submit(stream.handle, reached)
        return self

    def synchronize(self) -> Event:
        if self._stream is not None:
            self._stream.synchronize()
        return self

    def query(self) -> bool:
        return self._time_ms is not None

    def time_since(self, event: Event, /) -> float:
        if self._time_ms is None or event._time_ms is None:
            raise LogicError("cuEventElapsedTime failed: device not ready")
        return self._time_ms - event._time_ms

    def time_till(self, event: Event, /) -> float:
        return event.time_since(self)

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self._destroy(lambda: self._gpu.gone("event"))


class DeviceAllocation(_Owned):
    def __init__(self, size: int) -> None:
        super().__init__()
        with _reported("cuMemAlloc"):
            self._address, _ = gpu.allocate(size)

    def __int__(self) -> int:
        return self._address

    __index__ = __int__

    def free(self) -> None:
        if self._context is None:
            raise LogicError("device_allocation::free failed: invalid resource handle")
        self._destroy(lambda: self._gpu.free(self._address))

    def __del__(self) -> None:
        if hasattr(self, "_address"):
            self._destroy(lambda: self._gpu.free(self._address))


class PagelockedHostAllocation(_Owned):
    def __init__(self, size: int, flags: int) -> None:
        super().__init__()
        mapped = bool(flags & host_alloc_flags.DEVICEMAP)
        with _reported("cuMemHostAlloc"):
            self._address, self._memory = gpu.allocate(size, host=True, mapped=mapped)
        self.__array_interface__: dict[str, Any] = dict(self._memory.__array_interface__)

    def get_device_pointer(self) -> int:
        if not self._address:
            raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
        return self._address

    def free(self) -> None:
        if self._context is None:
            raise LogicError("pagelocked_host_allocation::free failed: invalid resource handle")
        self._destroy(lambda: self._gpu.free(self._address, self._memory.ctypes.data))

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            self._destroy(lambda: self._gpu.free(self._address, self._memory.ctypes.data))


def mem_alloc(size: int, /) -> DeviceAllocation:
    return DeviceAllocation(size)


def pagelocked_empty(
    shape: int | tuple[int, ...], dtype: Any, order: str = "C", mem_flags: int = 0
) -> npt.NDArray[Any]:
    """An array whose `base` is the allocation, as in pycuda."""
    element = np.dtype(dtype)
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    allocation = PagelockedHostAllocation(int(np.prod(dims)) * element.itemsize, mem_flags)
    allocation.__array_interface__ |= {"shape": dims, "typestr": element.str}
    return np.asarray(allocation)


def memcpy_htod_async(dest: int, src: npt.NDArray[Any], stream: Stream | None = None) -> None:
    _copy("cuMemcpyHtoDAsync", int(dest), src, stream, to_device=True)


def memcpy_dtoh_async(dest: npt.NDArray[Any], src: int, stream: Stream | None = None) -> None:
    _copy("cuMemcpyDtoHAsync", int(src), dest, stream, to_device=False)


def _copy(function: str, address: int, array: npt.NDArray[Any], stream: Stream | None, *, to_device: bool) -> None:
    if stream is None:
        raise LogicError("the fake has no default stream")
    if not array.flags.c_contiguous:
        raise BufferError("the array is not contiguous")
    pointer, size = array.ctypes.data, array.nbytes

    def copy() -> None:
        host, device = gpu.pinned_at(pointer, size), gpu.at(address, size)
        if to_device:
            device[:] = host
        else:
            host[:] = device
        gpu.now_ms += gpu.copy_ms

    gpu.counts["copy"] += 1
    with _reported(function):
        gpu.pinned_at(pointer, size)  # the fake copies from and to pinned memory alone
        gpu.at(address, size)
        gpu.submit(stream.handle, copy)


def memset_d8_async(dest: int, data: int, size: int, stream: Stream | None = None) -> None:
    if stream is None:
        raise LogicError("the fake has no default stream")

    def fill() -> None:
        gpu.at(int(dest), size)[:] = data

    with _reported("cuMemsetD8Async"):
        gpu.at(int(dest), size)
        gpu.submit(stream.handle, fill)


def mem_get_info() -> tuple[int, int]:
    with _reported("cuMemGetInfo"):
        gpu.require_context()
    return gpu.memory_bytes - gpu.in_use(), gpu.memory_bytes
