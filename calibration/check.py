"""TensorRT's rules for explicit INT8, asserted on a finished graph.

They are what its parser refuses, and what it accepts but runs slowly. The check knows nothing of how the graph was
made, so it also judges graphs of other tools.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.errors import ExportError

from .graph import OPSET, read_graph

_INT8_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_READERS = (*_INT8_OPS, "Add", "Sub")
_SHOWN = 8


def check(model: onnx.ModelProto) -> None:
    """Raises:
    ExportError: the graph breaks a rule; every violation is listed.
    """
    if found := violations(model):
        more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ExportError(
            "the INT8 graph breaks TensorRT's rules:\n  " + "\n  ".join(found[:_SHOWN]) + more,
            expected="explicit symmetric INT8, see segrd_edge.calibration.rules",
        )


def violations(model: onnx.ModelProto) -> list[str]:
    """What is wrong with an INT8 graph, one line per finding; empty where nothing is."""
    graph = read_graph(model)
    found = [] if graph.opset >= OPSET else [f"opset {graph.opset}; INT8 beside float16 needs {OPSET}"]
    for node in graph.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            found += _grid(node)
        if node.op == "QuantizeLinear":
            found += _quantiser(node)
        elif node.op == "DequantizeLinear":
            found += _dequantiser(node, graph)
        elif node.op in _INT8_OPS:
            found += _weighted(node)
        elif node.op == "Add":
            found += _residual(node)
        elif node.op == "Sub":
            found += _rest(node)
    return found


def _grid(node: gs.Node) -> Iterator[str]:
    """Scale and zero point: constants, positive, float, symmetric INT8."""
    scale = node.inputs[1]
    if not isinstance(scale, gs.Constant):
        yield f"{node.name}: the scale is not a constant"
    elif not (np.isfinite(scale.values).all() and (scale.values > 0).all()):
        yield f"{node.name}: a scale that is not positive and finite"
    elif node.op == "QuantizeLinear" and scale.dtype != node.inputs[0].dtype:
        yield f"{node.name}: scale is {scale.dtype}, data is {node.inputs[0].dtype}"
    if len(node.inputs) < 3:
        if node.op == "QuantizeLinear":
            yield f"{node.name}: without a zero point ONNX quantises to uint8"
        return
    zero = node.inputs[2]
    if not isinstance(zero, gs.Constant) or zero.dtype != np.int8 or zero.values.any():
        yield f"{node.name}: the zero point must be a constant int8 zero"


def _quantiser(node: gs.Node) -> Iterator[str]:
    """Activations: per tensor, once per tensor, always followed by their dequantisation."""
    source = node.inputs[0]
    if isinstance(source, gs.Constant):
        yield f"{node.name}: quantises the constant {source.name}; store it as INT8 instead"
    if np.size(getattr(node.inputs[1], "values", 0)) != 1:
        yield f"{node.name}: activations are quantised per tensor, not per channel"
    if sum(reader.op == "QuantizeLinear" for reader in source.outputs) > 1:
        yield f"{node.name}: {source.name} is quantised more than once"
    if any(reader.op != "DequantizeLinear" for reader in node.outputs[0].outputs):
        yield f"{node.name}: something other than DequantizeLinear reads its INT8 values"


def _dequantiser(node: gs.Node, graph: gs.Graph) -> Iterator[str]:
    """Read by layers that run in INT8 and by nothing else; weights per channel."""
    output = node.outputs[0]
    if output in graph.outputs:
        yield f"{node.name}: a network output is quantised"
    for reader in output.outputs:
        index = reader.inputs.index(output)
        if reader.op not in _READERS:
            yield f"{node.name}: {reader.op} {reader.name} must read float"
        elif reader.op in _INT8_OPS and index > 1:
            yield f"{reader.name}: the bias must stay float"
    source = node.inputs[0]
    if isinstance(source, gs.Constant):
        axis = 1 if any(reader.op == "ConvTranspose" for reader in output.outputs) else 0
        if node.attrs.get("axis", 1) != axis or np.shape(getattr(node.inputs[1], "values", 0)) != (source.shape[axis],):
            yield f"{node.name}: weights need one scale per output channel, on axis {axis}"


def _weighted(node: gs.Node) -> Iterator[str]:
    """Both inputs quantised or none, because with one alone the layer runs in float."""
    activation, weight = (_is_dequantised(tensor) for tensor in node.inputs[:2])
    if activation != weight:
        yield f"{node.name}: its {'input' if activation else 'weight'} is quantised, the other one is not"


def _residual(node: gs.Node) -> Iterator[str]:
    """One side quantised, the other straight from an INT8 layer."""
    sides = [_is_dequantised(tensor) for tensor in node.inputs]
    if not any(sides):
        return
    other = node.inputs[sides.index(False)] if not all(sides) else None
    producer = other.inputs[0] if other is not None and other.inputs else None
    if producer is None or producer.op not in _INT8_OPS or not _is_dequantised(producer.inputs[1]):
        yield f"{node.name}: one side must come straight from an INT8 convolution, the other through one Q/DQ pair"


def _rest(node: gs.Node) -> Iterator[str]:
    """What rounding leaves over: a tensor minus itself behind a Q/DQ pair, to be rounded in turn."""
    if not any(map(_is_dequantised, node.inputs)):
        return
    whole, rounded = node.inputs
    pair = rounded.inputs[0].inputs[0].inputs[0] if _is_dequantised(rounded) else None
    if pair is None or pair.inputs[0] is not whole or any(r.op != "QuantizeLinear" for r in node.outputs[0].outputs):
        yield f"{node.name}: it must be what one Q/DQ pair leaves over of its own input, and be quantised itself"


def _is_dequantised(tensor: gs.Tensor) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op == "DequantizeLinear"
