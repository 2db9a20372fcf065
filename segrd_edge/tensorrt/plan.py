"""An engine plan back into an engine."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import EngineError
from . import library, requirements
from .log import engine_error, recording

_BUILD_AGAIN = "build the engine again from the bundle"


class LoadedPlan(NamedTuple):
    """A deserialised engine with the runtime that must outlive it: drop the engine and its contexts first."""

    runtime: Any
    engine: Any


def deserialise(plan: bytes, *, flavour: str, host_code: bool = False, device: int = 0) -> LoadedPlan:
    """Load a plan onto the GPU whose context is current.

    Args:
        host_code: let the plan execute code of its own on the processor, as version-compatible plans do. Only for a
            plan that this machine built and whose checksum was compared.
        device: index of that GPU.

    Raises:
        EngineError: TensorRT, the driver or the GPU is missing or does not fit (asked before any object of TensorRT's
            is made), or the plan is damaged, or of another version or GPU. The message has TensorRT's last error lines.
    """
    requirements.require(flavour, device)
    trt = library.load(flavour)
    title = f"{flavour} {trt.__version__}"
    with recording(trt) as (logger, log):
        try:
            runtime = trt.Runtime(logger)
        except TypeError as error:  # pybind11's answer to a null pointer from the factory
            raise engine_error(f"{title} cannot start its runtime: {error}", log) from error
        if host_code:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise engine_error(f"{title} cannot load the engine ({len(plan)} bytes)", log, fix=_BUILD_AGAIN)
    return LoadedPlan(runtime, engine)


def layer_information(engine: Any, *, flavour: str) -> str:
    """What the engine inspector knows of an engine's layers, as TensorRT's JSON; "" where the flavour has no inspector,
    as the lean runtime. Full only for engines built with `detailed`.

    Raises:
        EngineError: the engine gives no inspector.
    """
    trt = library.load(flavour)
    if not hasattr(engine, "create_engine_inspector"):
        return ""
    inspector = engine.create_engine_inspector()
    if inspector is None:
        raise EngineError(f"{flavour} {trt.__version__} gives no inspector for this engine")
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
