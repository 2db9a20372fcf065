"""The input of a convolution as the sum of two INT8 tensors: finer by eight bits, for twice the multiplications.

    x ─┬─ Q ─ DQ ─ h ─┬─ Conv(h, w₈) ─────────────── Add ─ …           scale of h: s = max|x| / 127
       └───── Sub ────┴─ l = x − h ─ Q ─ DQ ─ Conv(l, w₈) ─┘           scale of l: s / 254, as |x − h| ≤ s / 2

A convolution is linear, so the two results add up to that of h + l, which is x to 1/500 of a step; nothing is clipped,
because h has steps enough to reach the largest value. What is left is the rounding of w. On trained networks that is
small: all activations rounded moved the scores of a DeSTSeg (ball_screw) by 0.251 on average, all weights by 0.009.

Where INT8 is four times as fast as float, two convolutions in INT8 take half of a float one's time. Where it is twice
as fast, as on a GPU beside float16, nothing is gained, and the graph for it leaves these convolutions in float16. The
idea of expanding what rounding leaves over is that of REx (Yvinec et al., NeurIPS 2023), there for weights.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from .site import is_dequantised, quantiser

LOW_LEVELS = 254  # steps of l in one of h: 127 to either side of it


def low_name(conv: str) -> str:
    """Name of the convolution that computes the second term."""
    return f"{conv}.low"


def add_low_term(graph: gs.Graph, conv: gs.Node, lows: dict[str, gs.Variable]) -> None:
    """Add the second term of `conv`, which reads x through a Q/DQ pair and its weight in INT8.

    Args:
        lows: l by the name of x, of the convolutions so far: those that read one tensor share it.
    """
    high = conv.inputs[0]
    quantise = quantiser(high)
    assert quantise is not None, f"{conv.name} reads {high.name}, which comes from no Q/DQ pair"
    x, scale = quantise.inputs[0], quantise.inputs[1]
    if x.name not in lows:
        lows[x.name] = _low(graph, x, high, float(scale.values))
    output = conv.outputs[0]
    terms = [gs.Variable(f"{conv.name}.{part}", np.float32, output.shape) for part in ("high_term", "low_term")]
    conv.outputs = [terms[0]]
    graph.nodes += [
        gs.Node("Conv", low_name(conv.name), dict(conv.attrs), [lows[x.name], conv.inputs[1]], [terms[1]]),
        gs.Node("Add", f"{conv.name}.add_terms", inputs=terms, outputs=[output]),
    ]


def check(subtract: gs.Node) -> str | None:
    """Why a Sub with an INT8 side is not the one above, or None; None also of a Sub in float."""
    if not any(map(is_dequantised, subtract.inputs)):
        return None
    x, high = subtract.inputs
    pair = quantiser(high)
    if pair is None or pair.inputs[0] is not x or any(r.op != "QuantizeLinear" for r in subtract.outputs[0].outputs):
        return "it must be what one Q/DQ pair leaves over of its own input, and be quantised itself"
    return None


def _low(graph: gs.Graph, x: gs.Variable, high: gs.Variable, scale: float) -> gs.Variable:
    step = gs.Constant(f"{x.name}.low.scale", np.array(scale / LOW_LEVELS, np.float32))
    zero = gs.Constant(f"{x.name}.low.zero_point", np.array(0, np.int8))
    rest, levels, low = (
        gs.Variable(f"{x.name}.{part}", dtype, x.shape)
        for part, dtype in (("low", np.float32), ("low.int8", np.int8), ("low.dequantised", np.float32))
    )
    graph.nodes += [
        gs.Node("Sub", f"{x.name}.low.subtract", inputs=[x, high], outputs=[rest]),
        gs.Node("QuantizeLinear", f"{x.name}.low.quantise", inputs=[rest, step, zero], outputs=[levels]),
        gs.Node("DequantizeLinear", f"{x.name}.low.dequantise", inputs=[levels, step, zero], outputs=[low]),
    ]
    return low
