"""A float deploy graph, ranges and a plan → the same graph with explicit INT8 (Q/DQ), as TensorRT wants it.

    symmetric, zero point 0         y₈ = clip(round(x / scale), −128, 127),  scale = largest magnitude / 127
    activations per tensor          one pair per tensor, shared by all its INT8 readers
    weights per output channel      INT8 initialiser + DequantizeLinear, rounded as `Ranges.weights` says or to nearest
    convolutions in two terms       a second pair for what the first leaves over, see `rules.two_terms`
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
from .rules import Site, conv_input, conv_weight, residual_skip, two_terms

INT8_MAX = 127


def tensors_to_calibrate(model: onnx.ModelProto, *plans: Plan) -> list[str]:
    """Names of the activations that `quantise` needs ranges of for any of the plans, in the graph's order, each once.

    A narrower plan may ask for more than a wider one: of a sum of two convolutions with one in float, the skip is the
    other side.
    """
    graph = read_graph(model)
    return list(dict.fromkeys(site.tensor.name for plan in plans for site in sites_of(graph, plan)))


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
    sites = sites_of(graph, plan)
    in_two_terms = {site.tensor.name for site in sites if site.node.name in plan.two_term}
    pairs: dict[str, gs.Variable] = {}
    for name, tensor in {site.tensor.name: site.tensor for site in sites}.items():
        largest = (ranges.reach if name in in_two_terms else ranges.largest).get(name)
        if largest is None:
            raise OptionError(f"no range for {name}", fix="collect ranges of tensors_to_calibrate(model, plan)")
        pairs[name] = _insert_pair(graph, tensor, largest)
    for site in sites:
        site.node.inputs[site.index] = pairs[site.tensor.name]
    lows: dict[str, gs.Variable] = {}
    for node in [node for node in graph.nodes if node.name in plan.quantised]:
        graph.nodes.append(conv_weight.rewrite(node, ranges.weights.get(node.name)))
        if node.name in plan.two_term:
            two_terms.add_low_term(graph, node, lows)
    return graph


def sites_of(graph: gs.Graph, plan: Plan) -> list[Site]:
    """Where a Q/DQ pair must stand for `plan`.

    Raises:
        OptionError: the plan names a node that the graph does not have.
    """
    names = frozenset(plan.quantised)
    if unknown := names - {node.name for node in graph.nodes}:
        raise OptionError(
            f"the plan names nodes that the graph does not have: {', '.join(sorted(unknown))}",
            fix="make the plan from this graph: Plan.of(model)",
        )
    skips = [] if plan.float_skips else residual_skip.sites(graph, names - plan.two_term.keys())
    return [*conv_input.sites(graph, names), *skips]


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
