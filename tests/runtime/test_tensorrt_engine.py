"""The TensorRT engines on the fake GPU: what they call, in which order, and what they say when something fails."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from segrd_edge import Detector, engines
from segrd_edge.bundle import Bundle
from segrd_edge.engines import EngineOptions
from segrd_edge.engines.onnxruntime import OnnxRuntimeEngine
from segrd_edge.engines.tensorrt import TensorRtEngine, TensorRtLeanEngine, TensorRtRtxEngine
from segrd_edge.errors import EngineError
from segrd_edge.tensorrt import driver

from ..fakes import tensorrt as fake_tensorrt
from ..fakes.gpu import install
from ..fakes.machine import FakeGpu, Outputs

SIZE_HW = (64, 96)
Graph = Callable[..., bytes]
BOTH = pytest.mark.parametrize("kind", [TensorRtEngine, TensorRtRtxEngine])
MEMORIES = pytest.mark.parametrize("memory", ["pinned", "mapped"])


def random_image(seed: int = 0, hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)


def batched(graph: bytes, batch: int) -> bytes:
    """The deploy graph for `batch` images at once."""
    model = onnx.load_from_string(graph)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    (flat,) = [constant for constant in model.graph.initializer if constant.name == "flat"]
    flat.CopyFrom(helper.make_tensor("flat", TensorProto.INT64, [2], [batch, SIZE_HW[0] * SIZE_HW[1]]))
    return bytes(model.SerializeToString())


def taking_frames(graph: bytes) -> bytes:
    """A graph of whole frames of twice the network's size, of which it takes every second pixel."""
    model = onnx.load_from_string(graph)
    height, width = SIZE_HW
    steps = {"starts": [0, 0], "ends": [2 * height, 2 * width], "axes": [1, 2], "steps": [2, 2]}
    model.graph.initializer.extend(helper.make_tensor(k, TensorProto.INT64, [2], v) for k, v in steps.items())
    (cast,) = [node for node in model.graph.node if node.input[0] == "image"]
    cast.input[0] = "small"
    model.graph.node.insert(0, helper.make_node("Slice", ["whole", *steps], ["small_float"]))
    model.graph.node.insert(0, helper.make_node("Cast", ["frame"], ["whole"], to=TensorProto.FLOAT))
    cast.input[0] = "small_float"
    shape = [1, 2 * height, 2 * width, 3]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("frame", TensorProto.UINT8, shape))
    return bytes(model.SerializeToString())


@BOTH
@MEMORIES
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_gives_what_the_graph_computes(
    kind: type[TensorRtEngine], memory: Any, cuda_graph: bool, fake_gpu: FakeGpu, deploy_graph: Graph
) -> None:
    options = EngineOptions(memory=memory, cuda_graph=cuda_graph)
    engine, reference = kind(deploy_graph(), options), OnnxRuntimeEngine(deploy_graph())
    assert (engine.size_hw, engine.batch, engine.takes_frames) == (SIZE_HW, 1, False)
    assert (engine.memory, engine.uses_cuda_graph) == (memory, cuda_graph)
    assert engine.gpu.name == fake_gpu.name
    for seed in range(3):
        found, expected = engine.run(random_image(seed)), reference.run(random_image(seed))
        assert found.score == expected.score
        np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
    del found
    engine.close()
    assert fake_gpu.leaks() == {}


def test_accepts_any_memory_layout(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    engine = TensorRtEngine(deploy_graph())
    expected = engine.run(random_image()).anomaly_map.copy()
    strided = np.repeat(random_image(), 2, axis=1)[:, ::2]
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(engine.run(strided).anomaly_map, expected)


def test_a_batch_may_be_smaller_than_the_graphs(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    engine, reference = TensorRtEngine(batched(deploy_graph(), 3)), OnnxRuntimeEngine(deploy_graph())
    assert engine.batch == 3
    for count in (3, 1, 2):
        images = [random_image(10 * count + i) for i in range(count)]
        found = engine.run_batch(images)
        assert len(found) == count
        for output, image in zip(found, images, strict=True):
            expected = reference.run(image)
            assert output.score == pytest.approx(expected.score, abs=1e-6)
            np.testing.assert_allclose(output.anomaly_map, expected.anomaly_map, atol=1e-6)
    with pytest.raises(EngineError, match="4 items in one run"):
        engine.run_batch([random_image()] * 4)


def test_a_graph_may_take_whole_frames(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    engine = TensorRtEngine(taking_frames(deploy_graph()))
    assert engine.takes_frames
    assert (engine.input_hw, engine.size_hw) == ((128, 192), SIZE_HW)
    frame = random_image(hw=(128, 192))
    expected = OnnxRuntimeEngine(deploy_graph()).run(frame[::2, ::2])
    np.testing.assert_array_equal(engine.run(frame).anomaly_map, expected.anomaly_map)


def test_a_run_is_one_launch(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    engine = TensorRtEngine(deploy_graph())
    before = dict(fake_gpu.counts)
    for seed in range(5):
        engine.run(random_image(seed))
    assert {name: n - before[name] for name, n in fake_gpu.counts.items() if n != before.get(name)} == {
        "launch": 5,
        "synchronise": 5,
    }


@MEMORIES
def test_a_run_without_a_graph_is_copies_and_an_enqueue(memory: Any, fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    engine = TensorRtEngine(deploy_graph(), EngineOptions(memory=memory, cuda_graph=False))
    assert engine.no_graph_reason == "the options say so"
    before = dict(fake_gpu.counts)
    engine.run(random_image())
    more = {name: n - before[name] for name, n in fake_gpu.counts.items() if n != before.get(name)}
    copies = {"copy": 3} if memory == "pinned" else {}
    assert more == {"enqueue": 1, "synchronise": 1, **copies}


def test_a_run_allocates_nothing(fake_gpu: FakeGpu, deploy_graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither memory of the GPU nor an array: maps are views of one buffer. The fake's own work is left out."""
    engine = TensorRtEngine(deploy_graph())
    image = random_image()
    buffer = engine.run(image).anomaly_map
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "_run", lambda self, addresses: None)
    monkeypatch.setattr(fake_gpu, "allocate", lambda *args, **kwargs: pytest.fail("memory was allocated"))
    tracemalloc.start()
    try:
        engine.run(image)
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            assert np.shares_memory(engine.run(image).anomaly_map, buffer)
        peak = tracemalloc.get_traced_memory()[1] - start
    finally:
        tracemalloc.stop()
    assert peak < 12_000  # objects; the map alone has 24 KiB, the image 18


def test_addresses_are_set_once_and_each_output_has_its_own(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    engine = TensorRtEngine(deploy_graph())
    engine.run(random_image())
    assert fake_gpu.counts["set_tensor_address"] == 3
    runner = engine._running
    addresses = [buffer.address for buffer in [*runner._inputs, *runner._outputs]]
    assert len(set(addresses)) == 3
    assert not np.shares_memory(runner.scores, runner.maps)


def test_objects_go_in_order(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    engine = TensorRtEngine(deploy_graph())
    engine.run(random_image())
    fake_gpu.destroyed.clear()
    engine.close()
    engine.close()
    order = [kind for kind in fake_gpu.destroyed if kind not in ("host_alloc", "mem_alloc", "event")]
    assert order == ["executable", "execution_context", "engine", "runtime", "stream"]
    assert fake_gpu.leaks() == {}
    for call in (lambda: engine.run(random_image()), engine.time_ms, lambda: engine.memory):
        with pytest.raises(EngineError, match="the engine tensorrt is closed"):
            call()


def test_an_engine_that_nobody_closes_goes_in_order(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    engine = TensorRtEngine(deploy_graph())
    engine.run(random_image())
    fake_gpu.destroyed.clear()
    del engine
    gc.collect()
    order = [kind for kind in fake_gpu.destroyed if kind not in ("host_alloc", "mem_alloc", "event")]
    assert order == ["executable", "execution_context", "engine", "runtime", "stream"]
    assert fake_gpu.leaks() == {}


_PROGRAM = """
import atexit
import pytest

def last():
    kinds = [kind for kind in gpu.destroyed if kind not in ("host_alloc", "mem_alloc", "event")]
    print(*kinds, gpu.misuse, gpu.leaks(), sep=chr(10))

atexit.register(last)  # the first to be registered runs last
from tests.distance_detector import _deploy_graph
from tests.fakes.gpu import install
from segrd_edge.engines.tensorrt import TensorRtEngine

gpu = install(pytest.MonkeyPatch())
engine = TensorRtEngine(_deploy_graph())
gpu.destroyed.clear()
"""


def test_at_the_end_of_the_program_everything_goes_in_order(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"SEGRD_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [
        *("executable", "execution_context", "engine", "runtime", "stream", "context"),
        *("[]", "{}"),
    ], done.stderr


def test_maps_outlive_the_engine(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    """A caller who keeps the engine's own buffer reads old values, not freed memory."""
    engine = TensorRtEngine(deploy_graph())
    output = engine.run(random_image())
    expected = output.anomaly_map.copy()
    engine.close()
    np.testing.assert_array_equal(output.anomaly_map, expected)
    assert fake_gpu.leaks() == {"host_alloc": 1}
    del output
    assert fake_gpu.leaks() == {}


def test_time_on_the_gpu(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    fake_gpu.run_ms |= {"fp32": 3.0, "int8": 1.0}
    fake_gpu.copy_ms = 0.25
    assert TensorRtEngine(deploy_graph()).time_ms() == pytest.approx(3.75)
    assert TensorRtEngine(deploy_graph(int8=True)).time_ms() == pytest.approx(1.75)
    mapped = EngineOptions(memory="mapped", cuda_graph=False)
    assert TensorRtEngine(deploy_graph(), mapped).time_ms() == pytest.approx(3.0)


def test_integrated_gpus_read_mapped_memory(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    fake_gpu.integrated = True
    engine = TensorRtEngine(deploy_graph())
    assert engine.memory == "mapped"
    assert fake_gpu.counts["mem_alloc"] == 0


# CUDA graphs: where one cannot be had, the plain enqueue goes on, and the log says why, once.


def cannot_capture(gpu: FakeGpu) -> None:
    gpu.faults.capture = True


def cannot_instantiate(gpu: FakeGpu) -> None:
    gpu.faults.instantiate = True


def replays_differ(gpu: FakeGpu) -> None:
    def add(outputs: Outputs) -> None:
        outputs["score"] += 0.5

    gpu.faults.replay = add


def replays_write_nothing(gpu: FakeGpu) -> None:
    real = gpu.launch

    def launch(executable: int, handle: int) -> None:
        real(executable, handle)
        gpu.streams[handle].queue.pop()

    gpu.launch = launch  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cannot_capture, "refuses to run"),
        (cannot_instantiate, "cuGraphInstantiate gives"),
        (replays_differ, "gives other results than the plain enqueue, by up to 0.5"),
        (replays_write_nothing, "gives other results than the plain enqueue, by up to 1"),
    ],
)
def test_without_a_graph_the_plain_enqueue_goes_on(
    spoil: Callable[[FakeGpu], None],
    says: str,
    fake_gpu: FakeGpu,
    deploy_graph: Graph,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(fake_gpu)
    with caplog.at_level(logging.WARNING, "segrd_edge"):
        engine = TensorRtEngine(deploy_graph())
        expected = OnnxRuntimeEngine(deploy_graph()).run(random_image())
        for _ in range(3):
            assert engine.run(random_image()).score == expected.score
    assert not engine.uses_cuda_graph
    assert says in engine.no_graph_reason
    (record,) = caplog.records
    assert record.name == "segrd_edge"
    assert says in record.getMessage()
    engine.close()
    assert fake_gpu.leaks() == {}


def nothing_but_nan(outputs: Outputs, precision: str) -> None:
    for values in outputs.values():
        values[...] = np.nan


def test_numbers_that_are_none_are_no_difference(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    """An engine that gives NaN, replayed or not, is for the self-test to refuse. A replay that writes nothing is."""
    fake_gpu.faults.outputs = nothing_but_nan
    assert TensorRtEngine(deploy_graph()).uses_cuda_graph
    replays_write_nothing(fake_gpu)
    assert "by up to nan" in TensorRtEngine(deploy_graph()).no_graph_reason


def test_without_cuda_bindings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deploy_graph: Graph, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path))
    install(monkeypatch, cuda_bindings=False)
    engine = TensorRtEngine(deploy_graph())
    assert "need the package 'cuda-bindings'" in engine.no_graph_reason
    assert engine.run(random_image()).score == OnnxRuntimeEngine(deploy_graph()).run(random_image()).score
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_first_run_after_a_failed_capture_may_fail(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    """TensorRT's own CUDA runtime reports the capture's error once more, and is then in order."""
    fake_gpu.faults.capture = True
    fake_gpu.faults.enqueue = lambda count: count == 4  # after two plain runs and the capture
    engine = TensorRtEngine(deploy_graph())
    assert not engine.uses_cuda_graph
    assert engine.run(random_image()).score == OnnxRuntimeEngine(deploy_graph()).run(random_image()).score


# Errors


def failure(call: Callable[[], Any]) -> EngineError:
    """The error without its traceback, whose frames keep objects alive."""
    with pytest.raises(EngineError) as caught:
        call()
    error = EngineError(caught.value.what, expected=caught.value.expected, fix=caught.value.fix)
    del caught
    gc.collect()
    return error


def damaged(gpu: FakeGpu, plan: bytes) -> bytes:
    return plan[:-1]


def of_another_version(gpu: FakeGpu, plan: bytes) -> bytes:
    return fake_tensorrt.make_plan(plan.partition(b"\n")[2], version="10.3.0")


def with_host_code(gpu: FakeGpu, plan: bytes) -> bytes:
    return fake_tensorrt.make_plan(plan.partition(b"\n")[2], host_code=True)


def too_large(gpu: FakeGpu, plan: bytes) -> bytes:
    gpu.memory_bytes = 30_000
    return plan


def without_a_context(gpu: FakeGpu, plan: bytes) -> bytes:
    gpu.faults.create_context = "Requested amount of GPU memory (1 bytes) could not be allocated."
    return plan


def refused(gpu: FakeGpu, plan: bytes) -> bytes:
    gpu.faults.enqueue = lambda count: True
    return plan


def failing(gpu: FakeGpu, plan: bytes) -> bytes:
    gpu.faults.launch = 700
    return plan


def crooked(gpu: FakeGpu, plan: bytes) -> bytes:
    gpu.alignment = 64
    return plan


def foreign(gpu: FakeGpu, plan: bytes) -> bytes:
    return fake_tensorrt.make_plan(plan.partition(b"\n")[2].replace(b"anomaly_map", b"anomaly_mop"))


@pytest.mark.parametrize(
    ("spoil", "says", "fix"),
    [
        (damaged, "cannot load the engine", "no engine or cut short"),
        (of_another_version, "Version tag does not match", "build it again here"),
        (with_host_code, "holds host code", "build the engine again"),
        (too_large, "cannot be had", "smaller batch"),
        (without_a_context, "cannot make an execution context", "not enough GPU memory"),
        (refused, "refuses to run", "segrd-doctor"),
        (failing, "illegal memory access", "restart the program"),
        (crooked, "lies at 0x", "report it"),
        (foreign, "anomaly_mop", "export the model with segrd-export"),
    ],
)
def test_a_failed_start_says_why_and_leaves_nothing(
    spoil: Callable[[FakeGpu, bytes], bytes], says: str, fix: str, fake_gpu: FakeGpu, deploy_graph: Graph
) -> None:
    error = failure(lambda: TensorRtEngine.from_plan(spoil(fake_gpu, fake_tensorrt.make_plan(deploy_graph()))))
    assert says in error.what
    assert fix in error.fix
    assert fake_gpu.leaks() == {}


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_run_that_fails_says_so_and_the_engine_closes(
    cuda_graph: bool, fake_gpu: FakeGpu, deploy_graph: Graph
) -> None:
    engine = TensorRtEngine(deploy_graph(), EngineOptions(cuda_graph=cuda_graph))
    fake_gpu.faults.launch = 700
    error = failure(lambda: engine.run(random_image()))
    assert "a run on Fake RTX failed: " in error.what
    assert "illegal memory access" in error.what
    engine.close()
    assert fake_gpu.leaks() == {}


def test_a_refused_enqueue_carries_tensorrts_line(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    engine = TensorRtEngine(deploy_graph(), EngineOptions(cuda_graph=False))
    fake_gpu.faults.enqueue = lambda count: True
    with pytest.raises(EngineError, match=r"tensorrt 11.4.0.106 refuses to run\n  Cuda Runtime \(invalid argument\)"):
        engine.run(random_image())
    fake_gpu.faults.enqueue = lambda count: False
    assert engine.run(random_image()).score > 0


def test_a_plan_with_host_code_runs_if_allowed(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    engine = TensorRtEngine.from_plan(fake_tensorrt.make_plan(deploy_graph(), host_code=True), host_code=True)
    assert engine.run(random_image()).score == OnnxRuntimeEngine(deploy_graph()).run(random_image()).score


def test_the_lean_runtime_runs_plans_and_builds_none(fake_gpu: FakeGpu, deploy_graph: Graph, bundle_path: Path) -> None:
    plan = fake_tensorrt.make_plan(deploy_graph(), host_code=True)
    engine = TensorRtLeanEngine.from_plan(plan, host_code=True)
    assert engine.name == "tensorrt-lean"
    assert engine.run(random_image()).score == OnnxRuntimeEngine(deploy_graph()).run(random_image()).score
    with pytest.raises(EngineError, match="tensorrt-lean builds none") as caught:
        TensorRtLeanEngine(deploy_graph())
    assert "the engine tensorrt" in caught.value.fix
    with pytest.raises(EngineError, match="carries no engine for the lean runtime"):
        TensorRtLeanEngine.open(Bundle.open(bundle_path))
    assert fake_gpu.counts["build"] == 0


def no_driver(index: int = 0) -> driver.Gpu:
    raise EngineError("no NVIDIA driver", fix="install it")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deploy_graph: Graph) -> None:
    kind = TensorRtEngine
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path))
    install(monkeypatch)
    assert kind.is_available()
    install(monkeypatch, pycuda=False)
    assert not kind.is_available()
    with pytest.raises(EngineError, match="need the package 'pycuda'"):
        kind(deploy_graph())
    install(monkeypatch, flavours=("tensorrt-rtx",))
    assert not kind.is_available()
    assert kind.version() is None
    with pytest.raises(EngineError, match="tensorrt needs the package 'tensorrt', which is not installed"):
        kind(deploy_graph())
    install(monkeypatch)
    monkeypatch.setattr(driver, "gpu", no_driver)
    assert not kind.is_available()
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        kind(deploy_graph())


# Several at once


def test_engines_share_the_context_and_nothing_else(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    first, second = TensorRtEngine(deploy_graph()), TensorRtRtxEngine(deploy_graph(int8=True))
    kept = first.run(random_image(1))
    expected = kept.anomaly_map.copy()
    second.run(random_image(2))
    np.testing.assert_array_equal(kept.anomaly_map, expected)
    first.close()
    assert second.run(random_image(2)).score > 0
    assert fake_gpu.counts["context"] == 1


def test_an_engine_runs_and_closes_in_any_thread(fake_gpu: FakeGpu, deploy_graph: Graph) -> None:
    def in_a_thread(work: Callable[[], Any]) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result(timeout=20)

    engine = in_a_thread(lambda: TensorRtEngine(deploy_graph()))
    score = engine.run(random_image()).score
    assert in_a_thread(lambda: engine.run(random_image()).score) == score
    in_a_thread(engine.close)
    assert fake_gpu.leaks() == {}
    assert fake_gpu.context_stack == []


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (TensorRtEngine, TensorRtRtxEngine):
        monkeypatch.setitem(engines.ENGINES, kind.name, f"{kind.__module__}:{kind.__name__}")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_detector_gives_the_cpus_verdicts(
    name: str,
    precision: str,
    fake_gpu: FakeGpu,
    bundle_path: Path,
    good_frame: np.ndarray,
    defect_frame: np.ndarray,
) -> None:
    with (
        Detector(bundle_path, engine=name, precision=precision) as found,
        Detector(bundle_path, engine="onnxruntime", precision=precision) as expected,
    ):
        assert (found.engine, found.engine_version) == (name, "11.4.0.106")
        found.self_test()
        for frame in (good_frame, defect_frame):
            here, there = found.inspect(frame), expected.inspect(frame)
            assert (here.is_defect, here.score) == (there.is_defect, there.score)
            assert here.regions == there.regions
            np.testing.assert_array_equal(here.anomaly_map, there.anomaly_map)
    gc.collect()
    assert fake_gpu.leaks() == {}


@pytest.mark.usefixtures("registered")
def test_two_detectors_in_four_threads(fake_gpu: FakeGpu, bundle_path: Path, painter: Callable[..., Any]) -> None:
    frames = [painter((120, 180), (60, 30, 4 * i, 3 * i)) if i else painter((120, 180)) for i in range(8)]
    with (
        Detector(bundle_path, engine="onnxruntime", precision="fp32") as reference,
        Detector(bundle_path, engine="tensorrt", precision="fp32") as first,
        Detector(bundle_path, engine="tensorrt-rtx", precision="fp32") as second,
        ThreadPoolExecutor(4) as pool,
    ):
        expected = [reference.inspect(frame).score for frame in frames]
        assert len(set(expected)) > 3

        def work(detector: Detector, shift: int) -> list[float]:
            return [detector.inspect(frames[(i + shift) % 8]).score for i in range(24)]

        futures = [(s, pool.submit(work, d, s)) for d in (first, second) for s in (0, 3)]
        for shift, future in futures:
            assert future.result(timeout=60) == [expected[(i + shift) % 8] for i in range(24)]
    gc.collect()
    assert fake_gpu.leaks() == {}
