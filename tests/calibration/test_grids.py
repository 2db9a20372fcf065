"""The scales of an INT8 graph, found again under module names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from segrd_edge.calibration.equalise import equalise
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges, observe, to_ranges

pytest.importorskip("torch", reason="the grids are what a fine-tune in torch simulates")


@pytest.fixture(scope="module")
def int8(model: onnx.ModelProto, images: list[np.ndarray]) -> tuple[onnx.ModelProto, Ranges]:
    plan = Plan.of(model)
    observed = observe(model, tensors_to_calibrate(model, plan), images, by_channel=["concat.out"])
    equalised, largest = equalise(model, plan, observed.channel_largest)
    ranges = to_ranges(observed.histograms, "max")
    ranges = replace(ranges, largest={**ranges.largest, **largest})
    return quantise(equalised, ranges, plan), ranges


def test_every_int8_convolution_has_the_scale_of_its_input(
    model: onnx.ModelProto, int8: tuple[onnx.ModelProto, Ranges]
) -> None:
    from segrd_edge.calibration.grids import grids_of

    graph, ranges = int8
    grids = grids_of(graph)
    assert sorted(grids.inputs) == sorted(Plan.of(model).quantised)
    assert grids.inputs["block.conv2"].largest == pytest.approx(ranges.largest["block.conv1.relu.out"])
    assert grids.inputs["block.conv2"].factors is None
    fuse = grids.inputs["head.fuse"]
    assert fuse.largest == pytest.approx(ranges.largest["concat.out.equalised"])
    assert fuse.factors is not None
    assert fuse.factors.shape == (32,)


def test_shortcuts_are_named_after_the_block_of_the_longer_path(int8: tuple[onnx.ModelProto, Ranges]) -> None:
    from segrd_edge.calibration.grids import grids_of

    graph, ranges = int8
    shortcuts = grids_of(graph).shortcuts
    assert sorted(shortcuts) == ["block", "down"]
    assert shortcuts["block"].largest == pytest.approx(ranges.largest["pool.out"])
    assert shortcuts["down"].largest == pytest.approx(ranges.largest["down.skip.out"])


def test_a_float_graph_has_none(model: onnx.ModelProto) -> None:
    from segrd_edge.calibration.grids import grids_of

    grids = grids_of(model)
    assert not grids.inputs
    assert not grids.shortcuts
