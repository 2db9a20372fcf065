"""float16 layers: which, with which types, and what they do to the results."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from segrd_edge.calibration.check import violations
from segrd_edge.calibration.drift import measure_drift
from segrd_edge.calibration.graph import OPSET, read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import observe, to_ranges
from segrd_edge.calibration.session import run_engine, run_graph
from segrd_edge.errors import ExportError, OptionError
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.export.fp16 import round_up, to_fp16
from segrd_edge.export.fp16_plan import LARGEST_ACTIVATION, Fp16Plan, largest_activations, tensors_to_observe
from segrd_edge.export.frame_graph import build_frame_graph
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess

from ..calibration.conftest import SIZE_HW as SMALL_HW
from ..calibration.conftest import images as small_images  # noqa: F401  (fixtures)
from ..calibration.conftest import model as small  # noqa: F401

Images = list[npt.NDArray[np.uint8]]
SUM_AND_RELU = {
    "block.add": "shares a kernel with block.conv2",
    "block.add.relu": "shares a kernel with block.add",
}
MAP_TOLERANCE = 5e-3  # what NVIDIA's guide compares a converted file with


@pytest.fixture(scope="module")
def frames(small_images: Images) -> Images:  # noqa: F811
    """Structured images, noise, black, white, and a fine checkerboard."""
    rows, columns = np.mgrid[: SMALL_HW[0], : SMALL_HW[1]]
    checkerboard = np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    noise = np.random.default_rng(5).integers(0, 256, (*SMALL_HW, 3), np.uint8)
    return [*small_images[:3], noise, np.zeros_like(noise), np.full_like(noise, 255), checkerboard]


@pytest.fixture(scope="module")
def small_int8(small: onnx.ModelProto, frames: Images) -> onnx.ModelProto:  # noqa: F811
    return in_int8(small, frames)


@pytest.fixture(scope="module")
def destseg_deploy(destseg_core: onnx.ModelProto) -> onnx.ModelProto:
    # Without the sigmoid, which random logits of ±10 would saturate: rounding must be visible to be compared.
    return build_deploy_graph(destseg_core, Preprocess((64, 96)), MapSpec("none", 0, 10))


@pytest.fixture(scope="module")
def destseg_largest(destseg_deploy: onnx.ModelProto, images: Images) -> dict[str, float]:
    return largest_activations(destseg_deploy, images[:2])


def in_int8(model: onnx.ModelProto, images: Images) -> onnx.ModelProto:
    plan = Plan.of(model)
    observed = observe(model, tensors_to_calibrate(model, plan), images)
    return quantise(model, to_ranges(observed.histograms, "max"), plan)


def plan_of(model: onnx.ModelProto, images: Images) -> Fp16Plan:
    return Fp16Plan.of(model, largest_activations(model, images))


def scale_up(model: onnx.ModelProto, first: str, second: str, factor: float) -> onnx.ModelProto:
    """The same function with activations `factor` times as large between two convolutions with a Relu between."""
    graph = read_graph(model)
    nodes = {node.name: node for node in graph.nodes}
    for tensor in nodes[first].inputs[1:]:
        tensor.values = (tensor.values * factor).astype(np.float32)
    weight = nodes[second].inputs[1]
    weight.values = (weight.values / factor).astype(np.float32)
    return write_graph(graph)


def check_types(model: onnx.ModelProto, plan: Fp16Plan) -> None:
    """Every planned node works in float16, every other one in float32, and every Cast stands at a border."""
    graph = read_graph(model)
    nodes = {node.name: node for node in graph.nodes}
    casts = {f"{tensor}.to_{kind}" for tensor in graph.tensors() for kind in ("fp16", "fp32")} & set(nodes)
    for name, node in nodes.items():
        inputs = node.inputs[:1] if node.op == "Resize" else node.inputs  # its scales are float32 in any case
        floats = {t.dtype for t in (*inputs, *node.outputs) if t.dtype in (np.float16, np.float32)}
        if name in plan.halved:
            assert floats == {np.dtype(np.float16)}, name
        elif name in plan.left_float:
            assert floats <= {np.dtype(np.float32)}, name
        elif name in casts:
            (source,), (result,) = node.inputs, node.outputs
            assert floats == {np.dtype(np.float16), np.dtype(np.float32)}
            # No pair of casts that undo each other, no second cast of the same tensor, none in front of Q or behind DQ.
            assert source.inputs[0].op not in ("Cast", "DequantizeLinear")
            assert {reader.op for reader in result.outputs}.isdisjoint({"Cast", "QuantizeLinear"})
            assert [reader.op for reader in source.outputs].count("Cast") == 1
        else:
            assert node.op in ("QuantizeLinear", "DequantizeLinear")
            assert len(floats) == 1, name  # data and scale alike
    assert violations(model) == []


def ports(model: onnx.ModelProto) -> list[tuple[str, Any]]:
    return [(tensor.name, tensor.type) for tensor in (*model.graph.input, *model.graph.output)]


def test_types_of_a_float_graph(small: onnx.ModelProto, frames: Images) -> None:  # noqa: F811
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


def test_float16_gives_nearly_the_float32_map(small: onnx.ModelProto, frames: Images) -> None:  # noqa: F811
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
    small: onnx.ModelProto,  # noqa: F811
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
    assert "holds 1e-06, too small for float16" in plan.left_float[clip]
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


def test_a_node_with_a_huge_activation_stays_in_float32(small: onnx.ModelProto, frames: Images) -> None:  # noqa: F811
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


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (LARGEST_ACTIVATION * 1.01, "block.conv1.out reaches 517.1, above 512"),
        (float("nan"), "block.conv1.out reaches nan, above 512"),
        (3e-5, "block.conv1.out stays below 3e-05, too small for float16"),
        (LARGEST_ACTIVATION, None),
        (0.0, None),  # dead
    ],
)
def test_the_limits_of_activations(small: onnx.ModelProto, value: float, reason: str | None) -> None:  # noqa: F811
    largest = {**dict.fromkeys(tensors_to_observe(small), 1.0), "block.conv1.out": value}
    plan = Fp16Plan.of(small, largest)
    assert plan.left_float.get("block.conv1") == reason
    assert plan.left_float.get("block.conv1.relu") == reason
    assert "block.conv2" in plan.halved


def test_weights_beyond_float16_stay_in_float32(small: onnx.ModelProto) -> None:  # noqa: F811
    loud = scale_up(small, "block.conv1", "block.conv2", 1e6)
    plan = Fp16Plan.of(loud, dict.fromkeys(tensors_to_observe(loud), 1.0))
    assert plan.left_float["block.conv1"].startswith("block.conv1.weight reaches ")
    assert "block.conv2" in plan.halved  # small weights round to less, which harms nothing
    check_types(to_fp16(loud, plan), plan)


def test_int8_weights_keep_their_values_where_float16_scales_lose_digits(
    small: onnx.ModelProto,  # noqa: F811
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


def two_convolutions(preprocess: Preprocess) -> onnx.ModelProto:
    """A deploy graph whose first convolution and ReLU can be in float16."""
    height, width = preprocess.size_hw
    images = gs.Variable("images", np.float32, (1, 3, height, width))
    inner, active = gs.Variable("inner", np.float32), gs.Variable("active", np.float32)
    raw = gs.Variable("raw", np.float32, (1, 1, height // 4, width // 4))
    rng = np.random.default_rng(8)
    weights = [gs.Constant(f"w{i}", rng.normal(0, 0.2, s).astype(np.float32)) for i, s in enumerate([(8, 3), (1, 8)])]
    for weight in weights:
        weight.values = weight.values[:, :, None, None] * np.ones((2, 2), np.float32)
    nodes = [
        gs.Node("Conv", "first", {"strides": [2, 2]}, [images, weights[0]], [inner]),
        gs.Node("Relu", "relu", {}, [inner], [active]),
        gs.Node("Conv", "last", {"strides": [2, 2]}, [active, weights[1]], [raw]),
    ]
    core = write_graph(gs.Graph(nodes, [images], [raw], opset=OPSET))
    return build_deploy_graph(core, preprocess, MapSpec("sigmoid", 0, 10))


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


def test_what_does_not_fit_is_refused(small: onnx.ModelProto, frames: Images) -> None:  # noqa: F811
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


def test_tensorrt_rtx_runs_every_planned_convolution_in_float16(
    small: onnx.ModelProto,  # noqa: F811
    frames: Images,
) -> None:
    plan = plan_of(small, frames)
    dtypes = rtx_dtypes(to_fp16(small, plan))
    assert {name: dtypes[name] for name in convolutions(small)} == {
        name: "Half" if name in plan.halved else "Float" for name in convolutions(small)
    }


def test_tensorrt_rtx_runs_int8_beside_float16(
    small: onnx.ModelProto,  # noqa: F811
    small_int8: onnx.ModelProto,
    frames: Images,
) -> None:
    dtypes = rtx_dtypes(to_fp16(small_int8, plan_of(small_int8, frames)))
    quantised = set(Plan.of(small).quantised)
    assert {name for name in convolutions(small) if dtypes[name] == "Int8"} == quantised
    assert {name for name in convolutions(small) if dtypes[name] == "Half"} == {"head.pooled", "head.depthwise"}


def test_tensorrt_rtx_builds_destseg(destseg_deploy: onnx.ModelProto, destseg_largest: dict[str, float]) -> None:
    dtypes = rtx_dtypes(to_fp16(destseg_deploy, Fp16Plan.of(destseg_deploy, destseg_largest)))
    floats = {name for name in convolutions(destseg_deploy) if dtypes[name] != "Half"}
    assert floats == {"deploy.normalise", "head.out.1"}


def convolutions(model: onnx.ModelProto) -> set[str]:
    return {node.name for node in model.graph.node if node.op_type == "Conv"}


def rtx_dtypes(model: onnx.ModelProto) -> dict[str, str]:
    """Convolution → TensorRT's name of the type that its kernel reads, in an engine of TensorRT-RTX, strongly typed."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from segrd_edge.tensorrt.build import build

    # Generated kernels ("kgen") do the element-wise rest of a layer: bias, ReLU, the next layer's Q.
    layers = [
        layer for layer in build(model.SerializeToString(), flavour="tensorrt-rtx").layers if layer.kind != "kgen"
    ]
    return {node: layer.input_dtypes[0] for layer in layers for node in layer.onnx_nodes}
