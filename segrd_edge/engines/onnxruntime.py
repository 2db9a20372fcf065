"""ONNX Runtime on the CPU: small and portable, the engine of processors that OpenVINO does not serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .base import Engine, EngineOptions, EngineOutput, Port, Ports

if TYPE_CHECKING:
    from ..manifest import Manifest

# It turns the bias of an INT8 convolution into INT32 multiples of the scales. With float16 scales these overflow, and
# outputs become infinite (ONNX Runtime 1.31); TensorRT keeps the bias as it is, and so does every other engine.
_NOT_WANTED = ["WeightBiasQuantization"]
_ERRORS_ONLY = 3  # ONNX Runtime's log level: it otherwise prints about hardware that nobody asked for


class OnnxRuntimeEngine(Engine):
    """Thread spinning keeps its default (on): latency comes first, and the line PC has nothing better to do."""

    name = "onnxruntime"
    package = "onnxruntime"
    install = "pip install onnxruntime"

    @classmethod
    def int8_is_faster(cls, manifest: Manifest) -> bool:
        """Symmetric INT8 leaves ReLU outside the fused convolutions, which then run as DequantizeLinear + float."""
        return False

    def _load(self, graph: bytes, options: EngineOptions) -> Ports:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                graph, settings, providers=["CPUExecutionProvider"], disabled_optimizers=_NOT_WANTED
            )
        except Exception as error:  # its exceptions share no base class but Exception
            raise self._graph_error("load", error) from error
        return Ports(_ports(self._session.get_inputs()), _ports(self._session.get_outputs()))

    def _allocate(self) -> None:
        self._items = np.zeros((self.batch, *self.input_hw, 3), np.uint8)  # the outputs are new in every run

    def _run(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[EngineOutput]:
        for item, image in zip(self._items, images, strict=False):
            np.copyto(item, image)
        # No IO binding: it saves 10 µs of a run that takes tens of milliseconds.
        try:
            scores, maps = self._session.run(["score", "anomaly_map"], {self.input_name: self._items})
        except Exception as error:
            raise self._graph_error("run", error) from error
        return [EngineOutput(float(scores[i]), maps[i]) for i in range(len(images))]

    def _unload(self) -> None:
        del self._session


def _ports(nodes: list[Any]) -> dict[str, Port]:
    return {node.name: _port(node) for node in nodes}


def _port(node: Any) -> Port:
    """`node.type` reads like "tensor(uint8)"; a dimension that is not fixed is a string or None."""
    dtype = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return Port("float32" if dtype == "float" else dtype, shape)
