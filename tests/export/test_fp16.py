"""float16 layers: their types, and what they do to the results."""

# ruff: noqa: F401, F811 (fixtures are imported, and are arguments)

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from segrd_edge.calibration.drift import measure_drift
from segrd_edge.calibration.graph import read_graph, write_graph
from segrd_edge.calibration.session import run_engine, run_graph
from segrd_edge.errors import ExportError, OptionError
from segrd_edge.export.fp16 import round_up, to_fp16
from segrd_edge.export.fp16_plan import Fp16Plan, largest_activations
from segrd_edge.export.frame_graph import build_frame_graph
from segrd_edge.preprocess import Preprocess

from .fp16_graphs import (
    Images,
    check_types,
    destseg_deploy,
    destseg_largest,
    frames,
    in_int8,
    plan_of,
    scale_up,
    small,
    small_images,
    small_int8,
    two_convolutions,
)

SUM_AND_RELU = {
    "block.add": "shares a kernel with block.conv2",
    "block.add.relu": "shares a kernel with block.add",
}
MAP_TOLERANCE = 5e-3  # what NVIDIA's guide compares a converted file with


def ports(model: onnx.ModelProto) -> list[tuple[str, Any]]:
    return [(tensor.name, tensor.type) for tensor in (*model.graph.input, *model.graph.output)]


def test_types_of_a_float_graph(small: onnx.ModelProto, frames: Images) -> None:
    plan = plan_of(small, frames)
    half = to_fp16(small, plan)
    check_types(half, plan)
    assert ports(half) == ports(small)
    assert {node.name for node in half.graph.node if node.op_type == "Cast"} == {
        "cast",  # the graph's own, of the pixels
        "deploy.normalise.out.to_fp16",
        "head.fuse.relu.out.to_fp32",
        "mean.out.to_fp16",
        "head.depthwise.out.to_fp32",
    }
    assert set(plan.halved) | set(plan.left_float) == {node.name for node in small.graph.node}
    reasons = dict(plan.left_float)
    assert reasons.pop("planes") == "no convolution among the float16 nodes around it"
    assert reasons.pop("deploy.normalise") == "pre- or postprocessing"
    assert reasons.pop("mean") == "ReduceMean needs float32's range or digits"
    assert reasons.pop("cast") == "Cast needs float32's range or digits"
    assert set(reasons) == {"head.out", "sigmoid", "to_size", "map", "flat", "topk", "score"}
    assert len(half.SerializeToString()) < 0.55 * len(small.SerializeToString())


def test_types_of_an_int8_graph(small_int8: onnx.ModelProto, frames: Images) -> None:
    plan = plan_of(small_int8, frames)
    half = to_fp16(small_int8, plan)
    check_types(half, plan)
    assert ports(half) == ports(small_int8)
    assert sum(node.op_type == "Cast" for node in half.graph.node) == 4  # the image needs none: it is quantised
    # The image is quantised in float32 and dequantised in float16, to the same scale.
    scales = {c.name: c.values for c in read_graph(half).tensors().values() if isinstance(c, gs.Constant)}
    wide, narrow = scales["deploy.normalise.out.scale"], scales["deploy.normalise.out.scale.fp16"]
    assert (wide.dtype, narrow.dtype) == (np.float32, np.float16)
    assert wide == narrow


def test_float16_gives_nearly_the_float32_map(small: onnx.ModelProto, frames: Images) -> None:
    half = to_fp16(small, plan_of(small, frames))
    # ONNX's own evaluator really computes in float16, sums included; ONNX Runtime's CPU kernels may compute wider.
    evaluator = ReferenceEvaluator(half)
    names = ["score", "anomaly_map"]
    runs = zip(run_graph(small, names, frames), run_graph(half, names, frames), strict=True)
    for number, (frame, (wanted, ort)) in enumerate(zip(frames, runs, strict=True)):
        slow = [evaluator.run(names, {"image": frame[None]})] if number >= 3 else []
        for got in (ort, *slow):
            assert [value.dtype for value in got] == [np.float32, np.float32]
            # Measured: 0.0013 in ONNX Runtime, 0.0023 in the evaluator; score 0.0002.
            assert 0 < np.abs(got[1] - wanted[1]).max() < MAP_TOLERANCE
            assert np.abs(got[0] - wanted[0]).max() < 1e-3


def test_float16_adds_little_to_what_int8_does(
    small: onnx.ModelProto,
    small_int8: onnx.ModelProto,
    frames: Images,
) -> None:
    half = to_fp16(small_int8, plan_of(small_int8, frames))
    reference, int8, both = (list(run_engine("onnxruntime", model, frames)) for model in (small, small_int8, half))
    alone, together = measure_drift(reference, int8), measure_drift(reference, both)
    # Measured: smallest cosine from float32 0.99953 alone, 0.99952 together; largest difference 0.068 and 0.067.
    assert together.map_cosine_min > alone.map_cosine_min - 0.002
    assert together.map_max < 1.5 * alone.map_max
    assert measure_drift(int8, both).map_max > 0


def test_destseg(destseg_deploy: onnx.ModelProto, destseg_largest: dict[str, float], images: Images) -> None:
    plan = Fp16Plan.of(destseg_deploy, destseg_largest)
    half = to_fp16(destseg_deploy, plan)
    check_types(half, plan)
    ops = {node.name: node.op_type for node in destseg_deploy.graph.node}
    assert {name for name, op in ops.items() if op == "Conv"} - set(plan.halved) == {"deploy.normalise", "head.out.1"}
    exact = {"Pow", "ReduceSum", "Sqrt", "Clip", "Div", "Neg", "Mul", "ReduceMean", "TopK"}  # norms, products, tail
    assert {ops[name] for name in plan.left_float} >= exact
    assert exact.isdisjoint(ops[name] for name in plan.halved)
    clip = next(name for name, op in ops.items() if op == "Clip")
    assert "holds 1e-12, too small for float16" in plan.left_float[clip]
    # The image, three features of each network, three products, the pooled branch both ways, and the logits' input
    assert sum(node.op_type == "Cast" for node in half.graph.node) == 14
    shown = [images[2], np.random.default_rng(1).integers(0, 256, images[2].shape, np.uint8)]
    reference, got = (list(run_engine("onnxruntime", model, shown)) for model in (destseg_deploy, half))
    drift = measure_drift(reference, got)
    largest = max(np.abs(output.anomaly_map).max() for output in reference)
    # Random logits spread over ±10, and random weights amplify rounding. Measured: cosine 0.99997, map 0.0047 and
    # score 0.0021 of the largest logit.
    assert drift.map_cosine_min > 0.9995
    assert 0 < drift.map_max < 0.02 * largest
    assert drift.score_max < 0.01 * largest


def test_a_node_with_a_huge_activation_stays_in_float32(small: onnx.ModelProto, frames: Images) -> None:
    loud = scale_up(small, "block.conv1", "block.conv2", 1e5)  # above float16's range as well
    for model in (loud, in_int8(loud, frames)):
        plan = plan_of(model, frames)
        left = {name: reason for name, reason in plan.left_float.items() if "above 512" in reason}
        assert set(left) == {"block.conv1", "block.conv1.relu", "block.conv2"}
        fused = {name: reason for name, reason in plan.left_float.items() if "shares a kernel" in reason}
        assert fused == ({} if model is loud else SUM_AND_RELU)
        assert left["block.conv1"].startswith("block.conv1.out reaches ")
        assert float(left["block.conv1"].split()[2].rstrip(",")) > 65504
        assert {"stem", "down.conv1"} <= set(plan.halved)
        half = to_fp16(model, plan)
        check_types(half, plan)
        drift = measure_drift(*(list(run_engine("onnxruntime", m, frames)) for m in (model, half)))
        # INT8 may round neighbours apart, see above
        assert drift.map_max < (MAP_TOLERANCE if model is loud else 0.2)


def test_int8_weights_keep_their_values_where_float16_scales_lose_digits(
    small: onnx.ModelProto,
    frames: Images,
) -> None:
    graph = read_graph(small)
    weight = next(node for node in graph.nodes if node.name == "block.conv2").inputs[1]
    weight.values = (weight.values * np.logspace(0, -8, 16).reshape(-1, 1, 1, 1)).astype(np.float32)
    int8 = in_int8(write_graph(graph), frames)
    plan = plan_of(int8, frames)
    half = to_fp16(int8, plan)
    check_types(half, plan)

    def weights(model: onnx.ModelProto) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        constants = read_graph(model).tensors()
        levels, scale = (constants[f"block.conv2.weight{suffix}"].values for suffix in ("", ".scale"))
        assert levels.dtype == np.int8
        assert (scale > 0).all()
        assert np.abs(levels).max() == 127
        scale = scale.astype(np.float64).reshape(-1, 1, 1, 1)
        return levels * scale, scale

    (wanted, _), (got, scale) = weights(int8), weights(half)
    assert scale.min() == 2.0**-24  # float16's smallest number
    # A thousandth of the value, and half a step where float16 cannot hold the scale
    assert (np.abs(got - wanted) <= 1e-3 * np.abs(wanted) + np.where(scale < 2.0**-14, scale / 2, 0)).all()


def test_scales_are_never_rounded_down() -> None:
    scale = np.exp(np.random.default_rng(0).uniform(np.log(1e-9), np.log(500), 10_000)).astype(np.float32)
    half = round_up(scale)
    assert half.dtype == np.float16
    assert (half >= scale).all()
    assert (np.nextafter(half, np.float16(0)) < scale).all()
    np.testing.assert_array_equal(round_up(np.float32([1, 0.5])), [1, 0.5])


def test_a_pair_with_readers_of_both_kinds_is_dequantised_twice(small_int8: onnx.ModelProto, frames: Images) -> None:
    plan = plan_of(small_int8, frames)
    halved = tuple(name for name in plan.halved if name != "down.skip")  # down.conv1 reads the same pair
    split = Fp16Plan(halved, {**plan.left_float, "down.skip": "to see"})
    half = to_fp16(small_int8, split)
    check_types(half, split)
    pairs = [node.name for node in half.graph.node if node.name.startswith("block.add.relu.out.")]
    assert sorted(pairs) == [f"block.add.relu.out.{end}" for end in ("dequantise", "dequantise.fp16", "quantise")]
    drift = measure_drift(*(list(run_engine("onnxruntime", model, frames)) for model in (small_int8, half)))
    assert drift.map_cosine_min > 0.99


def test_frame_graph_and_float16_commute(images: Images) -> None:
    preprocess, frame_hw = Preprocess((64, 96), fit="letterbox"), (150, 200)
    deploy = two_convolutions(preprocess)
    largest = largest_activations(deploy, images)
    first = build_frame_graph(to_fp16(deploy, Fp16Plan.of(deploy, largest)), preprocess, frame_hw)
    framed = build_frame_graph(deploy, preprocess, frame_hw)
    plan = Fp16Plan.of(framed, largest)
    last = to_fp16(framed, plan)
    check_types(last, plan)
    assert plan.halved == ("first", "relu")
    assert {"frame.rows", "frame.columns", "frame.round", "frame.border"} <= set(plan.left_float)
    assert {node.name for node in first.graph.node} == {node.name for node in last.graph.node}
    frame = np.kron(images[0], np.ones((3, 3, 1), np.uint8))[None, :150, :200]
    outputs = [
        onnxruntime.InferenceSession(model.SerializeToString()).run(["score", "anomaly_map"], {"frame": frame})
        for model in (first, last)
    ]
    for a, b in zip(*outputs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_does_not_fit_is_refused(small: onnx.ModelProto, frames: Images) -> None:
    largest = largest_activations(small, frames)
    plan = Fp16Plan.of(small, largest)
    half = to_fp16(small, plan)
    with pytest.raises(ExportError, match=r"opset 19 and has \d+ float16 tensors"):
        to_fp16(half, plan)
    with pytest.raises(OptionError, match=r"no range for stem\.out"):
        Fp16Plan.of(small, {name: value for name, value in largest.items() if name != "stem.out"})
    with pytest.raises(OptionError, match="nodes that the graph does not have: nowhere"):
        to_fp16(small, Fp16Plan((*plan.halved, "nowhere"), {}))
    with pytest.raises(OptionError, match=r"puts sigmoid in float16(.|\n)*follows raw"):
        to_fp16(small, Fp16Plan((*plan.halved, "sigmoid"), {}))
    old = onnx.ModelProto()
    old.CopyFrom(small)
    old.opset_import[0].version = 17
    with pytest.raises(ExportError, match="opset 17"):
        to_fp16(old, plan)
    graph = read_graph(small)
    graph.tensors()["raw"].name = "logits"
    with pytest.raises(ExportError, match="no tensor `raw`"):
        Fp16Plan.of(write_graph(graph), largest)
