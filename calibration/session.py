"""Running graphs on network images: with their inner tensors as outputs, or exactly as on the line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from segrd_edge import engines
from segrd_edge.engines import EngineOutput

_ERRORS_ONLY = 3


class GraphSession:
    """A deploy graph in ONNX Runtime. It is loaded at the first run: whoever finds all results elsewhere pays nothing.

    Args:
        outputs: names of the outputs that `run` gives, in that order.
    """

    def __init__(self, model: onnx.ModelProto, outputs: Sequence[str]) -> None:
        self._model, self._outputs = model, list(outputs)
        self._session: onnxruntime.InferenceSession | None = None

    def run(self, image_bgr_u8: npt.NDArray[np.uint8], **inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The named outputs for one network image (h×w×3), given the graph's further `inputs` where it has such."""
        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = _ERRORS_ONLY
            graph = self._model.SerializeToString()
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        results: list[npt.NDArray[Any]] = self._session.run(self._outputs, {"image": image_bgr_u8[None], **inputs})
        return results


def run_graph(
    model: onnx.ModelProto, outputs: Sequence[str], images_bgr_u8: Iterable[npt.NDArray[np.uint8]]
) -> Iterator[list[npt.NDArray[Any]]]:
    """Run a deploy graph in ONNX Runtime on network images (h×w×3), one by one; yields the named outputs."""
    session = GraphSession(model, outputs)
    for image in images_bgr_u8:
        yield session.run(image)


def run_engine(
    engine: str, model: onnx.ModelProto, images_bgr_u8: Iterable[npt.NDArray[np.uint8]]
) -> Iterator[EngineOutput]:
    """Run a deploy graph in an engine ("auto": the fastest installed) on network images (h×w×3), one by one.

    The maps are copies: they stay valid.
    """
    loaded = engines.create(engine, model.SerializeToString())
    try:
        for image in images_bgr_u8:
            output = loaded.run(image)
            yield EngineOutput(output.score, output.anomaly_map.copy())
    finally:
        loaded.close()
