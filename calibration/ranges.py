"""The range of every activation that gets an INT8 scale, from calibration frames run through the float graph."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge.engines import EngineOutput
from segrd_edge.errors import ExportError, OptionError
from segrd_edge.machine import package_version

from .cache import Arrays, ObservationCache
from .graph import expose
from .histogram import Histogram
from .progress import Track, untracked
from .session import GraphSession

FixedMethod = Literal["percentile", "max", "entropy", "mse"]  # one for all tensors
RangesMethod = Literal["percentile", "max", "entropy", "mse", "per-tensor"]  # what ranges can come from
Method = Literal["auto", "percentile", "max", "entropy", "mse", "per-tensor"]  # what can be asked for
DEFAULT_METHOD: FixedMethod = "percentile"  # where none was compared
# On a trained DeSTSeg (bottle, 16 frames, OpenVINO) all-INT8 moved the score by 0.033 at 99.99 and 0.057 at 99.999, the
# head alone by 0.007 and 0.014. The maximum (0.048) and entropy (0.125) were worse on an undertrained one.
DEFAULT_PERCENTILE = 99.99
BLOCK = 8  # frames of one cache entry: so many are lost when an observation is interrupted


@dataclass(frozen=True)
class Ranges:
    """Tensor name → largest magnitude that INT8 represents; greater ones are clipped. And how it was found."""

    largest: dict[str, float]
    method: RangesMethod
    percentile: float | None = None
    chosen: dict[str, FixedMethod] = field(default_factory=dict)  # by tensor, where the method is "per-tensor"
    reach: dict[str, float] = field(default_factory=dict)  # the same as `largest`, clipped nowhere: for two terms
    unclipped: tuple[str, ...] = ()  # tensors that are clipped nowhere, whatever the method
    weights: dict[str, npt.NDArray[np.int8]] = field(default_factory=dict)  # by convolution, where not the nearest


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
    images_bgr_u8: Sequence[npt.NDArray[np.uint8]],
    *,
    by_channel: Sequence[str] = (),
    also: Sequence[str] = (),
    cache: ObservationCache | None = None,
    track: Track = untracked,
) -> Observed:
    """Run a float deploy graph on network images (uint8 h×w×3 BGR) and histogram the named tensors.

    Of those in `by_channel` (N×C×h×w, among `tensors`) the largest magnitude of every channel is kept as well. Of the
    tensors in `also` nothing but the largest magnitude is, which costs a fraction of a histogram.

    Memory holds one image's activations, two sets of histograms, and the maps, which are a third larger than the
    images: what grows with the number of frames is bounded by that of the frames themselves.

    Args:
        cache: where blocks of BLOCK images that were observed before are found, and new ones kept.
        track: wraps the images, for a progress bar.

    Raises:
        ExportError: an activation is NaN or infinite.
    """
    asked = _Asked(tuple(tensors), tuple(by_channel), tuple(dict.fromkeys([*tensors, *also])))
    session = GraphSession(expose(model, asked.everything), ["score", "anomaly_map", *asked.everything])
    keys = None if cache is None else _keys(model, asked, images_bgr_u8)
    total = block = asked.nothing()
    known: Arrays | None = None
    for number, image in enumerate(track(images_bgr_u8, "observing activations")):
        key = {} if keys is None else keys[number // BLOCK]
        if number % BLOCK == 0:
            known = None if cache is None else cache.read(key)
            block = asked.nothing() if known is None else asked.from_arrays(known)
        if known is None:
            asked.add(block, session.run(image), number)
        if (number + 1) % BLOCK == 0 or number + 1 == len(images_bgr_u8):
            if cache is not None and known is None:
                cache.write(key, asked.to_arrays(block))
            _merge(total, block)
    if cache is not None:
        cache.tidy()
    return total


@dataclass(frozen=True)
class _Asked:
    """Which tensors an observation is of, and what is kept of each."""

    tensors: tuple[str, ...]  # get histograms
    by_channel: tuple[str, ...]
    everything: tuple[str, ...]  # get a largest magnitude; `tensors` among them

    def nothing(self) -> Observed:
        """What no frame has shown."""
        return Observed({name: Histogram() for name in self.tensors}, dict.fromkeys(self.everything, 0.0), {}, [])

    def add(self, observed: Observed, results: Sequence[npt.NDArray[Any]], number: int) -> None:
        """Add one frame's score, map and activations."""
        score, anomaly_map, *activations = results
        for name, values in zip(self.everything, activations, strict=True):
            reach = float(np.abs(values).max(initial=0))
            if not np.isfinite(reach):
                raise ExportError(
                    f"{name} holds NaN or infinity on calibration frame {number}",
                    expected="finite activations",
                    fix="train again with another seed; this network has diverged",
                )
            observed.largest[name] = max(observed.largest[name], reach)
            if name in observed.histograms:
                observed.histograms[name].add(values)
            if name in self.by_channel:
                channels = np.abs(values).max(axis=(0, 2, 3))
                observed.channel_largest[name] = np.maximum(observed.channel_largest.get(name, channels), channels)
        observed.outputs.append(EngineOutput(float(score[0]), anomaly_map[0]))

    def to_arrays(self, observed: Observed) -> Arrays:
        histograms = [observed.histograms[name] for name in self.tensors]
        return {
            "counts": np.array([histogram.counts for histogram in histograms], np.int64),
            "zeros": np.array([histogram.zeros for histogram in histograms], np.int64),
            "widths": np.array([histogram.width for histogram in histograms], np.float64),
            "reaches": np.array([histogram.largest for histogram in histograms], np.float64),
            "largest": np.array([observed.largest[name] for name in self.everything], np.float64),
            "scores": np.array([output.score for output in observed.outputs], np.float64),
            "maps": np.stack([output.anomaly_map for output in observed.outputs]),
            **{f"channels_{i}": observed.channel_largest[name] for i, name in enumerate(self.by_channel)},
        }

    def from_arrays(self, arrays: Arrays) -> Observed:
        observed = self.nothing()
        for i, name in enumerate(self.tensors):
            histogram = observed.histograms[name]
            histogram.counts, histogram.zeros = arrays["counts"][i], int(arrays["zeros"][i])
            histogram.width, histogram.largest = float(arrays["widths"][i]), float(arrays["reaches"][i])
        observed.largest.update(zip(self.everything, map(float, arrays["largest"]), strict=True))
        observed.channel_largest.update({name: arrays[f"channels_{i}"] for i, name in enumerate(self.by_channel)})
        scores = map(float, arrays["scores"])
        observed.outputs.extend(EngineOutput(*both) for both in zip(scores, arrays["maps"], strict=True))
        return observed


def _merge(total: Observed, block: Observed) -> None:
    for name, histogram in block.histograms.items():
        total.histograms[name].merge(histogram)
    for name, reach in block.largest.items():
        total.largest[name] = max(total.largest[name], reach)
    for name, channels in block.channel_largest.items():
        total.channel_largest[name] = np.maximum(total.channel_largest.get(name, channels), channels)
    total.outputs.extend(block.outputs)


def _keys(model: onnx.ModelProto, asked: _Asked, images: Sequence[npt.NDArray[np.uint8]]) -> list[dict[str, Any]]:
    """Of every block of images, all that its observation depends on."""
    common = {
        "graph_sha256": hashlib.sha256(model.SerializeToString()).hexdigest(),
        "histograms": asked.tensors,
        "channels": asked.by_channel,
        "largest": asked.everything,
        "onnxruntime": package_version("onnxruntime"),
    }
    sums = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in images]
    return [{**common, "frames_sha256": sums[i : i + BLOCK]} for i in range(0, len(sums), BLOCK)]


def to_ranges(
    histograms: Mapping[str, Histogram], method: FixedMethod = DEFAULT_METHOD, percentile: float = DEFAULT_PERCENTILE
) -> Ranges:
    """Ranges from histograms, all by one method.

    Args:
        method: "max" clips nothing; "percentile" clips the rarest magnitudes; "entropy" clips where the
            Kullback-Leibler divergence is least, "mse" where the mean squared error is.
        percentile: share of values in percent that "percentile" keeps.

    Raises:
        OptionError: an unknown method or impossible percentile.
    """
    check_method(method, percentile, get_args(FixedMethod))
    ends: dict[str, Callable[[Histogram], float]] = {
        "max": lambda histogram: histogram.largest,
        "percentile": lambda histogram: histogram.percentile(percentile),
        "entropy": Histogram.entropy,
        "mse": Histogram.mse,
    }
    largest = {name: ends[method](histogram) for name, histogram in histograms.items()}
    return Ranges(largest, method, percentile if method == "percentile" else None)


def check_method(method: str, percentile: float, known: Sequence[str] = get_args(Method)) -> None:
    """OptionError unless there is such a method, and the percentile can be one."""
    if method not in known:
        raise OptionError(
            f"unknown calibration method {method!r}",
            expected="one of " + ", ".join(known),
            fix="for example --calibration percentile",
        )
    if not 50 < percentile <= 100:
        raise OptionError(f"calibration percentile {percentile}", expected="above 50, at most 100")
