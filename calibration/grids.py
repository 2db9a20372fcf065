"""The scales of an INT8 graph under the names of the modules that it was exported from: what a fine-tune simulates."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.training.qat import Grid, Grids

from .graph import read_graph
from .quantise import INT8_MAX
from .rules.two_terms import low_name


def grids_of(model: onnx.ModelProto) -> Grids:
    """The grids of every INT8 convolution's input, and of every shortcut beside one.

    A convolution is named after its module, and a residual sum after the block that its last convolution is in. Sums
    elsewhere, and such whose convolution is the shortcut's own, have no name and are left out. So are convolutions in
    two terms, of whose input hardly anything is rounded.
    """
    inputs: dict[str, Grid] = {}
    shortcuts: dict[str, Grid] = {}
    graph = read_graph(model)
    names = {node.name for node in graph.nodes}
    two_terms = {name for node in names for name in (node, low_name(node)) if low_name(node) in names}
    for node in graph.nodes:
        if node.name in two_terms:
            continue
        if node.op == "Conv" and (grid := _grid(node.inputs[0])) is not None:
            inputs[node.name] = grid
        elif node.op == "Add":
            for skip, other in (node.inputs, reversed(node.inputs)):
                grid, conv = _grid(skip), _producer(other)
                if grid is not None and conv is not None and conv.op == "Conv":
                    shortcuts[conv.name.rpartition(".")[0]] = grid
    return Grids(inputs, shortcuts)


def _grid(tensor: gs.Tensor) -> Grid | None:
    """Of a tensor that comes out of a Q/DQ pair."""
    dequantise = _producer(tensor)
    quantise = None if dequantise is None else _producer(dequantise.inputs[0])
    if quantise is None or quantise.op != "QuantizeLinear":
        return None
    return Grid(float(quantise.inputs[1].values) * INT8_MAX, _factors(_producer(quantise.inputs[0])))


def _factors(node: gs.Node | None) -> np.ndarray | None:
    """What `calibration.equalise` multiplies channels with; None of another node."""
    if node is None or node.op != "Mul" or not isinstance(node.inputs[1], gs.Constant):
        return None
    values = np.asarray(node.inputs[1].values)
    return values.reshape(-1) if values.ndim == 4 and values.shape[1] == values.size > 1 else None


def _producer(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs else None
