"""How much faster than float INT8 is on a processor without VNNI: tried, because the flags do not tell.

Both use AVX2 there, and what INT8's three instructions for a product cost against float's one differs from one
processor to the next: on one EPYC whole networks in INT8 took as long as in fp32, on another half to two thirds of it
(docs/int8.md). One convolution is timed in both, once per machine; the result is kept with what OpenVINO compiled, so
that one machine does not change its mind from start to start.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from . import openvino_cache
from .openvino_saturation import convolution
from .signal_stack import signal_stack_kept

_logger = logging.getLogger("segrd_edge")
_CHANNELS, _SIDE = 64, 64  # 151 million multiply-accumulates, in the cache as a network's layers are
_ROUNDS = 25
_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}


@lru_cache(maxsize=1)
def int8_speedup() -> float:
    """Float's time over INT8's for one convolution on this processor, in one thread."""
    key = openvino_cache.key_of("the speed of INT8", _SETTINGS)
    if (kept := openvino_cache.read(key)) is not None:
        return float(kept)
    measured = _measure()
    _logger.info("INT8 is %.2f times as fast as float on this processor, which has no VNNI", measured)
    openvino_cache.keep(key, f"{measured:.3f}".encode())
    return measured


def _measure() -> float:
    with signal_stack_kept():  # until both graphs are gone
        times_s = _times_s()
    least = times_s.min(axis=0)  # what other programs take is on top of it
    return float(least[0] / least[1])


def _times_s() -> npt.NDArray[np.float64]:
    """Of float and of INT8, _ROUNDS×2, in turn."""
    import openvino

    core = openvino.Core()
    image = openvino.Tensor(np.full((1, _CHANNELS, _SIDE, _SIDE), 100, np.float32))
    requests = []
    for int8 in (False, True):
        compiled = core.compile_model(convolution(_CHANNELS, _SIDE, int8=int8), "CPU", _SETTINGS)
        requests.append(compiled.create_infer_request())
        requests[-1].set_input_tensor(image)
    return np.array([[_run_s(request) for request in requests] for _ in range(_ROUNDS)])


def _run_s(request: Any) -> float:
    start = perf_counter()
    request.start_async()  # not `infer`, as in `OpenVinoEngine._run`
    request.wait()
    return perf_counter() - start
