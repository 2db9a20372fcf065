"""A float deploy graph, ranges and a plan → the same graph with explicit INT8 (Q/DQ), as TensorRT wants it.

    symmetric, zero point 0         y₈ = clip(round(x / scale), −128, 127),  scale = largest magnitude / 127
    activations per tensor          one pair per tensor, shared by all its INT8 readers
    weights per output channel      INT8 initialiser + DequantizeLinear
    everything else                 float

Scales are float32 because the data between the pairs is; opset 19 also allows float16 scales for a float16 graph.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.errors import OptionError

from .check import check
from .graph import IR_VERSION, read_graph, write_graph
from .plan import Plan
from .ranges import Ranges
from .rules import PLACEMENT, Site, conv_weight

INT8_MAX = 127


def tensors_to_calibrate(model: onnx.ModelProto, *plans: Plan) -> list[str]:
    """Names of the activations that `quantise` needs ranges of for any of the plans, in the graph's order, each once.

    A narrower plan may ask for more than a wider one: of a sum of two convolutions with one in float, the skip is the
    other side.
    """
    graph = read_graph(model)
    return list(dict.fromkeys(site.tensor.name for plan in plans for site in _sites(graph, plan)))


def quantise(model: onnx.ModelProto, ranges: Ranges, plan: Plan) -> onnx.ModelProto:
    """A copy of the float `model` whose planned convolutions run in INT8, checked against TensorRT's rules.

    Raises:
        OptionError: the plan names a node that the model does not have, or a range is missing.
    """
    quantised = write_graph(_surgery(model, ranges, plan))
    check(quantised)
    return quantised


def draft(model: onnx.ModelProto, ranges: Ranges, plan: Plan) -> onnx.ModelProto:
    """The graph of `quantise` unchecked and without the shapes inside it: good to run, and made in a fifth of the time.

    Raises:
        OptionError: as `quantise`.
    """
    drafted = gs.export_onnx(_surgery(model, ranges, plan).cleanup().toposort())
    drafted.ir_version = IR_VERSION
    return drafted


def _surgery(model: onnx.ModelProto, ranges: Ranges, plan: Plan) -> gs.Graph:
    graph = read_graph(model)
    sites = _sites(graph, plan)
    pairs: dict[str, gs.Variable] = {}
    for name, tensor in {site.tensor.name: site.tensor for site in sites}.items():
        if name not in ranges.largest:
            raise OptionError(f"no range for {name}", fix="collect ranges of tensors_to_calibrate(model, plan)")
        pairs[name] = _insert_pair(graph, tensor, ranges.largest[name])
    for site in sites:
        site.node.inputs[site.index] = pairs[site.tensor.name]
    for node in [node for node in graph.nodes if node.name in plan.quantised]:
        graph.nodes.append(conv_weight.rewrite(node))
    return graph


def _sites(graph: gs.Graph, plan: Plan) -> list[Site]:
    names = frozenset(plan.quantised)
    if unknown := names - {node.name for node in graph.nodes}:
        raise OptionError(
            f"the plan names nodes that the graph does not have: {', '.join(sorted(unknown))}",
            fix="make the plan from this graph: Plan.of(model)",
        )
    return [site for rule in PLACEMENT for site in rule(graph, names)]


def _insert_pair(graph: gs.Graph, tensor: gs.Variable, largest: float) -> gs.Variable:
    """Add tensor → QuantizeLinear → DequantizeLinear to the graph; the dequantised tensor."""
    # A tensor that was zero on every calibration frame is zero at any scale.
    scale = gs.Constant(f"{tensor.name}.scale", np.array(largest / INT8_MAX if largest > 0 else 1.0, np.float32))
    zero = gs.Constant(f"{tensor.name}.zero_point", np.array(0, np.int8))
    levels = gs.Variable(f"{tensor.name}.int8", np.int8, tensor.shape)
    values = gs.Variable(f"{tensor.name}.dequantised", np.float32, tensor.shape)
    graph.nodes += [
        gs.Node("QuantizeLinear", f"{tensor.name}.quantise", inputs=[tensor, scale, zero], outputs=[levels]),
        gs.Node("DequantizeLinear", f"{tensor.name}.dequantise", inputs=[levels, scale, zero], outputs=[values]),
    ]
    return values
