"""In the place of `cuda.bindings.driver`: the calls of CUDA graphs that segrd_edge.cuda makes. Each gives a tuple whose
first element is a CUresult, and takes handles as objects or as integers."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from .machine import CudaError, FakeGpu

gpu = FakeGpu()  # another for each test, by `install`


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908


class CUstreamCaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class _Handle:
    def __init__(self, init_value: int = 0) -> None:
        self._value = int(init_value)
        self.gpu = gpu

    def __int__(self) -> int:
        return self._value


class CUstream(_Handle):
    pass


class CUgraph(_Handle):
    pass


class CUgraphExec(_Handle):
    pass


def _call(action: Callable[[], Any], *otherwise: Any) -> tuple[Any, ...]:
    """The result as the real functions give it; `otherwise` are the values that come with an error."""
    try:
        gpu.require_context()
        value = action()
    except CudaError as error:
        return (CUresult(error.code), *otherwise)
    return (CUresult.CUDA_SUCCESS,) if value is None else (CUresult.CUDA_SUCCESS, value)


def cuGetErrorName(error: CUresult) -> tuple[CUresult, bytes]:  # noqa: N802  (CUDA's names, here and below)
    return CUresult.CUDA_SUCCESS, error.name.encode()


def cuGetErrorString(error: CUresult) -> tuple[CUresult, bytes]:  # noqa: N802
    return CUresult.CUDA_SUCCESS, error.name.lower().replace("_", " ").encode()


def cuStreamBeginCapture(hStream: Any, mode: CUstreamCaptureMode) -> tuple[Any, ...]:  # noqa: N802, N803
    if not isinstance(mode, CUstreamCaptureMode):
        raise TypeError("mode must be CUstreamCaptureMode")

    def begin() -> None:
        if mode is not CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL:
            gpu.misuse.append("a capture that forbids other threads their own work")
        gpu.begin_capture(int(hStream))

    return _call(begin)


def cuStreamEndCapture(hStream: Any) -> tuple[Any, ...]:  # noqa: N802, N803
    return _call(lambda: CUgraph(gpu.end_capture(int(hStream))), CUgraph(0))


def cuGraphInstantiate(hGraph: Any, flags: int) -> tuple[Any, ...]:  # noqa: N802, N803
    def instantiate() -> CUgraphExec:
        operations = gpu.graphs.get(int(hGraph))
        if operations is None or gpu.faults.instantiate:
            raise CudaError(CUresult.CUDA_ERROR_INVALID_VALUE, "not a graph that can be instantiated")
        handle = gpu.new_handle()
        gpu.executables[handle] = list(operations)
        gpu.born("executable")
        return CUgraphExec(handle)

    return _call(instantiate, CUgraphExec(0))


def cuGraphLaunch(hGraphExec: Any, hStream: Any) -> tuple[Any, ...]:  # noqa: N802, N803
    return _call(lambda: gpu.launch(int(hGraphExec), int(hStream)))


def cuGraphDestroy(hGraph: Any) -> tuple[Any, ...]:  # noqa: N802, N803
    return _destroy(hGraph, "graph")


def cuGraphExecDestroy(hGraphExec: Any) -> tuple[Any, ...]:  # noqa: N802, N803
    return _destroy(hGraphExec, "executable")


def _destroy(handle: Any, kind: str) -> tuple[Any, ...]:
    owner: FakeGpu = getattr(handle, "gpu", gpu)  # an engine of an earlier test may go only now
    known: dict[int, Any] = {"graph": owner.graphs, "executable": owner.executables}[kind]
    if int(handle) not in known:
        owner.misuse.append(f"{kind} {int(handle):#x} was destroyed twice, or never was")
        return (CUresult.CUDA_ERROR_INVALID_VALUE,)
    del known[int(handle)]
    owner.gone(kind)
    return (CUresult.CUDA_SUCCESS,)
