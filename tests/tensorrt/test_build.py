"""Real builds by TensorRT-RTX, whose compiler needs no GPU."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from segrd_edge.calibration.plan import Plan
from segrd_edge.errors import EngineError, OptionError
from segrd_edge.tensorrt import build as build_module
from segrd_edge.tensorrt import driver
from segrd_edge.tensorrt.build import CURRENT, BuildOptions, BuiltEngine, build
from segrd_edge.tensorrt.layers import convolution_dtypes, parse_layers
from segrd_edge.tensorrt.log import Log, recording

RTX = "tensorrt-rtx"
trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


def changed(model: onnx.ModelProto, change: Callable[[onnx.ModelProto], None]) -> bytes:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    change(copy)
    return copy.SerializeToString()


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def set_constant(model: onnx.ModelProto, name: str, value: Any) -> None:
    constant = next(constant for constant in model.graph.initializer if constant.name == name)
    constant.CopyFrom(numpy_helper.from_array(value, name))


@pytest.fixture(scope="module")
def fp32(fp32_graph: bytes) -> BuiltEngine:
    return build(fp32_graph, flavour=RTX)


@pytest.fixture(scope="module")
def int8(int8_graph: bytes) -> BuiltEngine:
    return build(int8_graph, flavour=RTX)


def test_an_engine_is_built_from_either_precision(fp32: BuiltEngine, int8: BuiltEngine) -> None:
    for built in (fp32, int8):
        assert len(built.plan) > 10_000
        assert built.warnings == ()
        assert built.versions[RTX] == trt.__version__
        assert built.timing_cache is None  # this flavour has none
    assert fp32.plan != int8.plan


def test_the_compiler_runs_the_planned_convolutions_in_int8_and_no_others(
    fp32: BuiltEngine, int8: BuiltEngine, plan: Plan
) -> None:
    dtypes = convolution_dtypes(int8.layers)
    assert {name: dtypes[name] for name in plan.quantised} == dict.fromkeys(plan.quantised, "Int8")
    assert {dtypes[name] for name in plan.left_float} == {"Float"}
    assert set(convolution_dtypes(fp32.layers).values()) == {"Float"}


def test_layers_carry_the_ends_of_the_graph(fp32: BuiltEngine) -> None:
    assert fp32.layers[0].input_dtypes == ("UInt8",)  # the frame's bytes go in
    assert fp32.layers[-1].output_dtypes == ("Float",)
    assert "score" in fp32.layers[-1].onnx_nodes


def test_without_detail_there_are_no_layers(fp32_graph: bytes) -> None:
    assert build(fp32_graph, BuildOptions(detailed=False), flavour=RTX).layers == ()
    assert parse_layers("Total Weights Memory: 37288 bytes") == ()


def test_progress_runs_through_every_phase(fp32_graph: bytes) -> None:
    events: list[tuple[str, int, int]] = []
    build(fp32_graph, flavour=RTX, progress=lambda *event: events.append(event))
    assert events[0][:2] == ("Building engine", 0)
    assert events[-1] == ("Building engine", events[-1][2], events[-1][2])
    assert all(0 <= done <= steps for _, done, steps in events)


def test_an_exception_of_the_callback_cancels_the_build(fp32_graph: bytes) -> None:
    calls = []

    def progress(phase: str, done: int, steps: int) -> None:
        calls.append(phase)
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        build(fp32_graph, flavour=RTX, progress=progress)
    assert len(calls) == 1


def test_ctrl_c_ends_a_build(fp32_graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(fp32_graph, flavour=RTX, progress=lambda *event: signal.raise_signal(signal.SIGINT))

    def interrupted(self: Log, severity: str, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Log, "add", interrupted)  # where TensorRT itself would swallow it
    with pytest.raises(KeyboardInterrupt):
        build(fp32_graph, flavour=RTX)


def antialias(model: onnx.ModelProto) -> None:
    node(model, "enlarge").attribute.append(helper.make_attribute("antialias", 1))


def unknown_operators(model: onnx.ModelProto) -> None:
    node(model, "pool").op_type = "MaxPooling"
    node(model, "sigmoid").op_type = "Sigmoidal"


def asymmetric(model: onnx.ModelProto) -> None:
    set_constant(model, "stem.weight.zero_point", np.array(3, np.int8))


@pytest.mark.parametrize(
    ("change", "lines", "fix"),
    [
        (antialias, ["node 'enlarge' (Resize): Antialiasing is not supported currently."], "antialiased"),
        (
            unknown_operators,
            ["node 'pool' (MaxPooling): Plugin not found", "node 'sigmoid' (Sigmoidal): Plugin not found"],
            "operator",
        ),
        (asymmetric, ["node 'stem.weight.dequantise' (DequantizeLinear): Non-zero zero point"], "symmetric"),
    ],
)
def test_every_node_that_cannot_be_parsed_is_named(
    change: Callable[[onnx.ModelProto], None], lines: list[str], fix: str, int8_model: onnx.ModelProto
) -> None:
    with pytest.raises(EngineError, match="cannot parse the graph") as caught:
        build(changed(int8_model, change), flavour=RTX)
    for got, wanted in zip(caught.value.what.splitlines()[1:], lines, strict=True):
        assert got.strip().startswith(wanted)
    assert fix in caught.value.fix


def test_what_is_no_graph_is_said_so(fp32_graph: bytes) -> None:
    for content in (b"junk", fp32_graph[:3000]):
        with pytest.raises(EngineError, match=r"the file: Failed to parse the ONNX model\.") as caught:
            build(content, flavour=RTX)
        assert "segrd-export" in caught.value.fix


def too_many(model: onnx.ModelProto) -> None:
    set_constant(model, "k", np.array([5000], np.int64))


def dynamic(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


@pytest.mark.parametrize(
    ("change", "options", "line", "fix"),
    [
        (too_many, BuildOptions(), "K exceeds the maximum value allowed (3840)", "top_pixels"),
        (dynamic, BuildOptions(), "no optimization profile has been defined", "variable size"),
        (lambda model: None, BuildOptions(workspace_bytes=1), "within workspace limit", "workspace_bytes"),
        (lambda model: None, BuildOptions(version_compatible=True), "nvinfer_lean", "tensorrt-lean"),
    ],
)
def test_a_failed_build_carries_the_log_line_and_its_advice(
    change: Callable[[onnx.ModelProto], None], options: BuildOptions, line: str, fix: str, model: onnx.ModelProto
) -> None:
    with pytest.raises(EngineError, match=f"{RTX} .* cannot build the graph") as caught:
        build(changed(model, change), options, flavour=RTX)
    assert line in caught.value.what
    assert fix in caught.value.fix


def test_compute_capabilities_are_asked_of_the_api(fp32_graph: bytes, fp32: BuiltEngine) -> None:
    one = build(fp32_graph, BuildOptions(compute_capabilities=("8.6",)), flavour=RTX)
    assert one.plan != fp32.plan
    with pytest.raises(OptionError, match=r"no engine for compute capability 6\.1") as caught:
        build(fp32_graph, BuildOptions(compute_capabilities=("8.6", "6.1")), flavour=RTX)
    assert "8.9" in caught.value.expected


@pytest.mark.parametrize(
    ("card", "asked", "targets"),
    [("7.5", (), ("7.5",)), ("7.5", ("8.6",), ("8.6",)), ("8.9", (), ()), (None, (), ())],
)
def test_a_turing_card_has_to_be_named(
    card: str | None,
    asked: tuple[str, ...],
    targets: tuple[str, ...],
    fp32_graph: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gpu(index: int = 0) -> driver.Gpu:
        if card is None:
            raise EngineError("no NVIDIA driver")
        return driver.Gpu("a card", card, "13.2", "")

    configured = []
    configure = build_module._configure
    monkeypatch.setattr(driver, "gpu", gpu)
    monkeypatch.setattr(
        build_module, "_configure", lambda *arguments: (configured.append(arguments[2]), configure(*arguments))
    )
    build(fp32_graph, BuildOptions(compute_capabilities=asked), flavour=RTX)
    assert configured[0].compute_capabilities == targets


def test_options_reach_the_builder() -> None:
    with recording(trt) as (logger, log):
        builder = trt.Builder(logger)
        for options in (
            BuildOptions(),
            BuildOptions(1 << 20, 5, ("8.6", "8.9"), detailed=False, tf32=True, aux_streams=2),
            BuildOptions(version_compatible=True, exclude_lean_runtime=True),
        ):
            config = builder.create_builder_config()
            default = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
            build_module._configure(trt, config, options, log)
            assert config.get_flag(trt.BuilderFlag.TF32) == options.tf32
            assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE) == options.version_compatible
            assert config.get_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME) == options.exclude_lean_runtime
            assert config.builder_optimization_level == options.optimisation_level
            assert config.max_aux_streams == options.aux_streams
            assert (config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED) == options.detailed
            workspace = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
            assert workspace == (options.workspace_bytes or default)
            assert config.num_compute_capabilities == len(options.compute_capabilities)


@pytest.mark.parametrize(
    "fields",
    [
        {"workspace_bytes": 0},
        {"optimisation_level": 6},
        {"optimisation_level": -1},
        {"aux_streams": -1},
        {"compute_capabilities": ("sm86",)},
        {"exclude_lean_runtime": True},
    ],
)
def test_options_that_cannot_work_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        BuildOptions(**fields)


@pytest.mark.parametrize(("flavour", "capabilities"), [("tensorrt", ()), (RTX, (CURRENT,))])
def test_what_needs_a_gpu_asks_the_driver_first(
    flavour: str, capabilities: tuple[str, ...], fp32_graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver(index: int = 0) -> None:
        raise EngineError("no NVIDIA driver")

    class OnlyAVersion:  # no Builder: touching TensorRT before the driver was asked fails with an AttributeError
        __version__ = "11.4.1"

    monkeypatch.setattr(driver, "gpu", no_driver)
    monkeypatch.setattr(build_module.library, "load", lambda name: OnlyAVersion)
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        build(fp32_graph, BuildOptions(compute_capabilities=capabilities), flavour=flavour)


class FakeConfig:
    """The three calls of IBuilderConfig that concern timing caches; content that begins with "bad" does not fit."""

    attached: bytes | None = None

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        if cache.startswith(b"bad") and not ignore_mismatch:
            return False
        self.attached = cache
        return True


@pytest.mark.parametrize(("content", "attached"), [(None, b""), (b"good", b"good"), (b"bad", b"")])
def test_a_timing_cache_is_used_only_where_it_fits(content: bytes | None, attached: bytes) -> None:
    config, log = FakeConfig(), Log()
    assert build_module._attach_timing_cache(config, content, log) == attached
    assert config.attached == attached
    assert bool(log.warnings()) == (content == b"bad")
