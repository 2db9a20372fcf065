"""One run of a plan with whatever inputs and outputs it has: for looking inside, not for the line (see `engines`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cuda import Buffer, Device, Stream, open_device
from ..errors import EngineError
from . import library
from .log import engine_error, recording
from .plan import deserialise

# TensorRT's element types by name, as far as numpy has them.
_DTYPES: dict[str, npt.DTypeLike] = {
    **{"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT8": np.int8},
    **{"INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_},
}

Arrays = Mapping[str, npt.NDArray[Any]]


def run_once(plan: bytes, inputs: Arrays, *, flavour: str, device: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Load a plan onto the GPU, run it on `inputs` (by name), and free it again.

    Returns:
        Every output by name, in the plan's order.

    Raises:
        EngineError: the plan cannot be loaded or run here, or an input is missing or does not fit.
    """
    gpu = open_device(device)
    trt = library.load(flavour)
    with gpu.current(), recording(trt) as (_, log):
        loaded = deserialise(plan, flavour=flavour)
        engine: Any = loaded.engine
        context: Any = engine.create_execution_context()
        try:
            if context is None:
                raise engine_error(f"{flavour} {trt.__version__} gives no execution context", log)
            with ExitStack() as stack:
                stream = Stream(gpu)
                stack.callback(stream.close)
                buffers, outputs = {}, []
                for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
                    shape = tuple(engine.get_tensor_shape(name))
                    buffers[name] = _buffer(gpu, engine.get_tensor_dtype(name).name, shape, name)
                    stack.callback(buffers[name].close)
                    if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                        outputs.append(name)
                    else:
                        _fill(buffers[name], name, inputs)
                if refused := _execute(context, buffers, outputs, stream):
                    raise engine_error(f"{flavour} {trt.__version__} cannot run the engine: {refused}", log)
                return {name: buffers[name].host.copy() for name in outputs}
        finally:  # context, engine, runtime, in this order, also where an error keeps this frame
            del context, engine, loaded


def _execute(context: Any, buffers: Mapping[str, Buffer], outputs: list[str], stream: Stream) -> str:
    """Run the engine; returns what TensorRT refused, or ""."""
    for name, buffer in buffers.items():
        if not context.set_tensor_address(name, buffer.address):
            return f"it does not take the memory of tensor {name}"
    for name in buffers.keys() - set(outputs):
        buffers[name].copy_in(stream)
    was_taken = context.execute_async_v3(stream.handle)
    for name in outputs if was_taken else ():
        buffers[name].copy_out(stream)
    stream.synchronise()  # also where the engine refused: the copies in are still under way
    return "" if was_taken else "it refuses to start"


def _buffer(gpu: Device, dtype: str, shape: tuple[int, ...], name: str) -> Buffer:
    if dtype not in _DTYPES or min(shape, default=1) < 0:
        raise EngineError(f"tensor {name} is {dtype} {list(shape)}", expected=", ".join(_DTYPES) + ", of a fixed size")
    return Buffer(gpu, shape, _DTYPES[dtype], "pinned")


def _fill(buffer: Buffer, name: str, inputs: Arrays) -> None:
    given = inputs.get(name)
    if given is None or given.dtype != buffer.host.dtype or given.shape != buffer.host.shape:
        raise EngineError(
            f"input {name} is " + ("missing" if given is None else f"{given.dtype} {list(given.shape)}"),
            expected=f"{buffer.host.dtype} {list(buffer.host.shape)}",
        )
    buffer.host[...] = given
