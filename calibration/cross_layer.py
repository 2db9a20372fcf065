"""Level the channels between two convolutions, at no cost at run time.

What `calibration.equalise` does for concatenations with a product in front of the readers, a convolution in front does
in its own weights, because a positive factor per channel goes through a ReLU:

    conv₂(relu(conv₁(x, w₁, b₁)), w₂) = conv₂(relu(conv₁(x, s·w₁, s·b₁)), w₂/s)

with the same s. conv₁ has a scale per output channel, so s costs it nothing (Nagel et al., ICCV 2019, section 4.1, who
have one scale per weight tensor, level the ranges of w₁ and w₂ instead). The activation between the two has one scale,
and so has each output channel of w₂ over all its inputs: these two are what is levelled. What it brings, and what it
does not: docs/int8.md, "Improving the weights".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from .equalise import level_factors
from .graph import read_graph, write_graph
from .plan import Plan


@dataclass(frozen=True)
class _Pair:
    """Two convolutions and the activation between them, which only the second reads."""

    first: gs.Node
    activation: gs.Variable
    second: gs.Node


def between_convolutions(model: onnx.ModelProto, plan: Plan) -> list[str]:
    """Names of the activations that a planned convolution alone reads, and any convolution gives, itself or through a
    ReLU."""
    return [pair.activation.name for pair in _pairs(read_graph(model), plan)]


def level_pairs(
    model: onnx.ModelProto, plan: Plan, channel_largest: Mapping[str, npt.NDArray[np.float32]]
) -> onnx.ModelProto:
    """A copy of the model that computes the same, nodes and tensors named as before, with these activations levelled.

    Args:
        channel_largest: largest magnitude of every channel of the activations in `between_convolutions(model, plan)` on
            the calibration frames. They are others afterwards, and their histograms too: observe the copy.
    """
    graph = read_graph(model)
    for pair in _pairs(graph, plan):
        weight = np.abs(pair.second.inputs[1].values).max(axis=(0, 2, 3))
        factors = level_factors(channel_largest[pair.activation.name], weight)
        for index in range(1, len(pair.first.inputs)):  # weight outputs×inputs×kh×kw, and bias if there is one
            _multiply(pair.first, index, factors.reshape(-1, *[1] * (pair.first.inputs[index].values.ndim - 1)))
        _multiply(pair.second, 1, np.reciprocal(factors.reshape(1, -1, 1, 1)))
    return write_graph(graph)


def _pairs(graph: gs.Graph, plan: Plan) -> Iterator[_Pair]:
    names = frozenset(plan.quantised)
    for second in [node for node in graph.nodes if node.name in names]:
        activation = second.inputs[0]
        first = _only_producer(activation, graph)
        if first is not None and first.op == "Relu":
            first = _only_producer(first.inputs[0], graph)
        if first is not None and first.op == "Conv" and _has_own_constants(first):
            yield _Pair(first, activation, second)


def _only_producer(tensor: gs.Tensor, graph: gs.Graph) -> gs.Node | None:
    """The node that gives `tensor`, where the tensor has a single reader and is no output."""
    is_output = any(tensor is output for output in graph.outputs)
    return tensor.inputs[0] if tensor.inputs and len(tensor.outputs) == 1 and not is_output else None


def _has_own_constants(conv: gs.Node) -> bool:
    return all(isinstance(t, gs.Constant) and len(t.outputs) == 1 for t in conv.inputs[1:])


def _multiply(conv: gs.Node, index: int, factors: npt.NDArray[np.float32]) -> None:
    constant = conv.inputs[index]
    conv.inputs[index] = gs.Constant(constant.name, (constant.values * factors).astype(np.float32))
