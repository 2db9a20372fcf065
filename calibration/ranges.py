"""The range of every activation that gets an INT8 scale, from calibration frames run through the float graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge.engines import EngineOutput
from segrd_edge.errors import ExportError, OptionError

from .graph import expose
from .histogram import Histogram
from .session import run_graph

Method = Literal["max", "percentile", "entropy"]
# On a trained DeSTSeg (bottle, 16 frames, OpenVINO) all-INT8 moved the score by 0.033 at 99.99 and 0.057 at 99.999, the
# head alone by 0.007 and 0.014. The maximum (0.048) and entropy (0.125) were worse on an undertrained one.
DEFAULT_PERCENTILE = 99.99


@dataclass(frozen=True)
class Ranges:
    """Tensor name → largest magnitude that INT8 represents; greater ones are clipped. And how it was found."""

    largest: dict[str, float]
    method: Method
    percentile: float | None = None


@dataclass(frozen=True)
class Observed:
    """What one pass over the calibration frames shows of the float graph."""

    histograms: dict[str, Histogram]  # by tensor
    largest: dict[str, float]  # largest magnitude of every tensor, also of those without a histogram
    channel_largest: dict[str, npt.NDArray[np.float32]]  # largest magnitude per channel of the tensors asked for
    outputs: list[EngineOutput]  # score and map of every frame: what an INT8 graph has to reproduce


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    images_bgr_u8: Iterable[npt.NDArray[np.uint8]],
    *,
    by_channel: Sequence[str] = (),
    also: Sequence[str] = (),
) -> Observed:
    """Run a float deploy graph on network images (uint8 h×w×3 BGR) and histogram the named tensors.

    Of those in `by_channel` (N×C×h×w, among `tensors`) the largest magnitude of every channel is kept as well. Of the
    tensors in `also` nothing but the largest magnitude is, which costs a fraction of a histogram.

    Images stream through one by one: memory holds one image's activations, the histograms, and the maps.

    Raises:
        ExportError: an activation is NaN or infinite.
    """
    histograms = {name: Histogram() for name in tensors}
    largest = dict.fromkeys([*tensors, *also], 0.0)
    channel_largest: dict[str, npt.NDArray[np.float32]] = {}
    outputs = []
    runs = run_graph(expose(model, list(largest)), ["score", "anomaly_map", *largest], images_bgr_u8)
    for number, (score, anomaly_map, *activations) in enumerate(runs):
        for name, values in zip(list(largest), activations, strict=True):
            reach = float(np.abs(values).max(initial=0))
            if not np.isfinite(reach):
                raise ExportError(
                    f"{name} holds NaN or infinity on calibration frame {number}",
                    expected="finite activations",
                    fix="train again with another seed; this network has diverged",
                )
            largest[name] = max(largest[name], reach)
            if name in histograms:
                histograms[name].add(values)
            if name in by_channel:
                channels = np.abs(values).max(axis=(0, 2, 3))
                channel_largest[name] = np.maximum(channel_largest.get(name, channels), channels)
        outputs.append(EngineOutput(float(score[0]), anomaly_map[0]))
    return Observed(histograms, largest, channel_largest, outputs)


def to_ranges(
    histograms: dict[str, Histogram], method: Method = "percentile", percentile: float = DEFAULT_PERCENTILE
) -> Ranges:
    """Ranges from histograms.

    Args:
        method: "max" clips nothing; "percentile" clips the rarest magnitudes; "entropy" clips where the
            Kullback-Leibler divergence is least.
        percentile: share of values in percent that "percentile" keeps.

    Raises:
        OptionError: an unknown method or impossible percentile.
    """
    if method not in get_args(Method):
        raise OptionError(f"unknown calibration method {method!r}", expected="one of " + ", ".join(get_args(Method)))
    if not 50 < percentile <= 100:
        raise OptionError(f"calibration percentile {percentile}", expected="above 50, at most 100")

    def largest(histogram: Histogram) -> float:
        if method == "percentile":
            return histogram.percentile(percentile)
        return histogram.entropy() if method == "entropy" else histogram.largest

    return Ranges(
        {name: largest(histogram) for name, histogram in histograms.items()},
        method,
        percentile if method == "percentile" else None,
    )
