"""The range of every activation that gets an INT8 scale, from calibration frames run through the float graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge.errors import ExportError, OptionError

from .graph import expose
from .histogram import Histogram

Method = Literal["max", "percentile", "entropy"]
DEFAULT_PERCENTILE = 99.99


@dataclass(frozen=True)
class Ranges:
    """Tensor name → largest magnitude that INT8 represents; greater ones are clipped. And how it was found."""

    largest: dict[str, float]
    method: Method
    percentile: float | None = None


def collect(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[npt.NDArray[np.uint8]]
) -> dict[str, Histogram]:
    """Run a deploy graph on network images (uint8 h×w×3 BGR) and histogram the named tensors.

    Images stream through one by one: memory holds one image's activations and the histograms.

    Raises:
        ExportError: an activation is NaN or infinite.
    """
    session = _session(expose(model, tensors))
    histograms = {name: Histogram() for name in tensors}
    for number, image in enumerate(images):
        for name, values in zip(tensors, session.run(list(tensors), {"image": image[None]}), strict=True):
            if not np.isfinite(values).all():
                raise ExportError(
                    f"{name} holds NaN or infinity on calibration frame {number}",
                    expected="finite activations",
                    fix="train again with another seed; this network has diverged",
                )
            histograms[name].add(values)
    return histograms


def to_ranges(
    histograms: dict[str, Histogram], method: Method = "percentile", percentile: float = DEFAULT_PERCENTILE
) -> Ranges:
    """Ranges from histograms.

    Args:
        method: "max" clips nothing; "percentile" clips the rarest magnitudes; "entropy" clips where the Kullback-Leibler
            divergence is least.
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


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
