"""The fake refuses what a GPU refuses: otherwise the tests that stand on it would show nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segrd_edge.tensorrt import library
from segrd_edge.tensorrt.build import build
from segrd_edge.tensorrt.plan import deserialise

from .machine import FakeGpu

NON_BLOCKING = 1


class Setup:
    """An engine of the small deploy graph with its buffers and a stream."""

    def __init__(self, graph: bytes) -> None:
        import pycuda.driver as cuda

        self.cuda = cuda
        cuda.init()
        self.gpu_context = cuda.Device(0).retain_primary_context()
        self.gpu_context.push()
        self.stream = cuda.Stream(flags=NON_BLOCKING)
        self.loaded = deserialise(build(graph).plan, flavour="tensorrt")
        self.context = self.loaded.engine.create_execution_context()
        self.image = cuda.pagelocked_empty((1, 64, 96, 3), np.uint8)
        self.score = cuda.pagelocked_empty((1,), np.float32)
        self.device = {"image": cuda.mem_alloc(self.image.nbytes), "score": cuda.mem_alloc(4)}
        self.device["anomaly_map"] = cuda.mem_alloc(64 * 96 * 4)
        for name, memory in self.device.items():
            assert self.context.set_tensor_address(name, int(memory))

    def enqueue(self) -> None:
        self.cuda.memcpy_htod_async(int(self.device["image"]), self.image, self.stream)
        assert self.context.execute_async_v3(self.stream.handle)
        self.cuda.memcpy_dtoh_async(self.score, int(self.device["score"]), self.stream)


@pytest.fixture
def setup(fake_gpu: FakeGpu, deploy_graph: Callable[..., bytes]) -> Setup:
    return Setup(deploy_graph())


def test_work_happens_when_somebody_waits(setup: Setup) -> None:
    setup.image[...] = 255
    setup.score[...] = -1
    setup.enqueue()
    assert setup.score[0] == -1
    setup.stream.synchronize()
    assert setup.score[0] == pytest.approx((215 + 135 + 55) / 3 / 255)


def test_freed_memory_is_refused(setup: Setup) -> None:
    setup.enqueue()
    setup.device["score"].free()
    with pytest.raises(setup.cuda.LogicError, match="illegal memory access"):
        setup.stream.synchronize()
    with pytest.raises(setup.cuda.LogicError, match="free failed"):
        setup.device["score"].free()


def test_another_thread_has_no_context(setup: Setup) -> None:
    errors: list[Exception] = []

    def wait() -> None:
        try:
            setup.stream.synchronize()
        except setup.cuda.LogicError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert "no context is current" in str(errors[0])


def test_destruction_out_of_order_is_noticed(fake_gpu: FakeGpu, setup: Setup) -> None:
    setup.enqueue()
    del setup.context
    setup.stream.synchronize()
    assert "context went while it had work" in fake_gpu.misuse.pop()
    setup.context = setup.loaded.engine.create_execution_context()
    loaded, setup.loaded = setup.loaded, None  # type: ignore[assignment]
    engine = loaded.engine
    del loaded
    assert fake_gpu.misuse.pop() == "a runtime went before its engine"
    del engine
    assert fake_gpu.misuse.pop() == "an engine went before its execution context"


def capture(setup: Setup, during: Callable[[], Any]) -> tuple[Any, int]:
    from cuda.bindings import driver

    stream = driver.CUstream(setup.stream.handle)
    (result,) = driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    assert result == driver.CUresult.CUDA_SUCCESS
    during()
    result, graph = driver.cuStreamEndCapture(stream)
    return result, int(graph)


def test_a_captured_graph_replays(fake_gpu: FakeGpu, setup: Setup) -> None:
    from cuda.bindings import driver

    setup.image[...], setup.score[...] = 255, -1
    result, graph = capture(setup, setup.enqueue)
    assert result == 0
    setup.stream.synchronize()
    assert setup.score[0] == -1  # recorded, not run
    _, executable = driver.cuGraphInstantiate(driver.CUgraph(graph), 0)
    driver.cuGraphDestroy(graph)
    for level in (255, 40):
        setup.image[...] = level
        assert driver.cuGraphLaunch(executable, setup.stream.handle) == (0,)
        setup.stream.synchronize()
        expected = np.abs(np.array([level]) - np.array([40, 120, 200])).mean() / 255
        assert setup.score[0] == pytest.approx(expected)
    driver.cuGraphExecDestroy(executable)
    (result,) = driver.cuGraphLaunch(executable, setup.stream.handle)
    assert result == driver.CUresult.CUDA_ERROR_INVALID_HANDLE


@pytest.mark.parametrize("what", ["synchronisation", "allocation"])
def test_capture_refuses(what: str, setup: Setup) -> None:
    def forbidden() -> None:
        with pytest.raises(setup.cuda.Error, match=what):
            setup.stream.synchronize() if what == "synchronisation" else setup.cuda.mem_alloc(4)

    result, graph = capture(setup, forbidden)
    assert result.name == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    assert graph == 0


def test_plans_are_refused_when_damaged_or_foreign(fake_gpu: FakeGpu, deploy_graph: Callable[..., bytes]) -> None:
    trt = library.load("tensorrt-rtx")
    lines: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[name-defined,misc]
        def log(self, severity: Any, msg: str) -> None:
            lines.append(msg)

    runtime = trt.Runtime(Logger())
    plan = trt.make_plan(deploy_graph())
    assert runtime.deserialize_cuda_engine(plan) is not None
    assert runtime.deserialize_cuda_engine(plan[:-1]) is None
    assert runtime.deserialize_cuda_engine(trt.make_plan(deploy_graph(), version="10.3.0")) is None
    assert runtime.deserialize_cuda_engine(trt.make_plan(deploy_graph(), host_code=True)) is None
    assert [line.split()[0] for line in lines] == ["In", "Version", "The"]


def test_out_of_memory(fake_gpu: FakeGpu) -> None:
    import pycuda.driver as cuda

    fake_gpu.memory_bytes = 1000
    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    memory = cuda.mem_alloc(900)
    with pytest.raises(cuda.MemoryError, match="101 bytes, where 100 are left"):
        cuda.mem_alloc(101)
    memory.free()
    cuda.mem_alloc(101)


def test_precisions_are_told_apart(fake_gpu: FakeGpu, deploy_graph: Callable[..., bytes]) -> None:
    trt = library.load("tensorrt")
    assert trt.precision_of(deploy_graph()) == "fp32"
    assert trt.precision_of(deploy_graph(int8=True)) == "int8"
