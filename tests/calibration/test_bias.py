"""Bias correction takes out exactly what INT8 shifts a convolution's output by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from segrd_edge.calibration.bias import correct_biases, output_shifts
from segrd_edge.calibration.graph import expose, read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges, observe, to_ranges
from segrd_edge.calibration.rules.conv_weight import quantise_weight
from segrd_edge.calibration.session import run_graph

CLIPPING = 99.0  # percentile: enough to shift means


@pytest.fixture(scope="module")
def coarse(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with one large weight per output channel of two convolutions, so that INT8 rounds the others away; and
    one of them has no bias."""
    graph = read_graph(model)
    for node in graph.nodes:
        if node.name in ("block.conv2", "down.skip"):
            weight = np.abs(node.inputs[1].values)
            weight[:, 0] = 150 * weight.mean()
            node.inputs[1].values = weight.astype(np.float32)
        if node.name == "block.conv2":
            node.inputs = node.inputs[:2]
    return write_graph(graph)


@pytest.fixture(scope="module")
def ranges(coarse: onnx.ModelProto, images: list[np.ndarray]) -> Ranges:
    plan = Plan.of(coarse)
    observed = observe(coarse, tensors_to_calibrate(coarse, plan, plan.only("down.skip")), images)
    return to_ranges(observed.histograms, "percentile", CLIPPING)


def means(model: onnx.ModelProto, tensor: str, images: list[np.ndarray]) -> npt.NDArray[np.float64]:
    """Per channel, over all images."""
    values = [run[0] for run in run_graph(expose(model, [tensor]), [tensor], images)]
    return np.asarray(np.concatenate(values).mean(axis=(0, 2, 3), dtype=np.float64))


@pytest.mark.parametrize("name", ["block.conv2", "down.skip"])
def test_the_mean_of_each_output_channel_is_that_of_float(
    coarse: onnx.ModelProto, ranges: Ranges, images: list[np.ndarray], name: str
) -> None:
    plan = Plan.of(coarse).only(name)
    shifts = output_shifts(coarse, ranges, plan, images)
    assert list(shifts) == [name]
    wanted = means(coarse, f"{name}.out", images)
    plain, corrected = (
        means(quantise(graph, ranges, plan), f"{name}.out", images)
        for graph in (coarse, correct_biases(coarse, shifts))
    )
    assert np.abs(plain - wanted).max() > 0.01 * np.abs(wanted).max()
    np.testing.assert_allclose(corrected, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_shift_is_that_of_the_formula(coarse: onnx.ModelProto, ranges: Ranges, images: list[np.ndarray]) -> None:
    """By hand, for a convolution of one pixel and stride 2."""
    conv = next(node for node in read_graph(coarse).nodes if node.name == "down.skip")
    weight, name = conv.inputs[1].values, conv.inputs[0].name
    x = np.concatenate([run[0] for run in run_graph(expose(coarse, [name]), [name], images)])[:, :, ::2, ::2]
    scale = ranges.largest[name] / 127
    rounded = np.clip(np.rint(x / scale), -128, 127) * scale
    levels, scales = quantise_weight(weight)
    lost = weight[:, :, 0, 0] @ x.mean(axis=(0, 2, 3))
    lost -= (levels[:, :, 0, 0] * scales[:, None]) @ rounded.mean(axis=(0, 2, 3))
    shifts = output_shifts(coarse, ranges, Plan.of(coarse).only("down.skip"), images)
    np.testing.assert_allclose(shifts["down.skip"], lost, rtol=1e-3, atol=1e-4)


def test_everything_at_once_and_still_by_the_rules(
    coarse: onnx.ModelProto, ranges: Ranges, images: list[np.ndarray]
) -> None:
    plan = Plan.of(coarse)
    shifts = output_shifts(coarse, ranges, plan, images)
    corrected = correct_biases(coarse, shifts)
    assert sorted(shifts) == sorted(plan.quantised)
    assert Plan.of(corrected).quantised == plan.quantised
    wanted = means(coarse, "raw", images)
    before, after = (means(quantise(graph, ranges, plan), "raw", images) for graph in (coarse, corrected))
    assert np.abs(after - wanted) < np.abs(before - wanted) / 2
