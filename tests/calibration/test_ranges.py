from __future__ import annotations

import numpy as np
import onnx
import pytest

from segrd_edge.calibration.graph import expose
from segrd_edge.calibration.ranges import observe, to_ranges
from segrd_edge.calibration.session import run_graph
from segrd_edge.errors import ExportError, OptionError


def test_observed_ranges_and_outputs_are_those_of_the_float_graph(
    model: onnx.ModelProto, images: list[np.ndarray]
) -> None:
    tensors = ["stem.relu.out", "head.fuse.relu.out"]
    observed = observe(model, tensors, images)
    wanted = list(run_graph(expose(model, tensors), [*tensors, "score", "anomaly_map"], images))
    for i, name in enumerate(tensors):
        assert observed.histograms[name].largest == max(float(np.abs(values[i]).max()) for values in wanted)
        assert observed.histograms[name].counts.sum() == sum(values[i].size for values in wanted)
    assert [output.score for output in observed.outputs] == [float(values[2][0]) for values in wanted]
    assert np.array_equal(observed.outputs[-1].anomaly_map, wanted[-1][3][0])


def test_the_largest_magnitude_is_kept_of_every_tensor_asked_for(
    model: onnx.ModelProto, images: list[np.ndarray]
) -> None:
    observed = observe(model, ["stem.relu.out"], images, also=["stem.out", "stem.relu.out"])
    wanted = list(run_graph(expose(model, ["stem.out"]), ["stem.out"], images))
    assert list(observed.histograms) == ["stem.relu.out"]
    assert observed.largest == {
        "stem.out": max(float(np.abs(values[0]).max()) for values in wanted),
        "stem.relu.out": observed.histograms["stem.relu.out"].largest,
    }


def test_methods_order(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    histograms = observe(model, ["stem.relu.out"], images).histograms
    full, most, less, entropy, mse = (
        to_ranges(histograms, method, percentile).largest["stem.relu.out"]  # type: ignore[arg-type]
        for method, percentile in (
            *(("max", 100), ("percentile", 99.99), ("percentile", 99)),
            *(("entropy", 99), ("mse", 99)),
        )
    )
    assert full >= most > less > 0
    histogram = histograms["stem.relu.out"]
    assert (entropy, mse) == (histogram.entropy(), histogram.mse())
    assert to_ranges(histograms, "max").percentile is None


def test_nan_is_refused(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    weight = next(tensor for tensor in broken.graph.initializer if tensor.name == "stem.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=r"stem\.out holds NaN or infinity on calibration frame 0"):
        observe(broken, ["stem.out"], images)


@pytest.mark.parametrize(
    ("method", "percentile"), [("kl", 99.9), ("auto", 99.9), ("percentile", 0.9999), ("percentile", 101)]
)
def test_impossible_options(method: str, percentile: float) -> None:
    with pytest.raises(OptionError, match=r"calibration (method|percentile)"):
        to_ranges({}, method, percentile)  # type: ignore[arg-type]
