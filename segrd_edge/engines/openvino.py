"""OpenVINO on the CPU: the fastest engine measured for INT8, and level with the best for fp32."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import machine
from ..errors import EngineError
from . import openvino_cache
from .base import DEFAULT_OPTIONS, Engine, EngineOptions, EngineOutput, Port, Ports
from .openvino_int8_speed import int8_speedup
from .openvino_saturation import int8_is_exact, use_float_where_sums_saturate
from .openvino_uint8 import use_uint8_activations
from .signal_stack import signal_stack_kept

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..manifest import Manifest, Precision

_logger = logging.getLogger("segrd_edge")
_WORTH_KEEPING_S = 0.4  # of loading: what takes less is hardly faster read back
_WORTH_INT8 = 1.1  # times as fast as float, by the convolutions; a network has other layers besides
# Without VNNI, of float's time: the small term's sums could saturate, so it is computed in float beside the large one.
# Of four networks with 18 to 57 % of their work in two terms it was 1.4 to 1.75 (docs/int8.md).
_TWO_TERMS_S = 1.75
_DTYPES = {"u8": "uint8", "f32": "float32"}


def cpu_settings(threads: int | None) -> dict[str, Any]:
    """What a graph is compiled with for the processor; `threads` None is OpenVINO's own choice."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Processors with AMX or fp16 arithmetic would otherwise round float layers to bfloat16 or fp16, and a
        # threshold chosen on one machine would not hold on another.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
        # It pins its threads to cores, and every engine of a process to the first ones: of two with a thread each, one
        # waits for the other while a core is idle (2 cores: 7.2 frames/s, 10.9 to 12.8 unpinned). With all cores there
        # is none to leave to another.
        settings["ENABLE_CPU_PINNING"] = threads >= machine.usable_cores()
    return settings


def prepare(model: Any) -> Any:
    """Bring the INT8 of an `openvino.Model` into the form that is fast and exact on this processor; in place."""
    use_uint8_activations(model)
    use_float_where_sums_saturate(model)
    return model


class OpenVinoEngine(Engine):
    """One infer request, created once, with the input bound once. The map of a run IS OVERWRITTEN BY THE NEXT RUN."""

    name = "openvino"
    package = "openvino"
    install = "pip install 'segrd-edge[openvino]'"

    @classmethod
    def int8_is_faster(cls, manifest: Manifest) -> bool:
        """With VNNI; without it on some processors, for networks with little in two terms."""
        if int8_is_exact():
            return True
        record, share, twice = manifest.calibration, 1.0, 0.0
        if record is not None and record.int8_share is not None:
            share, twice = record.int8_share, record.two_term_share
        return 1 - share + (share - twice) / int8_speedup() + twice * _TWO_TERMS_S <= 1 / _WORTH_INT8

    def __init__(
        self, graph: bytes, options: EngineOptions = DEFAULT_OPTIONS, *, compiled: bytes | None = None
    ) -> None:
        self._compiled = compiled  # what `exported` gave earlier, in place of the graph
        super().__init__(graph, options)
        self._compiled = None

    @classmethod
    def _of_bundle(cls, bundle: Bundle, precision: Precision, options: EngineOptions) -> Engine:
        """Compiled earlier on this machine, where that is kept (`openvino_cache`)."""
        graph_sha256 = bundle.sha256[bundle.manifest.graphs[precision].file]
        key = openvino_cache.key_of(graph_sha256, cpu_settings(options.threads))
        if (compiled := openvino_cache.read(key)) is not None:
            try:
                return cls(b"", options, compiled=compiled)
            except EngineError as error:
                _logger.warning("what OpenVINO compiled earlier is of no use, so it compiles again: %s", error)
                openvino_cache.forget(key)
        start = perf_counter()
        engine = cls(bundle.graph(precision), options)
        if perf_counter() - start >= _WORTH_KEEPING_S:
            openvino_cache.keep(key, engine.exported())
        return engine

    def exported(self) -> bytes:
        """The compiled graph, to be read back by an engine with the same options on this machine."""
        return bytes(self._request.get_compiled_model().export_model().getvalue())

    def _load(self, graph: bytes, options: EngineOptions) -> Ports:
        import openvino

        settings = cpu_settings(options.threads)
        try:
            with signal_stack_kept():
                core = openvino.Core()
                if self._compiled is not None:
                    compiled = core.import_model(self._compiled, "CPU", settings)
                else:
                    compiled = core.compile_model(prepare(core.read_model(graph)), "CPU", settings)
                self._request: Any = compiled.create_infer_request()
        except RuntimeError as error:
            raise self._graph_error("load", error) from error
        return Ports(_ports(compiled.inputs), _ports(compiled.outputs))

    def _allocate(self) -> None:
        import openvino

        self._items = np.zeros((self.batch, *self.input_hw, 3), np.uint8)
        self._request.set_tensor(self.input_name, openvino.Tensor(self._items, shared_memory=True))
        self._scores = self._request.get_tensor("score").data
        self._maps = self._request.get_tensor("anomaly_map").data

    def _run(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[EngineOutput]:
        for item, image in zip(self._items, images, strict=False):
            np.copyto(item, image)
        # Not `infer`: it makes a stream for every thread that calls it, and when such threads had ended before the
        # graph went, the process had a damaged heap (OpenVINO 2026.4.1). This runs in the engine's own thread.
        try:
            self._request.start_async()
            self._request.wait()
        except RuntimeError as error:
            raise self._graph_error("run", error) from error
        return [EngineOutput(float(self._scores[i]), self._maps[i]) for i in range(len(images))]

    def _unload(self) -> None:
        del self._scores, self._maps  # views into the request's memory go before the request
        with signal_stack_kept():
            del self._request


def _ports(nodes: list[Any]) -> dict[str, Port]:
    return {node.get_any_name(): _port(node) for node in nodes}


def _port(node: Any) -> Port:
    dtype = node.element_type.get_type_name()
    shape = tuple(size.get_length() if size.is_static else -1 for size in node.partial_shape)
    return Port(_DTYPES.get(dtype, dtype), shape)
