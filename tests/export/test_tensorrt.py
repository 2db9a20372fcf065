"""What the project exports, compiled by a real TensorRT compiler: TensorRT-RTX's, which needs no GPU.

Every registered model in every precision, as a bundle for TensorRT holds it; and what a graph can be given besides:
network images, frames, a batch. Ranges are made up, because only types and shapes count here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import pytest

from segrd_edge.calibration.equalise import concatenations, equalise
from segrd_edge.calibration.graph import read_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges
from segrd_edge.calibration.rules.two_terms import low_name
from segrd_edge.export.batch import with_batch
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.export.fp16 import to_fp16
from segrd_edge.export.fp16_plan import Fp16Plan, tensors_to_observe
from segrd_edge.export.frame_graph import build_frame_graph
from segrd_edge.manifest import Precision
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.tensorrt.build import build
from segrd_edge.tensorrt.layers import CONVOLUTION, Layer

from ..every_model import EVERY_MODEL
from .conftest import SIZE_HW

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

FRAME_HW = (120, 200)
CROPPED = Preprocess(SIZE_HW, fit="letterbox", crop_xywh=(20, 10, 150, 110))
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "fp16", "mixed")
# TensorRT-RTX keeps the scales of INT8 kernels in float32 whatever type they have in the graph, and says so each time.
_HARMLESS = " scales to fp32."


class Graphs:
    """The deploy graphs of one model, each made when it is asked for."""

    def __init__(self, core: onnx.ModelProto, spec: MapSpec) -> None:
        self.fp32 = build_deploy_graph(core, CROPPED, spec)
        self.plan = Plan.of(self.fp32)
        self._halves: dict[str, tuple[onnx.ModelProto, Fp16Plan]] = {}

    @cached_property
    def int8(self) -> onnx.ModelProto:
        return self.quantised(self.plan)

    def quantised(self, plan: Plan) -> onnx.ModelProto:
        tensors = read_graph(self.fp32).tensors()
        channels = {name: np.ones(tensors[name].shape[1], np.float32) for name in concatenations(self.fp32, plan)}
        levelled, _ = equalise(self.fp32, plan, channels)
        largest = dict.fromkeys(tensors_to_calibrate(levelled, plan), 1.0)
        return quantise(levelled, Ranges(largest, "max", reach=largest), plan)

    def half(self, precision: Precision) -> tuple[onnx.ModelProto, Fp16Plan]:
        if precision not in self._halves:
            model = self.fp32 if precision == "fp16" else self.int8
            plan = Fp16Plan.of(model, dict.fromkeys(tensors_to_observe(model), 1.0))
            self._halves[precision] = to_fp16(model, plan), plan
        return self._halves[precision]


@pytest.fixture(scope="module", params=EVERY_MODEL)
def graphs(request: pytest.FixtureRequest, exported_core: Callable[[str], tuple[Any, onnx.ModelProto]]) -> Graphs:
    model, core = exported_core(request.param)
    return Graphs(core, model.map_spec)


def check_kernels(graph: onnx.ModelProto, graphs: Graphs, precision: Precision) -> None:
    """Every convolution must be compiled into a kernel of the type that the plans give it."""
    quantised = graphs.plan.quantised if precision in ("int8", "mixed") else ()
    halved = graphs.half(precision)[1].halved if precision in ("fp16", "mixed") else ()
    wanted = {
        node.name: "Int8" if node.name in quantised else "Half" if node.name in halved else "Float"
        for node in graph.graph.node
        if node.op_type == "Conv"
    }
    built = build(graph.SerializeToString(), flavour="tensorrt-rtx")
    dtypes = kernel_dtypes(built.layers)
    assert {node: dtypes.get(node) for node in wanted} == wanted
    assert built.layers[0].input_dtypes == ("UInt8",)
    assert [line for line in built.warnings if not line.endswith(_HARMLESS)] == []
    own = [node for node in wanted if not node.startswith("deploy.")]
    # Three small convolutions per level of NFERD's attention are not worth INT8, elsewhere a few at the ends.
    assert sum(wanted[node] != "Float" for node in own) >= (0 if precision == "fp32" else 0.8 * len(own))


def kernel_dtypes(layers: tuple[Layer, ...]) -> dict[str, str]:
    """ONNX node → type that its kernel reads. A convolution may be a matrix product, or part of a fused kernel."""
    # Generated kernels ("kgen") do the element-wise rest of a layer: bias, ReLU, the next layer's Q.
    kernels = sorted((layer for layer in layers if layer.kind != "kgen"), key=lambda layer: layer.kind == CONVOLUTION)
    return {node: layer.input_dtypes[0] for layer in kernels for node in layer.onnx_nodes}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_model_in_every_precision(graphs: Graphs, precision: Precision) -> None:
    """fp16 and mixed take two cropped frames at once; fp32 and int8 a network image."""
    if precision in ("fp32", "int8"):
        check_kernels(graphs.fp32 if precision == "fp32" else graphs.int8, graphs, precision)
    else:
        two_frames = build_frame_graph(with_batch(graphs.half(precision)[0], 2), CROPPED, FRAME_HW)
        check_kernels(two_frames, graphs, precision)


@pytest.mark.parametrize("graphs", ["destseg", "adps"], indirect=True)
def test_two_terms_beside_float_skips(graphs: Graphs) -> None:
    """Every convolution that may be in INT8 in two terms: both are INT8 kernels, or one that does both."""
    names = graphs.plan.quantised
    graph = graphs.quantised(graphs.plan.with_float_skips().in_two_terms(dict.fromkeys(names, "to see")))
    built = build(graph.SerializeToString(), flavour="tensorrt-rtx")
    dtypes = kernel_dtypes(built.layers)
    terms = [term for name in names for term in (name, low_name(name))]
    assert {name: dtypes.get(name) for name in terms} == dict.fromkeys(terms, "Int8")
    assert [line for line in built.warnings if not line.endswith(_HARMLESS)] == []


@pytest.mark.parametrize("graphs", ["destseg"], indirect=True)
@pytest.mark.parametrize("precision", ["fp16", "mixed"])
@pytest.mark.parametrize("given", ["network image", "batch", "frame"])
def test_whatever_a_graph_is_given(graphs: Graphs, given: str, precision: Precision) -> None:
    graph, _ = graphs.half(precision)
    if given == "batch":
        graph = with_batch(graph, 3)
    elif given == "frame":
        graph = build_frame_graph(graph, Preprocess(SIZE_HW), FRAME_HW)
    check_kernels(graph, graphs, precision)
