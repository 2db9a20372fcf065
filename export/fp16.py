"""A float32 or INT8 deploy graph and a plan → the same graph with float16 layers.

Precision lives in the file: a strongly typed TensorRT, the only kind since 11, runs every layer in the types it finds.
What runs in float16 is the plan's matter (`export.fp16_plan`). Here a Cast is put at every border, one per tensor and
direction, and nowhere else; inputs and outputs keep their types.

Q and DQ need no Cast: a QuantizeLinear has the type of the tensor it reads, a DequantizeLinear that of its readers, and
each scale that of its node. That is what TensorRT 10.3 demands, and what ONNX allows from opset 19 on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.calibration.graph import write_graph
from segrd_edge.errors import OptionError

from .fp16_plan import QDQ_OPS, Fp16Plan, float_constants, float_nodes, open_graph, static_reason, tail_of


def to_fp16(model: onnx.ModelProto, plan: Fp16Plan) -> onnx.ModelProto:
    """A copy of `model`, float32 or INT8, whose planned nodes run in float16. Nodes and weights keep their names.

    Weights are rounded to float16. The scale of INT8 weights is rounded up, and the INT8 values are fitted to it.

    Raises:
        OptionError: the plan names a node that the model does not have, or one that must stay float32.
        ExportError: as `Fp16Plan.of`.
    """
    graph = open_graph(model)
    nodes = {node.name: node for node in float_nodes(graph)}
    if unknown := set(plan.halved) - set(nodes):
        raise OptionError(
            f"the plan names nodes that the graph does not have: {', '.join(sorted(unknown))}",
            fix="make the plan from this graph: Fp16Plan.of(model, largest)",
        )
    tail = tail_of(graph)
    for name in plan.halved:
        if reason := static_reason(nodes[name], tail):
            raise OptionError(f"the plan puts {name} in float16, but it must stay float32", expected=reason)
    halved = {id(nodes[name]) for name in plan.halved}
    _assign_pairs(graph, halved)
    constants: dict[int, gs.Constant] = {}
    for node in [node for node in graph.nodes if id(node) in halved]:
        _halve(node, halved, constants)
    for node in list(graph.nodes):
        for tensor in node.outputs:
            _cast(graph, tensor, halved)
    return write_graph(graph)


def _assign_pairs(graph: gs.Graph, halved: set[int]) -> None:
    """Add Q and DQ nodes to `halved`; a DQ with readers of both kinds is split in two."""
    for node in list(graph.nodes):
        if node.op == "QuantizeLinear" and node.inputs[0].inputs and id(node.inputs[0].inputs[0]) in halved:
            halved.add(id(node))
        if node.op != "DequantizeLinear":
            continue
        output = node.outputs[0]
        readers = [reader for reader in output.outputs if id(reader) in halved]
        if readers and len(readers) < len(output.outputs):
            copy = gs.Variable(f"{output.name}.fp16", np.float32, output.shape)
            node = gs.Node(node.op, f"{node.name}.fp16", dict(node.attrs), list(node.inputs), [copy])
            graph.nodes.append(node)
            for reader in readers:
                reader.inputs = [copy if tensor is output else tensor for tensor in reader.inputs]
        if readers:
            halved.add(id(node))


def _halve(node: gs.Node, halved: set[int], made: dict[int, gs.Constant]) -> None:
    """Give `node` float16 constants and outputs. `made`: the constants that were halved already, by their id."""
    if node.op == "DequantizeLinear" and isinstance(node.inputs[0], gs.Constant):
        _fit_levels(node)
    for index, constant in float_constants(node).items():
        if id(constant) not in made:
            is_shared = any(id(reader) not in halved for reader in constant.outputs)
            values = round_up(constant.values) if node.op in QDQ_OPS else constant.values.astype(np.float16)
            made[id(constant)] = gs.Constant(f"{constant.name}.fp16" if is_shared else constant.name, values)
            if node.op in QDQ_OPS and not isinstance(node.inputs[0], gs.Constant):
                constant.values = values.astype(np.float32)  # a Q and its DQ of unlike type still share one scale
        node.inputs[index] = made[id(constant)]
    for tensor in node.outputs:
        if tensor.dtype == np.float32:
            tensor.dtype = np.float16


def _fit_levels(node: gs.Node) -> None:
    """Refit INT8 weights to the scale that float16 leaves them, which matters where that is tiny (its last digits)."""
    levels, scale = node.inputs[0], node.inputs[1].values
    shape = [1] * levels.values.ndim
    shape[node.attrs.get("axis", 1)] = -1
    ratio = scale / round_up(scale).astype(np.float32)
    fitted = np.rint(levels.values * (ratio.reshape(shape) if scale.ndim else ratio)).astype(np.int8)
    if (fitted != levels.values).any():
        node.inputs[0] = gs.Constant(levels.name if len(levels.outputs) == 1 else f"{levels.name}.fp16", fitted)


def round_up(scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Positive float32 → the next float16 that is not smaller: no INT8 value leaves its range, no scale becomes 0."""
    half = scale.astype(np.float16)
    return np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)


def _cast(graph: gs.Graph, tensor: gs.Variable, halved: set[int]) -> None:
    """Let the readers of `tensor` whose type is the other one read it through one Cast."""
    is_half = tensor.dtype == np.float16
    if not (is_half or tensor.dtype == np.float32):
        return
    readers = [node for node in tensor.outputs if (id(node) in halved) != is_half and node.op not in QDQ_OPS]
    if not readers:
        return
    kind, dtype = ("fp32", np.float32) if is_half else ("fp16", np.float16)
    other = gs.Variable(f"{tensor.name}.{kind}", dtype, tensor.shape)
    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph.nodes.append(gs.Node("Cast", f"{tensor.name}.to_{kind}", {"to": to}, [tensor], [other]))
    for node in readers:
        node.inputs = [other if read is tensor else read for read in node.inputs]
