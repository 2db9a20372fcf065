"""The engines that can run a deploy graph on this machine.

Adding one is a file with an `Engine` subclass and a line in `ENGINES`; nothing else asks which engine it has.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import EngineError
from .base import DEFAULT_OPTIONS, Engine, EngineOptions, EngineOutput

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..manifest import Precision

_logger = logging.getLogger("segrd_edge")

# Name → "module:class", in the order in which "auto" tries them: a GPU where one works, then the faster of the CPU's.
# OpenVINO runs the INT8 graph at the processor's limit; ONNX Runtime runs it slower than fp32 (benchmarks/results).
ENGINES: dict[str, str] = {
    "tensorrt": "segrd_edge.engines.tensorrt:TensorRtEngine",
    "tensorrt-rtx": "segrd_edge.engines.tensorrt:TensorRtRtxEngine",
    "tensorrt-lean": "segrd_edge.engines.tensorrt:TensorRtLeanEngine",
    "openvino": "segrd_edge.engines.openvino:OpenVinoEngine",
    "onnxruntime": "segrd_edge.engines.onnxruntime:OnnxRuntimeEngine",
}

__all__ = [
    "ENGINES",
    "Engine",
    "EngineOptions",
    "EngineOutput",
    "available",
    "create",
    "engine_class",
    "open_engine",
    "processor_engine",
    "processor_engines",
]


def available() -> list[str]:
    """Names of the engines that "auto" may be here, fastest first. No graph is loaded to find out."""
    classes = {name: engine_class(name) for name in ENGINES}
    return [name for name, found in classes.items() if found.is_automatic and found.is_available()]


def processor_engines() -> list[str]:
    """The names in `available()` that run on the processor."""
    from ..tensorrt.library import FLAVOURS

    return [name for name in available() if name not in FLAVOURS]


def processor_engine() -> str:
    """What "auto" is here without the GPU's engines: TensorRT's are built and timed on the device, in minutes each.

    Raises:
        EngineError: none is installed.
    """
    found = processor_engines()
    if not found:
        raise EngineError("no engine for the processor is installed", fix="pip install 'segrd-edge[openvino]'")
    return found[0]


def engine_class(name: str) -> type[Engine]:
    """The class behind an engine's name; "auto" is the first of `available()`.

    Raises:
        EngineError: an unknown name, or "auto" where no engine is installed.
    """
    if name == "auto":
        name = _automatic()[0]
    if name not in ENGINES:
        raise EngineError(f"unknown engine {name!r}", expected="auto, " + ", ".join(ENGINES), fix="name one of these")
    module, _, attribute = ENGINES[name].partition(":")
    found: type[Engine] = getattr(import_module(module), attribute)
    return found


def create(name: str, graph: bytes, options: EngineOptions = DEFAULT_OPTIONS) -> Engine:
    """Load `graph` (serialised ONNX, see `engines.base`) into the engine called `name`, or "auto".

    Raises:
        EngineError: unknown or missing engine, or a graph that it cannot run.
    """
    return engine_class(name)(graph, options)


def open_engine(
    name: str, bundle: Bundle, precision: str = "auto", options: EngineOptions = DEFAULT_OPTIONS
) -> tuple[Engine, Precision]:
    """Load a graph of a bundle into the engine called `name`, and say which (`Engine.open`).

    "auto" goes on with the next of `available()` where one does not work, and logs why.

    Raises:
        EngineError: unknown or missing engine, or none that works.
        OptionError, BundleError: as `Engine.open`.
    """
    *others, last = _automatic() if name == "auto" else [name]
    for candidate in others:
        try:
            return engine_class(candidate).open(bundle, precision, options)
        except EngineError as error:  # noqa: PERF203  (loading takes a thousand times longer)
            _logger.warning("the engine %s does not work here, so another is taken: %s", candidate, error)
    return engine_class(last).open(bundle, precision, options)


def _automatic() -> list[str]:
    names = available()
    if not names:
        raise EngineError(
            "no engine is installed",
            expected="one of " + ", ".join(ENGINES),
            fix="pip install 'segrd-edge[openvino]', or pip install onnxruntime",
        )
    return names
