"""TensorRT's rules for explicit INT8, asserted on a finished graph.

They are what its parser refuses, and what it accepts but runs slowly. The check knows nothing of how the graph was
made, so it also judges graphs of other tools. What a rule says of a node is asked of its file in `rules`; here is what
holds for all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.errors import ExportError

from .graph import OPSET, read_graph
from .rules import FORM, WEIGHTED_OPS, Site, conv_input, conv_weight, residual_skip, two_terms
from .rules.site import is_dequantised

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
    graph = read_graph(onnx.shape_inference.infer_shapes(model))  # not every tool stores the shapes of what it adds
    int8 = frozenset(node.name for node in graph.nodes if node.op in _INT8_OPS and is_dequantised(node.inputs[1]))
    depth = residual_skip.depths(graph)
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
            found += _residual(node, int8, depth)
        elif node.op == "Sub" and (reason := two_terms.check(node)):
            found.append(f"{node.name}: {reason}")
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
    if isinstance(node.inputs[0], gs.Constant) and (reason := conv_weight.check(node)):
        yield f"{node.name}: {reason}"


def _weighted(node: gs.Node) -> Iterator[str]:
    """In INT8 on both sides, and only what may be; or in float on both."""
    if not any(map(is_dequantised, node.inputs[:2])):
        return
    if reason := conv_input.check(node):
        yield f"{node.name}: {reason}"
    elif node.op in WEIGHTED_OPS:
        if None in (node.inputs[1].shape, node.outputs[0].shape):
            yield f"{node.name}: its shapes are unknown, and with them whether it may run in INT8"
        else:
            yield from (f"{node.name}: must stay float: {reason}" for rule in FORM if (reason := rule(node)))


def _residual(node: gs.Node, int8: frozenset[str], depth: Mapping[str, int]) -> Iterator[str]:
    """A pair on the side that skips, or on none."""
    sides = [Site(node, index) for index, tensor in enumerate(node.inputs) if is_dequantised(tensor)]
    for side in sides:
        if reason := residual_skip.check(side, int8, depth):
            yield f"{node.name}: {side.tensor.name} must not be INT8: {reason}"
