"""Runs in the Python that has the tool, which may not be ours: nothing of segrd_edge is imported.

    python -I worker.py modelopt FOLDER

FOLDER holds graph.onnx and images.npy (uint8 N×h×w×3 BGR); quantised.onnx and result.json are added. Isolated mode
(-I), because this folder has modules that are named like the tools.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

Quantise = Callable[[Path, Any, Path], None]  # float graph, images, where the INT8 graph goes
INPUT = "image"  # of a deploy graph


def modelopt() -> Quantise:
    from modelopt.onnx.quantization import quantize

    def run(graph: Path, images: Any, out: Path) -> None:
        # Its defaults would also turn what stays float into fp16, and look for a GPU.
        options = {"calibration_eps": ["cpu"], "high_precision_dtype": "fp32"}
        quantize(str(graph), quantize_mode="int8", calibration_data={INPUT: images}, output_path=str(out), **options)

    return run


def nncf() -> Quantise:
    import nncf as library
    import onnx

    def run(graph: Path, images: Any, out: Path) -> None:
        dataset = library.Dataset(images, lambda image: {INPUT: image[None]})
        onnx.save(library.quantize(onnx.load(graph), dataset), out)

    return run


def onnxruntime() -> Quantise:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, images: Any) -> None:
            self._feeds: Iterator[dict[str, Any]] = iter([{INPUT: image[None]} for image in images])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    def run(graph: Path, images: Any, out: Path) -> None:
        prepared = graph.with_name("prepared.onnx")
        quant_pre_process(graph, prepared)  # which its documentation recommends
        quantize_static(prepared, out, Reader(images))

    return run


# Tool → its quantiser, and the distributions whose versions matter.
TOOLS: dict[str, tuple[Callable[[], Quantise], tuple[str, ...]]] = {
    "modelopt": (modelopt, ("nvidia-modelopt", "onnx", "onnxruntime")),
    "nncf": (nncf, ("nncf", "onnx", "onnxruntime")),
    "onnxruntime": (onnxruntime, ("onnxruntime", "onnx")),
}


def main(tool: str, folder: Path) -> None:
    import numpy as np

    load, packages = TOOLS[tool]
    quantise, images = load(), np.load(folder / "images.npy")
    wall, processor = time.perf_counter(), time.process_time()
    quantise(folder / "graph.onnx", images, folder / "quantised.onnx")
    result = {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "versions": {name: version(name) for name in packages},
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
