"""Pixel shuffles in the order that engines move them in: a pass over a core graph that computes the same.

    Conv ─ DepthToSpace, channel-major (CRD) ─ Relu    →    Conv, its outputs reordered ─ Relu ─ DepthToSpace, DCR

PyTorch's shuffle makes r² neighbouring channels one channel of r×r pixels. In the other order, DCR, the channels of one
output pixel lie side by side, and an engine that keeps the channels of a pixel together, as all do for convolutions,
copies them in runs instead of one by one. Which order it is, is only a matter of how the convolution's outputs are
numbered. And with the ReLU in front it is part of the convolution, in INT8 with the rounding (see
`segrd_edge.engines.openvino_uint8`).
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs


def reorder_shuffles(graph: gs.Graph) -> None:
    """Rewrite, in place, every DepthToSpace that alone reads a convolution with constants of its own."""
    for node in [node for node in graph.nodes if node.op == "DepthToSpace"]:
        conv = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
        if node.attrs.get("mode", "DCR") != "CRD" or conv is None or not _is_free(conv):
            continue
        outputs = np.arange(conv.inputs[1].shape[0]).reshape(-1, node.attrs["blocksize"] ** 2).T.reshape(-1)
        for constant in conv.inputs[1:]:
            constant.values = constant.values[outputs]
        node.attrs["mode"] = "DCR"
        _relu_first(node)


def _is_free(conv: gs.Node) -> bool:
    constants = all(isinstance(tensor, gs.Constant) and len(tensor.outputs) == 1 for tensor in conv.inputs[1:])
    return conv.op == "Conv" and constants and len(conv.outputs[0].outputs) == 1


def _relu_first(shuffle: gs.Node) -> None:
    """x → shuffle → Relu → y becomes x → Relu → shuffle → y, where nothing else reads what is between."""
    shuffled = shuffle.outputs[0]
    if [reader.op for reader in shuffled.outputs] != ["Relu"]:
        return
    relu = shuffled.outputs[0]
    x, y = shuffle.inputs[0], relu.outputs[0]
    between = gs.Variable(f"{x.name}.relu", y.dtype)
    relu.inputs, relu.outputs = [x], [between]
    shuffle.inputs, shuffle.outputs = [between], [y]
