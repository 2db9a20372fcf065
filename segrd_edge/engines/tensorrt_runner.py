"""An engine plan on the GPU: everything allocated once, and per frame a copy in, a launch, and a wait.

    plan ─► engine, execution context ─► buffers, addresses ─► two plain runs ─► CUDA graph ─► compared ─► ready

The graph holds the copy of the frame, the engine's kernels and the copies of the results. It replaces the plain
enqueue only after one replay gave what the plain enqueue gives; where it cannot be captured, or gives something else,
the plain enqueue remains, and the log and `no_graph_reason` say why.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import cuda
from ..errors import EngineError
from ..tensorrt import library, plan
from ..tensorrt.log import engine_error, recording
from .base import EngineOptions, Port, Ports

_logger = logging.getLogger("segrd_edge")
# Names of trt.DataType; another type keeps its name, in lower case.
_DTYPES = {"FLOAT": "float32", "HALF": "float16"}
# Between a replay and a plain enqueue of the same kernels; sums by atomic additions come in any order.
_REPLAY_TOLERANCE = 1e-3
_FAILED = "segrd-doctor shows the GPU, its driver and TensorRT; if they are in order, build the engine again"


class Runner:
    """A plan, loaded. `start` makes it ready to run. Not safe to call from several threads at once.

    Raises:
        EngineError: TensorRT, pycuda, the driver or the GPU is missing, or the plan cannot be loaded here.
    """

    def __init__(self, content: bytes, flavour: str, options: EngineOptions, *, host_code: bool = False) -> None:
        self._trt = library.load(flavour)
        self._flavour = flavour
        self._title = f"{flavour} {self._trt.__version__}"
        self._options = options
        self.device = cuda.open_device(options.device)
        self.memory: Literal["pinned", "mapped"] = self.device.memory_mode(options.memory)
        self.no_graph_reason = "it was not started yet"
        self._graph: cuda.Graph | None = None
        self._closing = ExitStack()  # in the order of construction; it closes in reverse
        try:
            with self.device.current():
                self._load(content, flavour, host_code)
        except BaseException:
            self.close()
            raise

    def _load(self, content: bytes, flavour: str, host_code: bool) -> None:
        self._stream = cuda.Stream(self.device)
        self._closing.callback(self._stream.close)
        loaded = plan.deserialise(content, flavour=flavour, host_code=host_code, device=self._options.device)
        self._runtime: Any = loaded.runtime
        self._engine: Any = loaded.engine
        del loaded
        # The runtime outlives its engine, and the engine its context. (Neither is passed to a function here: the frames
        # of an exception would keep it alive, past what it depends on.)
        self._closing.callback(setattr, self, "_runtime", None)
        self._closing.callback(setattr, self, "_engine", None)
        self.ports = _ports(self._trt, self._engine)
        with recording(self._trt) as (_, log):
            self._context: Any = self._engine.create_execution_context()
            if self._context is None:
                raise engine_error(f"{self._title} cannot make an execution context", log, fix=_FAILED)
        self._closing.callback(setattr, self, "_context", None)

    def start(self) -> None:
        """Allocate the buffers, tell the engine their addresses, run it once, and capture its graph.

        Raises:
            EngineError: too little memory, or the engine does not run.
        """
        try:
            with self.device.current():
                self._allocate()
                self._closing.callback(self._drain)
                self._warm_up()
        except BaseException:
            self.close()
            raise

    def _allocate(self) -> None:
        self._inputs = [self._buffer(name, port) for name, port in self.ports.inputs.items()]
        outputs = {name: self._buffer(name, port) for name, port in self.ports.outputs.items()}
        self._outputs = list(outputs.values())
        self._stopwatch = cuda.Stopwatch(self.device)
        self._closing.callback(self._stopwatch.close)
        self.items: npt.NDArray[np.uint8] = self._inputs[0].host  # n×H×W×3, what `run` reads
        self.scores: npt.NDArray[np.float32] = outputs["score"].host  # n, what `run` writes
        self.maps: npt.NDArray[np.float32] = outputs["anomaly_map"].host  # n×h×w
        self._closing.callback(self._drop_views)

    def _buffer(self, name: str, port: Port) -> cuda.Buffer:
        buffer = cuda.Buffer(self.device, port.shape, port.dtype, self.memory)
        self._closing.callback(buffer.close)
        with recording(self._trt) as (_, log):
            if not self._context.set_tensor_address(name, buffer.address):
                raise engine_error(f"{self._title} does not take an address for {name}", log, fix=_FAILED)
        return buffer

    def run(self) -> None:
        """Compute `scores` and `maps` of `items`, and wait for them.

        Raises:
            EngineError: the run was refused, or failed on the GPU.
        """
        with self.device.current():
            self._launch()
            self._stream.synchronise()

    def time_ms(self) -> float:
        """Milliseconds on the GPU of one `run`, copies included, by events; what Python adds is not in it.

        Raises:
            EngineError: as `run`.
        """
        with self.device.current():
            return self._stopwatch.measure_ms(self._stream, self._launch)

    def layer_information(self) -> str:
        """What the engine inspector knows of the layers; see `plan.layer_information`."""
        with self.device.current():
            return plan.layer_information(self._engine, flavour=self._flavour)

    def close(self) -> None:
        """Free everything, in order. A second call does nothing."""
        closing, self._closing = self._closing, ExitStack()
        with self.device.current():
            closing.close()

    def _drain(self) -> None:
        """Nothing is freed that a run still uses."""
        try:
            self._stream.synchronise()
        except EngineError as error:  # of a run that failed, and said so to its caller
            _logger.debug("closing after a failed run: %s", error.what)

    def _drop_views(self) -> None:
        for name in ("items", "scores", "maps"):
            setattr(self, name, getattr(self, name)[:0].copy())

    def _launch(self) -> None:
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        with self.device.reported(f"{self._title} cannot copy"):
            for buffer in self._inputs:
                buffer.copy_in(self._stream)
            self._execute()
            for buffer in self._outputs:
                buffer.copy_out(self._stream)

    def _execute(self) -> None:
        with recording(self._trt) as (_, log):
            if not self._context.execute_async_v3(self._stream.handle):
                raise engine_error(f"{self._title} refuses to run", log, fix=_FAILED)

    def _run_plainly(self, items: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
        np.copyto(self.items, items)
        self._enqueue()
        self._stream.synchronise()
        return [buffer.host.copy() for buffer in self._outputs]

    def _warm_up(self) -> None:
        """Plain runs load kernels and show that the engine runs; then the graph, if it is wanted."""
        noise = np.random.default_rng(0).integers(0, 256, self.items.shape, np.uint8)
        expected = self._run_plainly(noise)
        # Other items last: a graph that leaves out the copy of its input is noticed.
        self._run_plainly(np.zeros_like(noise))
        self.no_graph_reason = "the options say so"
        if self._options.cuda_graph:
            self.no_graph_reason = self._capture(noise, expected)
            if self.no_graph_reason:
                _logger.warning("%s runs without a CUDA graph: %s", self._title, self.no_graph_reason)

    def _capture(self, items: npt.NDArray[np.uint8], expected: Sequence[npt.NDArray[Any]]) -> str:
        """Use a graph from now on, or say why not."""
        try:
            graph = cuda.Graph(self._stream, self._enqueue)
        except EngineError as error:
            self._after_failed_capture()
            return error.what
        reason = self._difference(graph, items, expected)
        if reason:
            graph.close()
        else:
            self._graph = graph
            self._closing.callback(self._drop_graph, graph)
        return reason

    def _drop_graph(self, graph: cuda.Graph) -> None:
        self._graph = None
        graph.close()

    def _difference(self, graph: cuda.Graph, items: npt.NDArray[np.uint8], expected: Sequence[npt.NDArray[Any]]) -> str:
        """How a replay differs from a plain enqueue; "" where it does not."""
        np.copyto(self.items, items)
        for buffer, values in zip(self._outputs, expected, strict=True):
            # So that a replay which writes nothing is noticed; a NaN would not change.
            np.copyto(buffer.host, np.where(np.isfinite(values), values + 1, 0))
        try:
            graph.launch()
            self._stream.synchronise()
        except EngineError as error:
            return f"its replay failed: {error.what}"
        for buffer, values in zip(self._outputs, expected, strict=True):
            # NaN in both is for the self-test to judge.
            differ = ~np.isclose(buffer.host, values, rtol=0, atol=_REPLAY_TOLERANCE, equal_nan=True)
            if differ.any():
                by = float(np.abs(buffer.host - values)[differ].max())
                return f"its replay gives other results than the plain enqueue, by up to {by:.3g}"
        return ""

    def _after_failed_capture(self) -> None:
        """TensorRT's own CUDA runtime may still hold the capture's error, and report it once, to the next run."""
        try:
            self._run_plainly(np.zeros_like(self.items))
        except EngineError:
            self._run_plainly(np.zeros_like(self.items))


def _ports(trt: Any, engine: Any) -> Ports:
    inputs: dict[str, Port] = {}
    outputs: dict[str, Port] = {}
    for index in range(engine.num_io_tensors):
        name = str(engine.get_tensor_name(index))
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        dtype = str(engine.get_tensor_dtype(name).name)
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))
        (inputs if is_input else outputs)[name] = Port(_DTYPES.get(dtype, dtype.lower()), shape)
    return Ports(inputs, outputs)
