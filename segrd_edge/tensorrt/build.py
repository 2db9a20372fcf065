"""ONNX deploy graph → engine plan, with TensorRT 10.3 to 11 and TensorRT-RTX.

Networks are strongly typed: every precision stands in the graph, as Q/DQ pairs and element types, and the compiler
chooses kernels, never precisions. TensorRT 11 knows nothing else; 10.x needs the flag. Whatever differs between
releases is asked of the API, not of the version.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import EngineError, OptionError
from . import driver, library, requirements
from .advice import advise
from .layers import Layer, parse_layers
from .log import Log, engine_error, recording
from .progress import Progress, Reporter, make_monitor

CURRENT = "current"  # in place of a compute capability: that of the GPU in this machine
_TURING = "7.5"
_CAPABILITY = re.compile(r"\d+\.\d")
_HIGHEST_LEVEL = 5


@dataclass(frozen=True)
class BuildOptions:
    """How to build. Every field is part of the cache key."""

    workspace_bytes: int | None = None  # scratch memory that kernels may use; None: all that the GPU has
    optimisation_level: int = 3  # 0 (builds fast) to 5 (searches longest)
    # GPUs to build for, as "8.6" or CURRENT, where the flavour can choose (TensorRT-RTX). Empty: what it does by
    # itself, every GPU of Ampere and later (TensorRT-RTX; for Turing where that is this machine's) or the one in this
    # machine (TensorRT).
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False  # runs in the lean runtime; such plans hold host code, but for the next option
    # Leave the copy of the lean runtime (that host code, tens of megabytes) out of a version-compatible plan. Then it
    # runs in the lean runtime of the very version that built it (IRuntime::loadRuntime in NvInferRuntime.h).
    exclude_lean_runtime: bool = False
    detailed: bool = True  # keep what the inspector and `layers` show
    tf32: bool = False  # round float32 convolutions to TF32 on Ampere and later: faster, and not what was validated
    aux_streams: int = 0  # additional streams; 0 keeps the capture of a CUDA graph simple

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise OptionError(f"workspace_bytes={self.workspace_bytes}", expected="at least 1, or None for no limit")
        if not 0 <= self.optimisation_level <= _HIGHEST_LEVEL:  # TensorRT would silently take the nearest
            raise OptionError(f"optimisation_level={self.optimisation_level}", expected=f"0 to {_HIGHEST_LEVEL}")
        if self.exclude_lean_runtime and not self.version_compatible:  # TensorRT would silently ignore it
            raise OptionError("exclude_lean_runtime without version_compatible", fix="set both, or neither")
        if self.aux_streams < 0:
            raise OptionError(f"aux_streams={self.aux_streams}", expected="at least 0")
        for capability in self.compute_capabilities:
            if capability != CURRENT and not _CAPABILITY.fullmatch(capability):
                raise OptionError(f"compute capability {capability!r}", expected=f'"8.6", say, or "{CURRENT}"')

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON has them."""
        return {**asdict(self), "compute_capabilities": list(self.compute_capabilities)}


@dataclass(frozen=True)
class BuiltEngine:
    """What a build gives."""

    plan: bytes
    timing_cache: bytes | None  # for the next build with this version on this GPU; None where the flavour has none
    layers: tuple[Layer, ...]  # empty where the builder does not list them in its log, or `detailed` was off
    warnings: tuple[str, ...]
    seconds: float
    versions: Mapping[str, str]  # the flavour's own, and its parser's


def build(
    graph: bytes,
    options: BuildOptions | None = None,
    *,
    flavour: str = "tensorrt",
    timing_cache: bytes | None = None,
    device: int = 0,
    progress: Progress | None = None,
) -> BuiltEngine:
    """Compile a serialised ONNX graph of fixed shapes into an engine plan.

    Args:
        graph: the serialised ONNX graph, weights inside.
        flavour: "tensorrt" builds on the GPU that will run the engine; "tensorrt-rtx" needs no GPU to build.
        timing_cache: that of an earlier build with the same version and GPU; one that does not fit is not used, and the
            warnings say so.
        device: index of the GPU to build for; the caller has made it the current one.
        progress: called from the builder as it goes.

    Raises:
        EngineError: TensorRT or the driver is missing, the graph cannot be parsed (every node at fault is named), or it
            cannot be built. The message has TensorRT's own last error lines, the fix has advice for them.
        OptionError: an option that this flavour does not have.
        KeyboardInterrupt: the build was interrupted.
    """
    options = options or BuildOptions()
    known = library.flavour_named(flavour)
    if not known.builds_without_gpu or CURRENT in options.compute_capabilities:
        requirements.require(flavour, device)
    trt = library.load(flavour)
    title = f"{flavour} {trt.__version__}"
    started = time.perf_counter()
    with recording(trt) as (logger, log):
        builder = _checked(_make_builder(trt, logger, log), f"{title} cannot start its builder", log)
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = _checked(builder.create_network(strongly_typed), f"{title} cannot create a network", log)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(graph):
            raise _parse_error(title, parser, log)
        config = _checked(builder.create_builder_config(), f"{title} cannot create a configuration", log)
        _configure(trt, config, _for_turing(options, known, device), log)
        timings = _attach_timing_cache(config, timing_cache, log) if known.has_timing_cache else None
        reporter = Reporter(progress, log)
        monitor = make_monitor(trt, reporter)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        reporter.reraise()
        plan = _checked(plan, f"{title} cannot build the graph", log)
        return BuiltEngine(
            plan=bytes(plan),
            timing_cache=None if timings is None else _serialise(timings, log),
            layers=parse_layers(log.layers_text),
            warnings=tuple(dict.fromkeys(log.warnings())),  # a line that comes for every layer counts once
            seconds=time.perf_counter() - started,
            versions={flavour: str(trt.__version__), "onnx_parser": str(trt.get_nv_onnx_parser_version())},
        )


def _for_turing(options: BuildOptions, known: library.Flavour, device: int) -> BuildOptions:
    """TensorRT-RTX builds for every card but Turing's, which have to be named ("CPU-Only AOT" in its documentation)."""
    if options.compute_capabilities or not known.builds_without_gpu:
        return options
    try:
        is_turing = driver.gpu(device).compute_capability == _TURING
    except EngineError:  # no GPU here: the engine is for other machines
        return options
    return replace(options, compute_capabilities=(_TURING,)) if is_turing else options


def _checked(result: Any, what: str, log: Log) -> Any:
    """A result that TensorRT may have refused with None."""
    if result is None:
        raise engine_error(what, log)
    return result


def _make_builder(trt: Any, logger: Any, log: Log) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # pybind11's answer to a null pointer from the factory
        raise engine_error(f"TensorRT {trt.__version__} cannot start its builder: {error}", log) from error


def _configure(trt: Any, config: Any, options: BuildOptions, log: Log) -> None:
    config.builder_optimization_level = options.optimisation_level
    config.max_aux_streams = options.aux_streams
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_flag(trt, config, "TF32", options.tf32)
    _set_flag(trt, config, "VERSION_COMPATIBLE", options.version_compatible)
    _set_flag(trt, config, "EXCLUDE_LEAN_RUNTIME", options.exclude_lean_runtime)
    if options.compute_capabilities:
        _target(trt, config, options.compute_capabilities, log)


def _set_flag(trt: Any, config: Any, name: str, on: bool) -> None:
    """Set or clear a builder flag; members of BuilderFlag come and go between releases."""
    flag = getattr(trt.BuilderFlag, name, None)
    if flag is None and on:
        raise OptionError(f"TensorRT {trt.__version__} has no builder flag {name}", fix="build without that option")
    if flag is not None:
        (config.set_flag if on else config.clear_flag)(flag)


def _target(trt: Any, config: Any, capabilities: tuple[str, ...], log: Log) -> None:
    """Build for these compute capabilities instead of the flavour's own choice."""
    if not hasattr(config, "set_compute_capability"):
        raise OptionError(
            f"TensorRT {trt.__version__} builds for the GPU in this machine alone, not for {', '.join(capabilities)}",
            fix="leave compute_capabilities empty, or build with tensorrt-rtx",
        )
    names = ["CURRENT" if capability == CURRENT else f"SM{capability.replace('.', '')}" for capability in capabilities]
    config.num_compute_capabilities = len(names)
    for index, (name, capability) in enumerate(zip(names, capabilities, strict=True)):
        member = getattr(trt.ComputeCapability, name, None)
        if member is None:
            known = [f"{n[2:-1]}.{n[-1]}" for n in vars(trt.ComputeCapability) if re.fullmatch(r"SM\d+", n)]
            raise OptionError(f"no engine for compute capability {capability}", expected="one of " + ", ".join(known))
        if not config.set_compute_capability(member, index):
            raise engine_error(f"TensorRT {trt.__version__} refuses compute capability {capability}", log)


def _attach_timing_cache(config: Any, content: bytes | None, log: Log) -> Any:
    """Give the builder a timing cache: `content` where it fits this version and GPU, an empty one otherwise."""
    if content:
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        log.add("WARNING", "the timing cache does not fit this TensorRT and GPU; starting an empty one")
    cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise engine_error("TensorRT does not take an empty timing cache", log)
    return cache


def _serialise(timing_cache: Any, log: Log) -> bytes:
    return bytes(_checked(timing_cache.serialize(), "TensorRT cannot serialise its timing cache", log))


def _parse_error(title: str, parser: Any, log: Log) -> EngineError:
    """Every error of the parser in one exception, a line each."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return engine_error(f"{title} cannot parse the graph", log)
    texts = [error.desc() for error in errors]
    lines = [f"{_node(error)}: {_sentence(text)}" for error, text in zip(errors, texts, strict=True)]
    return EngineError(
        "\n  ".join([f"{title} cannot parse the graph", *lines]),
        expected="a deploy graph of segrd-export",
        fix="; ".join(advise(texts) or ["export the bundle again with segrd-export"]),
    )


def _node(error: Any) -> str:
    name, operator = error.node_name(), error.node_operator()
    return f"node {name!r} ({operator})" if operator else "the file"


def _sentence(description: str) -> str:
    """A parser's description without the C++ condition in front: `cond && "text"`, `Assertion failed: cond: text`."""
    quoted = re.search(r'&& "(.*)"', description, re.DOTALL)
    return quoted[1] if quoted else re.sub(r"^Assertion failed: (?:[^:]|::)+: (?=\S)", "", description)
