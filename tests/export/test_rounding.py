"""The float32 graph that rounds as float16 does, against ONNX's own evaluator, which computes in float16."""

# ruff: noqa: F401, F811 (fixtures are imported, and are arguments)

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from segrd_edge.calibration.graph import read_graph
from segrd_edge.calibration.session import run_graph
from segrd_edge.export.fp16 import to_fp16
from segrd_edge.export.rounding import rounding

from .fp16_graphs import Images, frames, plan_of, scale_up, small, small_images, small_int8

NAMES = ["score", "anomaly_map"]


def test_it_moves_the_map_about_as_far_as_float16_does(small: onnx.ModelProto, frames: Images) -> None:
    half = to_fp16(small, plan_of(small, frames))
    evaluator = ReferenceEvaluator(half)  # sums in float16 too
    true = [evaluator.run(NAMES, {"image": frame[None]})[1] for frame in frames[:3]]
    rounded, wide = ([run[1] for run in run_graph(g, NAMES, frames[:3])] for g in (rounding(half), small))
    moved, moved_truly = (
        np.mean([np.abs(a - b).mean() for a, b in zip(maps, wide, strict=True)]) for maps in (rounded, true)
    )
    assert 0.5 < moved / moved_truly < 2


@pytest.mark.parametrize("precision", ["fp16", "mixed"])
def test_every_float16_tensor_is_rounded_and_nothing_else_changes(
    precision: str, small: onnx.ModelProto, small_int8: onnx.ModelProto, frames: Images
) -> None:
    model = small if precision == "fp16" else small_int8
    half = to_fp16(model, plan_of(model, frames))
    graph = read_graph(rounding(half))
    stored = [tensor for tensor in graph.tensors().values() if tensor.dtype == np.float16]
    assert stored
    for tensor in stored:
        assert [node.op for node in (*tensor.inputs, *tensor.outputs)] == ["Cast", "Cast"]
    added = {f"{t.name.removesuffix('.stored')}.{kind}" for t in stored for kind in ("store", "load")}
    assert [n.name for n in graph.nodes if n.name not in added] == [n.name for n in read_graph(half).nodes]
    for name in ("block.conv2", "head.add"):  # one that only rounds its sums, one behind them
        node = next(node for node in graph.nodes if node.name == name)
        assert node.outputs[0].outputs[0].name == f"{name}.out.store"


def test_overflow_shows(small: onnx.ModelProto, frames: Images) -> None:
    loud = scale_up(small, "block.conv1", "block.conv2", 3e4)
    half = to_fp16(loud, plan_of(small, frames))  # a plan that does not know of it
    ((_, anomaly_map),) = run_graph(rounding(half), NAMES, frames[:1])
    ((_, hidden),) = run_graph(half, NAMES, frames[:1])
    assert not np.isfinite(anomaly_map).all()
    assert np.isfinite(hidden).all()  # why the graph itself is not what is judged


def test_a_float32_graph_stays_as_it_is(small: onnx.ModelProto) -> None:
    assert rounding(small).graph.node == small.graph.node
