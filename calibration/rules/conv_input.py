"""Quantise the inputs of a convolution, not its output.

    x ─ Q ─ DQ ─ Conv(DQ(w₈)) ─ Relu ─ …

TensorRT fuses DQ → Conv → Relu → (the next layer's) Q into one INT8 kernel. A pair directly behind the convolution
would stand between it and its ReLU: the fusion is lost, and half of the range is spent on values that the ReLU throws
away. Both inputs must be quantised, or the convolution runs in float; the weight's side is `conv_weight`.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from .site import Site, is_dequantised


def sites(graph: gs.Graph, quantised: frozenset[str]) -> list[Site]:
    """The activation input of every quantised convolution."""
    return [Site(node, 0) for node in graph.nodes if node.name in quantised]


def check(conv: gs.Node) -> str | None:
    """Reason to leave `conv` in float, or why it runs in float with what is quantised of it already; or None."""
    if isinstance(conv.inputs[0], gs.Constant):
        return f"its input {conv.inputs[0].name} is a constant"
    activation, weight = (is_dequantised(tensor) for tensor in conv.inputs[:2])
    if activation != weight:
        return f"its {'input' if activation else 'weight'} is quantised, the other one is not"
    return None
