"""What the project exports, compiled by a real TensorRT compiler: TensorRT-RTX's, which needs no GPU.

Every registered model in every precision, as a bundle for TensorRT holds it; and what a graph can be given besides:
network images, frames, a batch. Ranges are made up, because only types and shapes count here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx
import pytest
import torch

from segrd_edge.calibration.equalise import concatenations, equalise
from segrd_edge.calibration.graph import read_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges
from segrd_edge.export.batch import with_batch
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.export.fp16 import to_fp16
from segrd_edge.export.fp16_plan import Fp16Plan, tensors_to_observe
from segrd_edge.export.frame_graph import build_frame_graph
from segrd_edge.export.onnx import export_core
from segrd_edge.manifest import Precision
from segrd_edge.preprocess import Preprocess
from segrd_edge.tensorrt.build import build
from segrd_edge.tensorrt.layers import CONVOLUTION, Layer
from segrd_edge.training.models import MODELS, build_model

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

SIZE_HW, FRAME_HW = (64, 96), (120, 200)
CROPPED = Preprocess(SIZE_HW, fit="letterbox", crop_xywh=(20, 10, 150, 110))
OPTIONS = {"destseg": {"head_width": 32, "head_fusion_kernel": 1}}
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "fp16", "mixed")
# TensorRT-RTX keeps the scales of INT8 kernels in float32 whatever type they have in the graph, and says so each time.
_HARMLESS = " scales to fp32."


# Each model is a few hundred megabytes of graphs, and its tests follow one another: only the latest is kept.
@lru_cache(maxsize=1)
def float_graph(name: str) -> onnx.ModelProto:
    torch.manual_seed(0)
    model = build_model(name, size_hw=SIZE_HW, **OPTIONS.get(name, {})).eval()
    return build_deploy_graph(export_core(model, SIZE_HW), CROPPED, model.map_spec)


@lru_cache(maxsize=1)
def int8_graph(name: str) -> tuple[onnx.ModelProto, Plan]:
    model = float_graph(name)
    plan = Plan.of(model)
    channels = {t: np.ones(read_graph(model).tensors()[t].shape[1], np.float32) for t in concatenations(model, plan)}
    levelled, _ = equalise(model, plan, channels)
    return quantise(levelled, Ranges(dict.fromkeys(tensors_to_calibrate(levelled, plan), 1.0), "max"), plan), plan


@lru_cache(maxsize=2)
def half_graph(name: str, precision: Precision) -> tuple[onnx.ModelProto, Fp16Plan]:
    model = float_graph(name) if precision == "fp16" else int8_graph(name)[0]
    plan = Fp16Plan.of(model, dict.fromkeys(tensors_to_observe(model), 1.0))
    return to_fp16(model, plan), plan


def check_kernels(graph: onnx.ModelProto, name: str, precision: Precision) -> None:
    """Every convolution must be compiled into a kernel of the type that the plans give it."""
    quantised = int8_graph(name)[1].quantised if precision in ("int8", "mixed") else ()
    halved = half_graph(name, precision)[1].halved if precision in ("fp16", "mixed") else ()
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


@pytest.mark.parametrize("precision", ["fp16", "mixed"])
@pytest.mark.parametrize("given", ["network image", "batch", "frame"])
def test_whatever_a_graph_is_given(given: str, precision: Precision) -> None:
    graph, _ = half_graph("destseg", precision)
    if given == "batch":
        graph = with_batch(graph, 3)
    elif given == "frame":
        graph = build_frame_graph(graph, Preprocess(SIZE_HW), FRAME_HW)
    check_kernels(graph, "destseg", precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_in_every_precision(name: str, precision: Precision) -> None:
    """fp16 and mixed take two cropped frames at once; fp32 and int8 a network image."""
    if precision in ("fp32", "int8"):
        check_kernels(float_graph(name) if precision == "fp32" else int8_graph(name)[0], name, precision)
    else:
        check_kernels(
            build_frame_graph(with_batch(half_graph(name, precision)[0], 2), CROPPED, FRAME_HW), name, precision
        )
