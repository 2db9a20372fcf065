"""Of a residual Add, quantise the skip input only.

    x ─ Q ─ DQ ─┬─ Conv ─ Relu ─ Q ─ DQ ─ Conv ─┐
                └────────── (skip) ─────────── Add ─ Relu ─ …

TensorRT then runs Conv, Add and Relu as one INT8 kernel: it adds the dequantised skip to the convolution's INT32 sums
before they are rounded. With a float skip the kernel's output is float (TensorRT#1992); with a pair on the
convolution's side too, the sum is rounded twice and the fusion is lost. Where the skip has a convolution of its own
(downsample), the one nearer to the image is the skip: the other ends the longer path, in convolutions.

A plan may leave all skips in float (`Plan.float_skips`). A convolution averages the rounding of its inputs; a skip
hands it on to the features as it is. On a trained DeSTSeg (ball_screw, everything else in INT8, 32 frames, OpenVINO)
that took the mean |Δscore| from 0.268 to 0.141, and the lost pixel AP from 0.112 to 0.012. OpenVINO adds in a kernel of
its own either way, and took 2 to 9 % longer; what TensorRT loses by it was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from .site import Site, quantiser


def sites(graph: gs.Graph, quantised: frozenset[str]) -> list[Site]:
    """The skip input of every Add that a quantised convolution feeds directly."""
    depth = depths(graph)
    sums = ([Site(add, 1), Site(add, 0)] for add in graph.nodes if add.op == "Add")
    skips = ([side for side in sides if check(side, quantised, depth) is None] for sides in sums)
    return [fit[0] for fit in skips if fit]  # where the paths are equally long, either will do


def check(side: Site, quantised: frozenset[str], depth: Mapping[str, int]) -> str | None:
    """Reason to leave one side of an Add in float, or None. It may have its pair already.

    Args:
        quantised: names of the convolutions in INT8.
        depth: `depths` of the graph.
    """
    skip, other = side.tensor, side.node.inputs[1 - side.index]
    if not skip.inputs or not other.inputs:
        return "one side of the sum is a constant or a network input"
    if skip.shape != other.shape:
        return f"the sides of the sum, {skip.shape} and {other.shape}, differ in shape"
    if not _is_fused(other, quantised):
        return f"the other side, {other.name}, is not the output of an INT8 convolution, read by this sum alone"
    pair = quantiser(skip)
    source = skip if pair is None else pair.inputs[0]
    if _is_fused(source, quantised) and depth[source.name] > depth[other.name]:
        return f"{source.name} ends the longer path, and {other.name} is the skip"
    return None


def depths(graph: gs.Graph) -> dict[str, int]:
    """Tensor name → number of convolutions on the longest path to it: the same before and after quantisation."""
    depth: dict[str, int] = {}
    for node in graph.nodes:  # ONNX keeps nodes in topological order
        level = (node.op == "Conv") + max((depth.get(tensor.name, 0) for tensor in node.inputs), default=0)
        depth.update((tensor.name, level) for tensor in node.outputs)
    return depth


def _is_fused(tensor: gs.Variable, quantised: frozenset[str]) -> bool:
    """Whether an INT8 convolution gives `tensor`, and one node alone reads it."""
    return bool(tensor.inputs) and tensor.inputs[0].name in quantised and _readers(tensor) == 1


def _readers(tensor: gs.Variable) -> int:
    """How many nodes read `tensor`, directly or through a Q/DQ pair."""
    pairs = ("QuantizeLinear", "DequantizeLinear")
    return sum(_readers(reader.outputs[0]) if reader.op in pairs else 1 for reader in tensor.outputs)
