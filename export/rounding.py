"""What float16 layers do to the results, computed on the processor: every float16 tensor rounded as a GPU stores it.

Neither engine of the processor computes in float16. ONNX Runtime puts Casts around a float16 node and drops the pairs
between two of them; OpenVINO reads the weights and goes on in float32. Two convolutions whose values pass 65504 in
between give 11.11 in both, where float16 has infinity (ONNX Runtime 1.31, OpenVINO 2026.4, x86). A threshold measured
so would be float32's. Casts that stand in the graph ONNX Runtime does keep, and so they are put there; OpenVINO drops
these too.

Sums stay float32, as in a GPU's matrix units. Where the compiler fuses layers, it rounds less often than this.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.calibration.graph import read_graph, write_graph

# Ops that give only values which they were given: nothing is left to round. Of Q/DQ, an INT8 kernel rounds nothing.
_PASSING = frozenset(
    {
        *("Relu", "Clip", "Abs", "Neg", "Max", "Min", "MaxPool", "QuantizeLinear", "DequantizeLinear"),
        *("Concat", "Split", "Slice", "Pad", "Expand", "DepthToSpace"),
        *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
    }
)


def rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float16 graph (`export.fp16`) as a float32 one for ONNX Runtime, with a pair of Casts behind every layer that
    gives float16. A graph without float16 comes back as it is."""
    graph = read_graph(model)
    halves = [tensor for tensor in graph.tensors().values() if tensor.dtype == np.float16]
    for tensor in halves:
        if isinstance(tensor, gs.Constant):
            tensor.values = tensor.values.astype(np.float32)
        else:
            tensor.dtype = np.float32
    for tensor in halves:
        for node in list(tensor.inputs):
            if node.op not in _PASSING:
                _round(graph, node, tensor)
    return write_graph(graph)


def _round(graph: gs.Graph, node: gs.Node, tensor: gs.Variable) -> None:
    """node → tensor becomes node → Cast to float16 → Cast to float32 → tensor."""
    if node.op == "Cast":  # from float32, at a border: it rounds already
        stored = node.outputs[0] = gs.Variable(f"{tensor.name}.stored", np.float16, tensor.shape)
    else:
        computed = gs.Variable(f"{tensor.name}.computed", np.float32, tensor.shape)
        stored = gs.Variable(f"{tensor.name}.stored", np.float16, tensor.shape)
        node.outputs = [computed if output is tensor else output for output in node.outputs]
        cast = {"to": onnx.TensorProto.FLOAT16}
        graph.nodes.append(gs.Node("Cast", f"{tensor.name}.store", cast, [computed], [stored]))
    cast = {"to": onnx.TensorProto.FLOAT}
    graph.nodes.append(gs.Node("Cast", f"{tensor.name}.load", cast, [stored], [tensor]))
