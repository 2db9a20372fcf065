"""Which nodes of a deploy graph run in float16, which keep float32, and why. A node keeps float32 where

    its activations pass ±512, or its weights ±65504          NVIDIA's AutoCast rule; new frames may reach 128 × 512
    its activations or small constants vanish                 below 6e-5 float16 loses digit by digit, at 3e-8 the last
    it sums, squares, divides, or multiplies activations      norms of features, and products of them
    it gives or follows `raw`, or is pre- or postprocessing   its rounding would be the score's; the frame's resize
    it shares a kernel with a node that does                  a Cast between them would break the fusion
    no convolution is among the float16 nodes around it       two casts for nothing

All others run in float16 (`export.fp16`). The observed ranges are those of calibration frames.

Why not modelopt's autocast (read, not run): of these rules it has the first, a limit on the length of sums, and lists
of names and ops to exclude. Its way for quantised graphs knows such a list alone, and raises the opset to 21, where
TensorRT 10.3 ends at 20. It comes with polygraphy and a package that rebinds ONNX Runtime's internals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.calibration.graph import OPSET, read_graph
from segrd_edge.calibration.ranges import observe
from segrd_edge.errors import ExportError, OptionError

LARGEST_ACTIVATION = 512.0
LARGEST_WEIGHT = 65504.0  # float16's largest number
SMALLEST = 2.0**-14  # float16's smallest with all its digits

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PRODUCTS = frozenset({"MatMul", "Mul", "Sub"})
_ACTIVATION_FUNCTIONS = frozenset({"Relu", "LeakyRelu", "Clip"})
_HALF_OPS = frozenset(
    {
        *(*_WEIGHTED, *_PRODUCTS, *_ACTIVATION_FUNCTIONS, "Abs", "Neg", "Add", "Max", "Min"),
        *("MaxPool", "AveragePool", "Resize", "Concat", "Split", "Slice", "Pad", "Expand", "DepthToSpace"),
        *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
    }
)
QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_OWN_PREFIXES = ("deploy.", "frame.")  # the nodes of export.deploy and export.frame_graph
_FLOAT_INPUTS = {"Resize": (1, 2)}  # region and scales are float32 whatever the data is


@dataclass(frozen=True)
class Fp16Plan:
    """A split of a graph's floating-point nodes, Q/DQ apart, which follow their neighbours. By node name."""

    halved: tuple[str, ...]
    left_float: Mapping[str, str]  # name → reason

    @classmethod
    def of(cls, model: onnx.ModelProto, largest: Mapping[str, float]) -> Fp16Plan:
        """Everything in float16 that the rules allow.

        Args:
            largest: see `largest_activations`.

        Raises:
            OptionError: a range is missing.
            ExportError: not an opset 19 graph in float32, or without the tensor `raw`.
        """
        graph = open_graph(model)
        left_float: dict[str, str] = {}
        allowed: list[gs.Node] = []
        tail = tail_of(graph)
        for node in float_nodes(graph):
            reason = static_reason(node, tail) or _range_reason(node, largest) or _fusion_reason(node, left_float)
            if reason is None:
                allowed.append(node)
            else:
                left_float[node.name] = reason
        gaining = _beside_weights(allowed)
        for node in allowed:
            if node.name not in gaining:
                left_float[node.name] = "no convolution among the float16 nodes around it"
        return cls(tuple(node.name for node in allowed if node.name in gaining), left_float)


def tensors_to_observe(model: onnx.ModelProto) -> list[str]:
    """Names of the activations whose range decides, in the graph's order, each once."""
    graph = open_graph(model)
    tail = tail_of(graph)
    undecided = [node for node in float_nodes(graph) if static_reason(node, tail) is None]
    return list(dict.fromkeys(tensor.name for node in undecided for tensor in _activations(node)))


def largest_activations(model: onnx.ModelProto, images_bgr_u8: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
    """Largest magnitude of every tensor of `tensors_to_observe(model)` on network images (uint8 h×w×3 BGR).

    `model` takes network images. A frame graph has the same tensors behind its resize: observe before building it.

    Raises:
        ExportError: an activation is NaN or infinite.
    """
    return observe(model, [], images_bgr_u8, also=tensors_to_observe(model)).largest


def open_graph(model: onnx.ModelProto) -> gs.Graph:
    """`model` opened for surgery. ExportError where it is not what `Fp16Plan.of` asks for."""
    graph = read_graph(model)
    names = [node.name for node in graph.nodes]
    tensors = graph.tensors()
    halves = sum(tensor.dtype == np.float16 for tensor in tensors.values())
    if graph.opset < OPSET or halves:
        raise ExportError(
            f"the graph is of opset {graph.opset} and has {halves} float16 tensors",
            expected=f"float32 or INT8, of opset {OPSET} or later, where scales may be float16",
            fix="convert the graph that build_deploy_graph or calibration.quantise gives, once",
        )
    if "raw" not in tensors or len(set(names)) != len(names) or "" in names:
        raise ExportError(
            "the graph has no tensor `raw`, or nodes without a name of their own",
            expected="a deploy graph as build_deploy_graph makes it",
        )
    return graph


def float_nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    """Every node that reads or writes float32, Q/DQ apart."""
    for node in graph.nodes:
        if node.op not in QDQ_OPS and any(t.dtype == np.float32 for t in (*node.inputs, *node.outputs)):
            yield node


def _activations(node: gs.Node) -> list[gs.Variable]:
    """Its computed float32 tensors. Behind a Q/DQ pair, the tensor in front of it; no dequantised weights."""
    sources = [_behind_pair(t) for t in node.inputs]
    return [t for t in (*sources, *node.outputs) if isinstance(t, gs.Variable) and t.dtype == np.float32]


def _behind_pair(tensor: gs.Tensor) -> gs.Tensor:
    """What `tensor` is a dequantised version of: a computed tensor or the INT8 constant of a weight; or itself."""
    if _is_dequantised(tensor):
        levels = tensor.inputs[0].inputs[0]
        return levels.inputs[0].inputs[0] if levels.inputs else levels
    return tensor


def _is_dequantised(tensor: gs.Tensor) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op == "DequantizeLinear"


def tail_of(graph: gs.Graph) -> frozenset[str]:
    """Names of the nodes that give or follow `raw`."""
    names: set[str] = set()
    waiting = list(graph.tensors()["raw"].inputs)
    while waiting:
        node = waiting.pop()
        if node.name not in names:
            names.add(node.name)
            waiting += [reader for tensor in node.outputs for reader in tensor.outputs]
    return frozenset(names)


def static_reason(node: gs.Node, tail: frozenset[str]) -> str | None:
    """Why `node` keeps float32 whatever its activations are, or None."""
    if node.name in tail:
        return "gives or follows raw: its rounding would be the score's"
    if node.name.startswith(_OWN_PREFIXES):
        return "pre- or postprocessing"
    if node.op not in _HALF_OPS:
        return f"{node.op} needs float32's range or digits"
    if node.op in _PRODUCTS and not any(isinstance(_behind_pair(t), gs.Constant) for t in node.inputs):
        return f"{node.op} of two activations"
    for tensor in float_constants(node).values():
        magnitudes = np.abs(tensor.values)
        if magnitudes.max(initial=0) > LARGEST_WEIGHT:
            return f"{tensor.name} reaches {magnitudes.max():.4g}, above {LARGEST_WEIGHT:g}"
        if node.op not in _WEIGHTED and ((magnitudes > 0) & (magnitudes < SMALLEST)).any():
            return f"{tensor.name} holds {magnitudes[magnitudes > 0].min():.2g}, too small for float16"
    return None


def _range_reason(node: gs.Node, largest: Mapping[str, float]) -> str | None:
    """Why the observed activations of `node` keep it in float32, or None."""
    for tensor in _activations(node):
        if tensor.name not in largest:
            raise OptionError(f"no range for {tensor.name}", fix="observe tensors_to_observe(model)")
        if not largest[tensor.name] <= LARGEST_ACTIVATION:  # also where it is NaN
            return f"{tensor.name} reaches {largest[tensor.name]:.4g}, above {LARGEST_ACTIVATION:g}"
        if 0 < largest[tensor.name] < SMALLEST:
            return f"{tensor.name} stays below {largest[tensor.name]:.2g}, too small for float16"
    return None


def _fusion_reason(node: gs.Node, left_float: Mapping[str, str]) -> str | None:
    """Why the kernel that `node` belongs to is a float32 one, or None. Kernels: convolution, quantised skip, ReLU."""
    if node.op not in _ACTIVATION_FUNCTIONS and not (node.op == "Add" and any(map(_is_dequantised, node.inputs))):
        return None
    producers = [producer for tensor in node.inputs for producer in tensor.inputs]
    partner = next((p for p in producers if p.name in left_float and p.op in (*_WEIGHTED, "Add")), None)
    return f"shares a kernel with {partner.name}" if partner else None


def _beside_weights(nodes: list[gs.Node]) -> set[str]:
    """Names of those of `nodes` that are connected, through each other and Q/DQ pairs, to a weighted one."""
    producers = {tensor.name: node for node in nodes for tensor in node.outputs}
    neighbours: dict[str, list[gs.Node]] = {node.name: [] for node in nodes}
    for node in nodes:
        for tensor in map(_behind_pair, node.inputs):
            if (producer := producers.get(tensor.name)) is not None:
                neighbours[node.name].append(producer)
                neighbours[producer.name].append(node)
    found: set[str] = set()
    waiting = [node for node in nodes if node.op in _WEIGHTED]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += neighbours[node.name]
    return found


def float_constants(node: gs.Node) -> dict[int, gs.Constant]:
    """Its float32 constants that have the type of its data, by input number."""
    exempt = _FLOAT_INPUTS.get(node.op, ())
    return {
        i: t
        for i, t in enumerate(node.inputs)
        if isinstance(t, gs.Constant) and t.dtype == np.float32 and i not in exempt
    }
