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


def run_graph(
    model: onnx.ModelProto, outputs: Sequence[str], images_bgr_u8: Iterable[npt.NDArray[np.uint8]]
) -> Iterator[list[npt.NDArray[Any]]]:
    """Run a deploy graph in ONNX Runtime on network images (h×w×3), one by one; yields the named outputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for image in images_bgr_u8:
        yield session.run(list(outputs), {"image": image[None]})


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
