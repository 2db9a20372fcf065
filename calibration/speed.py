"""How much faster INT8 is than float on the engine at hand, measured side by side."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge import engines

ROUNDS = 15
_WARM_UP = 3  # runs of each graph that do not count


def measure_speedup(
    engine: str, float_graph: onnx.ModelProto, int8_graph: onnx.ModelProto, image_bgr_u8: npt.NDArray[np.uint8]
) -> float:
    """Median time of the float graph over that of the INT8 graph, on one network image (uint8 h×w×3 BGR).

    The two take turns, in alternating order, so that what else the machine does slows both down.
    """
    loaded = [engines.create(engine, graph.SerializeToString()) for graph in (float_graph, int8_graph)]
    try:
        for one in loaded:
            for _ in range(_WARM_UP):
                one.run(image_bgr_u8)
        times: list[list[float]] = [[], []]
        for number in range(ROUNDS):
            for which in (0, 1) if number % 2 else (1, 0):
                start = time.perf_counter()
                loaded[which].run(image_bgr_u8)
                times[which].append(time.perf_counter() - start)
    finally:
        for one in loaded:
            one.close()
    return float(np.median(times[0]) / np.median(times[1]))
