"""Graphs, images and checks that the tests of float16 share."""

# ruff: noqa: F401, F811 (fixtures are imported, and are arguments)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest

from segrd_edge.calibration.check import violations
from segrd_edge.calibration.graph import OPSET, read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import observe, to_ranges
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.export.fp16_plan import Fp16Plan, largest_activations
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess

from ..calibration.conftest import SIZE_HW as SMALL_HW
from ..calibration.conftest import images as small_images
from ..calibration.conftest import model as small

Images = list[npt.NDArray[np.uint8]]


@pytest.fixture(scope="module")
def frames(small_images: Images) -> Images:
    """Structured images, noise, black, white, and a fine checkerboard."""
    rows, columns = np.mgrid[: SMALL_HW[0], : SMALL_HW[1]]
    checkerboard = np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    noise = np.random.default_rng(5).integers(0, 256, (*SMALL_HW, 3), np.uint8)
    return [*small_images[:3], noise, np.zeros_like(noise), np.full_like(noise, 255), checkerboard]


@pytest.fixture(scope="module")
def small_int8(small: onnx.ModelProto, frames: Images) -> onnx.ModelProto:
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
