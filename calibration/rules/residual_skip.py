"""Of a residual Add, quantise the skip input only.

    x ─ Q ─ DQ ─┬─ Conv ─ Relu ─ Q ─ DQ ─ Conv ─┐
                └────────── (skip) ─────────── Add ─ Relu ─ …

TensorRT then runs Conv, Add and Relu as one INT8 kernel: it adds the dequantised skip to the convolution's INT32 sums
before they are rounded. With a float skip the kernel's output is float (TensorRT#1992); with a pair on the
convolution's side too, the sum is rounded twice and the fusion is lost. Where the skip has a convolution of its own
(downsample), the one nearer to the image is the skip: the other ends the longer path.

A plan may leave all skips in float (`Plan.float_skips`). A convolution averages the rounding of its inputs; a skip
hands it on to the features as it is. On a trained DeSTSeg (ball_screw, everything else in INT8, 32 frames, OpenVINO)
that took the mean |Δscore| from 0.268 to 0.141, and the lost pixel AP from 0.112 to 0.012. OpenVINO adds in a kernel of
its own either way, and took 2 to 9 % longer; what TensorRT loses by it was not measured.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from .site import Site


def sites(graph: gs.Graph, quantised: frozenset[str]) -> list[Site]:
    """The skip input of every Add that a quantised convolution feeds directly."""
    depth = _depths(graph)
    return [Site(add, index) for add in graph.nodes if (index := _skip_index(add, quantised, depth)) is not None]


def _skip_index(add: gs.Node, quantised: frozenset[str], depth: dict[str, int]) -> int | None:
    """Which input of `add` is the skip; None where `add` is no residual sum of this kind."""
    if add.op != "Add" or any(len(tensor.inputs) != 1 for tensor in add.inputs):
        return None  # constants and network inputs have no producer
    if add.inputs[0].shape != add.inputs[1].shape:
        return None
    producers = [tensor.inputs[0] for tensor in add.inputs]
    fused = [i for i, node in enumerate(producers) if node.name in quantised and len(node.outputs[0].outputs) == 1]
    if not fused:
        return None
    return 1 - max(fused, key=lambda i: depth[add.inputs[i].name])


def _depths(graph: gs.Graph) -> dict[str, int]:
    """Tensor name → number of nodes on the longest path to it."""
    depth: dict[str, int] = {}
    for node in graph.nodes:  # ONNX keeps nodes in topological order
        level = 1 + max((depth.get(tensor.name, 0) for tensor in node.inputs), default=0)
        depth.update((tensor.name, level) for tensor in node.outputs)
    return depth
