"""CUDA on the fake GPU: contexts and threads, buffers, graphs, and what is said where something is missing."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segrd_edge import cuda
from segrd_edge.errors import EngineError
from segrd_edge.tensorrt import driver

from ..fakes.gpu import install
from ..fakes.machine import FakeGpu


def in_a_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=20)


def test_a_device_is_opened_once_for_all_threads(fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    assert in_a_thread(cuda.open_device) is device
    assert device.gpu.name == "Fake RTX"
    assert fake_gpu.counts["context"] == 1


def test_the_context_is_current_in_the_block_alone(fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    with pytest.raises(EngineError, match="no context is current"):
        cuda.Stream(device)

    def depth() -> int:
        with device.current():
            cuda.Stream(device).close()
            return len(fake_gpu.context_stack)

    with device.current(), device.current():
        assert len(fake_gpu.context_stack) == 2
        assert in_a_thread(depth) == 1
    with pytest.raises(RuntimeError, match="inside"), device.current():
        raise RuntimeError("inside")
    assert fake_gpu.context_stack == []


@pytest.mark.parametrize("memory", ["pinned", "mapped"])
def test_a_buffer_carries_bytes_there_and_back(memory: Any, fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    with device.current():
        stream, buffer = cuda.Stream(device), cuda.Buffer(device, (2, 3), np.float32, memory)
        assert buffer.host.shape == (2, 3)
        assert buffer.address % cuda.ALIGNMENT == 0
        buffer.host[...] = 7
        buffer.copy_in(stream)
        stream.synchronise()
        on_gpu = fake_gpu.at(buffer.address, 24).view(np.float32)
        np.testing.assert_array_equal(on_gpu, np.full(6, 7, np.float32))
        on_gpu[...] = 9
        buffer.copy_out(stream)
        stream.synchronise()
        np.testing.assert_array_equal(buffer.host, np.full((2, 3), 9, np.float32))
        assert fake_gpu.counts["copy"] == {"pinned": 2, "mapped": 0}[memory]
        buffer.close()
        buffer.close()
        stream.close()
    assert fake_gpu.leaks() == {}


def test_objects_may_be_closed_in_another_thread(fake_gpu: FakeGpu) -> None:
    device = in_a_thread(cuda.open_device)  # and that thread is gone
    with device.current():
        made = [cuda.Stream(device), cuda.Buffer(device, (4,), np.uint8, "pinned"), cuda.Stopwatch(device)]

    def close() -> None:
        with device.current():
            for thing in made:
                thing.close()

    in_a_thread(close)
    assert fake_gpu.leaks() == {}
    assert fake_gpu.misuse == []


def test_a_view_keeps_the_hosts_memory_alive(fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    with device.current():
        buffer = cuda.Buffer(device, (4,), np.uint8, "pinned")
        buffer.host[...] = 3
        view = buffer.host[1:]
        buffer.close()
        assert fake_gpu.leaks() == {"host_alloc": 1}
        assert view.tolist() == [3, 3, 3]
        del view
    assert fake_gpu.leaks() == {}


@pytest.mark.parametrize(
    ("integrated", "wanted", "mode"),
    [
        (False, "auto", "pinned"),
        (True, "auto", "mapped"),
        (True, "pinned", "pinned"),
        (False, "mapped", "mapped"),
    ],
)
def test_memory_modes(integrated: bool, wanted: Any, mode: str, fake_gpu: FakeGpu) -> None:
    fake_gpu.integrated = integrated
    assert cuda.open_device().memory_mode(wanted) == mode


def test_memory_that_cannot_be_mapped(fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    device.is_integrated, device.can_map_memory = True, False
    assert device.memory_mode("auto") == "pinned"
    with pytest.raises(EngineError, match="Fake RTX cannot map") as caught:
        device.memory_mode("mapped")
    assert "memory='pinned'" in caught.value.fix


def test_out_of_memory_is_advice_and_leaves_nothing(fake_gpu: FakeGpu) -> None:
    fake_gpu.memory_bytes = 100
    device = cuda.open_device()
    with device.current(), pytest.raises(EngineError, match=r"128 bytes for a tensor \[128\] cannot be had") as caught:
        cuda.Buffer(device, (128,), np.uint8, "pinned")
    assert "out of memory" in caught.value.what
    assert "smaller batch" in caught.value.fix
    assert fake_gpu.leaks() == {}


@pytest.mark.parametrize("memory", ["pinned", "mapped"])
def test_a_crooked_address_is_refused(memory: Any, fake_gpu: FakeGpu) -> None:
    fake_gpu.alignment = 64
    device = cuda.open_device()
    with device.current(), pytest.raises(EngineError, match="lies at 0x") as caught:
        cuda.Buffer(device, (4,), np.uint8, memory)
    assert "multiple of 256" in caught.value.expected
    assert fake_gpu.leaks() == {}


def test_a_graph_repeats_what_was_captured(fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    with device.current():
        stream, buffer = cuda.Stream(device), cuda.Buffer(device, (4,), np.uint8, "pinned")
        buffer.host[...] = 1
        graph = cuda.Graph(stream, lambda: buffer.copy_in(stream))
        stream.synchronise()
        assert fake_gpu.at(buffer.address, 4).tolist() == [0xCD] * 4
        for value in (2, 3):
            buffer.host[...] = value
            graph.launch()
            stream.synchronise()
            assert fake_gpu.at(buffer.address, 4).tolist() == [value] * 4
        for thing in (graph, graph, buffer, stream):
            thing.close()
    assert fake_gpu.counts["launch"] == 2
    assert fake_gpu.leaks() == {}


def _allocate(device: cuda.Device, stream: cuda.Stream) -> None:
    cuda.Buffer(device, (4,), np.uint8, "pinned")


def _wait(device: cuda.Device, stream: cuda.Stream) -> None:
    stream.synchronise()


def _swallow(device: cuda.Device, stream: cuda.Stream) -> None:
    """Spoils the capture without an exception, as a library might."""
    with pytest.raises(EngineError):
        stream.synchronise()


@pytest.mark.parametrize(
    ("work", "says"),
    [(_allocate, "an allocation during capture"), (_wait, "a synchronisation"), (_swallow, "CAPTURE_INVALIDATED")],
)
def test_what_cannot_be_captured(work: Callable[..., None], says: str, fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    with device.current():
        stream = cuda.Stream(device)
        with pytest.raises(EngineError, match=says):
            cuda.Graph(stream, lambda: work(device, stream))
        stream.synchronise()  # it is out of capture
        stream.close()
    assert fake_gpu.leaks() == {}


def test_a_graph_that_cannot_be_instantiated(fake_gpu: FakeGpu) -> None:
    fake_gpu.faults.instantiate = True
    device = cuda.open_device()
    with device.current():
        stream = cuda.Stream(device)
        with pytest.raises(EngineError, match="cuGraphInstantiate gives CUDA_ERROR_INVALID_VALUE"):
            cuda.Graph(stream, lambda: None)
        stream.close()
    assert fake_gpu.leaks() == {}


def test_garbage_is_not_collected_during_a_capture(fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    with device.current():
        stream, found = cuda.Stream(device), []
        cuda.Graph(stream, lambda: found.append(gc.isenabled())).close()
    assert found == [False]
    assert gc.isenabled()


def test_other_threads_may_wait_during_a_capture(fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    with device.current():
        stream, other = cuda.Stream(device), cuda.Stream(device)

        def elsewhere() -> None:
            with device.current():
                cuda.Buffer(device, (4,), np.uint8, "pinned").close()
                other.synchronise()

        cuda.Graph(stream, lambda: in_a_thread(elsewhere)).close()


def test_a_stopwatch_counts_the_gpus_time(fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    with device.current():
        stream, buffer = cuda.Stream(device), cuda.Buffer(device, (4,), np.uint8, "pinned")
        stopwatch = cuda.Stopwatch(device)
        fake_gpu.copy_ms = 1.5
        buffer.copy_in(stream)  # before the start: not in it
        assert stopwatch.measure_ms(stream, lambda: buffer.copy_in(stream)) == 1.5
        assert stopwatch.measure_ms(stream, lambda: None) == 0


def test_a_failure_on_the_gpu_says_what_to_do(fake_gpu: FakeGpu) -> None:
    device = cuda.open_device()
    fake_gpu.faults.launch = 700
    with device.current():
        stream = cuda.Stream(device)
        with pytest.raises(EngineError, match="illegal memory access") as caught:
            stream.synchronise()
        stream.close()
    assert "restart the program" in caught.value.fix


def test_the_driver_is_asked_before_pycuda(monkeypatch: pytest.MonkeyPatch, fake_gpu: FakeGpu) -> None:
    def no_driver(index: int = 0) -> driver.Gpu:
        raise EngineError("no NVIDIA driver", fix="install it")

    monkeypatch.setattr(driver, "gpu", no_driver)
    monkeypatch.setattr(cuda, "import_pycuda", lambda: pytest.fail("pycuda was imported without a driver"))
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        cuda.open_device()


def test_a_driver_that_starts_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(index: int = 0) -> driver.Gpu:
        raise EngineError("no NVIDIA driver", fix="install it")

    with monkeypatch.context() as before:
        before.setattr(driver, "gpu", no_driver)
        with pytest.raises(EngineError, match="no NVIDIA driver"):
            cuda.open_device()
    install(monkeypatch)
    assert cuda.open_device().gpu.name == "Fake RTX"


def test_without_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, pycuda=False)
    with pytest.raises(EngineError, match="need the package 'pycuda'") as caught:
        cuda.open_device()
    assert "nvcc" in caught.value.fix


def test_without_cuda_bindings_there_is_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, cuda_bindings=False)
    device = cuda.open_device()
    with device.current():
        stream = cuda.Stream(device)
        with pytest.raises(EngineError, match="need the package 'cuda-bindings'") as caught:
            cuda.Graph(stream, lambda: None)
        stream.close()
    assert "JetPack 6" in caught.value.fix


def test_cuda_bindings_of_another_driver(fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(*arguments: Any) -> None:  # as cuda-bindings does, instead of giving a CUresult
        raise RuntimeError("function cuStreamBeginCapture_v2 is not found")

    monkeypatch.setattr(cuda.import_bindings(), "cuStreamBeginCapture", not_found)
    device = cuda.open_device()
    with device.current():
        stream = cuda.Stream(device)
        with pytest.raises(EngineError, match="does not fit this driver: function cuStreamBeginCapture_v2") as caught:
            cuda.Graph(stream, lambda: None)
        stream.close()
    assert "cuda-bindings<13" in caught.value.fix


def test_a_pycuda_that_cannot_be_imported_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    broken = ModuleType("pycuda")
    broken.__path__ = []
    monkeypatch.setitem(sys.modules, "pycuda", broken)
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    finder = SimpleNamespace(find_spec=_no_libcuda)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    with pytest.raises(EngineError, match="pycuda is installed but cannot be imported: libcuda") as caught:
        cuda.import_pycuda()
    assert "pip install --force-reinstall --no-cache-dir 'pycuda>=2024.1'" in caught.value.fix


def _no_libcuda(name: str, path: object = None, target: object = None) -> None:
    if name == "pycuda.driver":
        raise ImportError("libcuda.so.1: cannot open shared object file", name="pycuda._driver")


def test_no_such_gpu(fake_gpu: FakeGpu) -> None:
    with pytest.raises(EngineError, match="no GPU 3"):
        cuda.open_device(3)


def test_threads_open_one_device(fake_gpu: FakeGpu) -> None:
    barrier, found = threading.Barrier(4), []

    def open_device() -> None:
        barrier.wait()
        found.append(cuda.open_device())

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(open_device) for _ in range(4)]:
            future.result(timeout=20)
    assert len(set(map(id, found))) == 1
