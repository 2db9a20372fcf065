from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrd_edge import engines, machine
from segrd_edge.engines import EngineOptions
from segrd_edge.errors import EngineError, OptionError

CPU_ENGINES = ("openvino", "onnxruntime")
ALL = pytest.mark.parametrize("name", CPU_ENGINES)
SIZE_HW = (64, 96)


def random_image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE_HW, 3), np.uint8)


@ALL
def test_computes_what_the_graph_says(name: str, deploy_graph: Callable[..., bytes]) -> None:
    image = random_image()
    expected = np.abs(image.astype(np.float64) - (40, 120, 200)).mean(axis=2) / 255
    engine = engines.create(name, deploy_graph())
    score, anomaly_map = engine.run(image)
    assert engine.size_hw == SIZE_HW
    assert engine.version()
    np.testing.assert_allclose(anomaly_map, expected, atol=1e-6)
    assert score == pytest.approx(np.sort(expected, axis=None)[-20:].mean(), abs=1e-6)


@pytest.mark.parametrize("int8", [False, True])
def test_engines_agree(deploy_graph: Callable[..., bytes], int8: bool) -> None:
    graph = deploy_graph(int8=int8)
    outputs = [engines.create(name, graph).run(random_image()) for name in CPU_ENGINES]
    # One Q/DQ step, where a rounding tie falls the other way; float32 rounding otherwise.
    tolerance = 1 / 127 + 1e-6 if int8 else 1e-6
    np.testing.assert_allclose(outputs[0].anomaly_map, outputs[1].anomaly_map, atol=tolerance)
    assert outputs[0].score == pytest.approx(outputs[1].score, abs=tolerance)


@ALL
def test_takes_up_to_a_batch_of_items(name: str, deploy_graph: Callable[..., bytes]) -> None:
    images = [random_image(seed) for seed in range(3)]
    single, triple = engines.create(name, deploy_graph()), engines.create(name, deploy_graph(batch=3))
    expected = [single.run(image).anomaly_map.copy() for image in images]
    assert (single.batch, triple.batch) == (1, 3)
    for count in (3, 2, 1):
        outputs = triple.run_batch(images[-count:])
        assert len(outputs) == count
        for output, anomaly_map in zip(outputs, expected[-count:], strict=True):
            np.testing.assert_allclose(output.anomaly_map, anomaly_map, atol=1e-6)
            assert output.score == pytest.approx(np.sort(anomaly_map, axis=None)[-20:].mean(), abs=1e-6)


@ALL
@pytest.mark.parametrize("count", [0, 4])
def test_refuses_more_or_fewer_than_a_batch(name: str, deploy_graph: Callable[..., bytes], count: int) -> None:
    engine = engines.create(name, deploy_graph(batch=3))
    with pytest.raises(EngineError, match=f"{count} items in one run") as caught:
        engine.run_batch([random_image()] * count)
    assert caught.value.expected == "1 to 3, the graph's batch"


@ALL
def test_takes_frames_where_the_graph_resizes_them(name: str, deploy_graph: Callable[..., bytes]) -> None:
    image = random_image()
    frame = image.repeat(2, axis=0).repeat(2, axis=1)
    engine = engines.create(name, deploy_graph(shrink=2))
    assert (engine.takes_frames, engine.input_hw, engine.size_hw) == (True, (128, 192), SIZE_HW)
    expected = engines.create(name, deploy_graph()).run(image)
    np.testing.assert_allclose(engine.run(frame).anomaly_map, expected.anomaly_map, atol=1e-6)


@ALL
def test_accepts_any_memory_layout(name: str, deploy_graph: Callable[..., bytes]) -> None:
    engine = engines.create(name, deploy_graph(), EngineOptions(threads=1))
    image = random_image()
    expected = engine.run(image).anomaly_map.copy()
    strided = np.repeat(image, 2, axis=1)[:, ::2]
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(engine.run(strided).anomaly_map, expected)


def test_openvino_pins_threads_only_where_it_has_all_cores(
    deploy_graph: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else several in one process, a Detector per stream, all run on the first core."""
    for cores, is_pinned in ((2, False), (1, True)):
        monkeypatch.setattr(machine, "usable_cores", lambda count=cores: count)
        engine: Any = engines.create("openvino", deploy_graph(), EngineOptions(threads=1))
        assert engine._request.get_compiled_model().get_property("ENABLE_CPU_PINNING") is is_pinned
        engine.close()


@ALL
@pytest.mark.parametrize("image", [np.zeros((64, 96, 3), np.float32), np.zeros((1, 64, 96, 3), np.uint8)])
def test_refuses_another_image(name: str, deploy_graph: Callable[..., bytes], image: np.ndarray) -> None:
    with pytest.raises(EngineError, match="an image of dtype") as caught:
        engines.create(name, deploy_graph()).run(image)
    assert "(64, 96, 3)" in caught.value.expected


@ALL
def test_refuses_what_is_no_deploy_graph(name: str, deploy_graph: Callable[..., bytes]) -> None:
    with pytest.raises(EngineError, match=f"{name} .* cannot load the graph"):
        engines.create(name, b"junk")
    with pytest.raises(EngineError, match=r"heat float32 \[1, 64, 96\]") as caught:
        engines.create(name, deploy_graph(output="heat"))
    assert "anomaly_map" in caught.value.expected


@ALL
def test_close_is_idempotent_and_final(name: str, deploy_graph: Callable[..., bytes]) -> None:
    engine = engines.create(name, deploy_graph())
    engine.run(random_image())
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match=f"the engine {name} is closed"):
        engine.run(random_image())


@ALL
def test_a_missing_package_names_the_command(
    name: str, deploy_graph: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match="not installed") as caught:
        engines.create(name, deploy_graph())
    assert "pip install" in caught.value.fix
    assert name in caught.value.fix
    assert name not in engines.available()


def test_auto_takes_the_first_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = sys.modules
    assert engines.engine_class("auto").name == "openvino"
    monkeypatch.setitem(modules, "openvino", None)
    assert engines.engine_class("auto").name == "onnxruntime"
    monkeypatch.setitem(modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="no engine is installed"):
        engines.engine_class("auto")


def _float16_bias_graph(bias: float, scales: tuple[float, float, float]) -> bytes:
    """One INT8 convolution (1×1, 3 channels to 1) with float16 around it; its map is what it gives."""
    from onnx import TensorProto, helper

    half, level = TensorProto.FLOAT16, TensorProto.INT8
    constants = [
        helper.make_tensor("x.scale", half, [], [scales[0]]),
        helper.make_tensor("w", level, [1, 3, 1, 1], [100, -50, 25]),
        helper.make_tensor("w.scale", half, [], [scales[1]]),
        helper.make_tensor("zero", level, [], [0]),
        helper.make_tensor("bias", half, [1], [bias]),
        helper.make_tensor("y.scale", half, [], [scales[2]]),
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        helper.make_tensor("all", TensorProto.INT64, [2], [1, 2]),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=half),
        helper.make_node("Transpose", ["half"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("QuantizeLinear", ["planes", "x.scale", "zero"], ["x.levels"]),
        helper.make_node("DequantizeLinear", ["x.levels", "x.scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "w.scale", "zero"], ["weight"]),
        helper.make_node("Conv", ["x", "weight", "bias"], ["y"], kernel_shape=[1, 1]),
        helper.make_node("QuantizeLinear", ["y", "y.scale", "zero"], ["y.levels"]),
        helper.make_node("DequantizeLinear", ["y.levels", "y.scale", "zero"], ["back"]),
        helper.make_node("Cast", ["back"], ["whole"], to=TensorProto.FLOAT),
        helper.make_node("Squeeze", ["whole", "axes"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map", "all"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "float16 bias",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4, 4, 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [1, 4, 4]),
        ],
        constants,
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()
    )


def test_onnxruntime_leaves_a_float16_bias_as_it_is() -> None:
    """4 / (0.01 · 0.0001) is beyond float16: as an INT32 multiple of the scales the bias would be infinite."""
    engine = engines.create("onnxruntime", _float16_bias_graph(4.0, (0.01, 1e-4, 0.0625)))
    image = np.ones((4, 4, 3), np.uint8)
    assert engine.run(image).score == 4  # and less than half a step of 0.0625 from the pixels


def test_an_unknown_engine_lists_the_known(deploy_graph: Callable[..., bytes]) -> None:
    with pytest.raises(EngineError, match="unknown engine 'tpu'") as caught:
        engines.create("tpu", deploy_graph())
    assert caught.value.expected == "auto, tensorrt, tensorrt-rtx, tensorrt-lean, openvino, onnxruntime"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": 0}, "threads=0"),
        ({"threads": 1.5}, "threads=1.5"),
        ({"threads": "2"}, "threads='2'"),
        ({"threads": True}, "threads=True"),
        ({"threads": 1_000_000}, "1 to 1024"),
        ({"memory": "swap"}, "memory='swap'"),
        ({"device": -1}, "-1"),
        ({"device": "a"}, "device='a'"),
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        EngineOptions(**wrong)


def test_ctrl_c_after_two_openvino_engines_is_no_crash(deploy_graph: Callable[..., bytes], tmp_path: Path) -> None:
    """In a process of its own, because what it must not do is end it."""
    (tmp_path / "graph.onnx").write_bytes(deploy_graph())
    script = """
import signal, sys
from pathlib import Path
from typing import Any
from segrd_edge import engines
from segrd_edge.engines import EngineOptions
graph = Path(sys.argv[1]).read_bytes()
first, second = (engines.create("openvino", graph) for _ in range(2))
first.close()
second.close()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    command = [sys.executable, "-c", script, str(tmp_path / "graph.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
