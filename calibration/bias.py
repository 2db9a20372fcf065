"""Bias correction: take out of a convolution's output what INT8 shifts it by on average.

    b'[c] = b[c] + mean over frames and pixels of ( conv(x, w)[c] − conv(Q(x), Q(w))[c] )

The rounding errors of a kernel's weights do not cancel where its inputs are all positive, as behind a ReLU: a channel
is then off by a constant, and clipping Q(x) adds to it (Nagel et al., ICCV 2019, section 4.2). The paper lets x be what
the INT8 network itself gives, layer after layer, which takes a pass over the frames for each. Here it is the float
network's: the convolutions then know nothing of each other, one pass serves all, and once those in front are corrected
too, the means agree to first order. What it brings, and what it does not: docs/int8.md, "Improving the weights".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from .graph import read_graph, write_graph
from .plan import Plan
from .progress import Track, untracked
from .quantise import draft
from .ranges import Ranges
from .session import GraphSession

_Shift = npt.NDArray[np.float64]  # one value per output channel


def correct_biases(model: onnx.ModelProto, shifts: Mapping[str, _Shift]) -> onnx.ModelProto:
    """A copy of the float `model`, to be quantised by the plan that the shifts are of, and good for nothing else.

    Args:
        shifts: of `output_shifts`. Each is added to its convolution's bias; one that has none gets one.
    """
    graph = read_graph(model)
    for conv in graph.nodes:
        if conv.name in shifts:
            before = conv.inputs[2].values if len(conv.inputs) > 2 else 0
            bias = gs.Constant(f"{conv.name}.bias_corrected", (before + shifts[conv.name]).astype(np.float32))
            conv.inputs = [*conv.inputs[:2], bias]
    return write_graph(graph)


def output_shifts(
    model: onnx.ModelProto,
    ranges: Ranges,
    plan: Plan,
    images_bgr_u8: Sequence[npt.NDArray[np.uint8]],
    *,
    track: Track = untracked,
) -> dict[str, _Shift]:
    """Of every convolution in `plan`, by how much its output is too small in INT8: a mean per output channel.

    Args:
        model: the float graph that `quantise(model, ranges, plan)` takes.
        images_bgr_u8: calibration frames as network images (h×w×3), at least one.
        track: wraps them, for a progress bar.
    """
    names = list(plan.quantised)
    ranges = replace(ranges, weights={_copy(name): values for name, values in ranges.weights.items()})
    session = GraphSession(draft(_compared(model, plan), ranges, _plan_of_copies(plan)), [_shift(n) for n in names])
    sums: list[_Shift] | None = None
    for image in track(images_bgr_u8, "comparing convolutions with INT8"):
        shifts = [shift.astype(np.float64) for shift in session.run(image)]
        sums = shifts if sums is None else [a + b for a, b in zip(sums, shifts, strict=True)]
    means = [total / len(images_bgr_u8) for total in sums or []]
    return dict(zip(names, means, strict=True))


def _compared(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """The float graph with a copy beside every planned convolution, and the mean difference of the two as output."""
    graph = read_graph(model)
    graph.outputs = [_compare(graph, conv) for conv in list(graph.nodes) if conv.name in plan.quantised]
    return gs.export_onnx(graph.cleanup().toposort())


def _compare(graph: gs.Graph, conv: gs.Node) -> gs.Variable:
    float_output = conv.outputs[0]
    copied, difference = (gs.Variable(f"{conv.name}.{part}", np.float32) for part in ("copied", "difference"))
    shift = gs.Variable(_shift(conv.name), np.float32)
    weight = gs.Constant(f"{_copy(conv.name)}.weight", conv.inputs[1].values)
    inputs = [conv.inputs[0], weight, *conv.inputs[2:]]
    axes = gs.Constant(f"{conv.name}.shift_axes", np.array([0, 2, 3], np.int64))
    graph.nodes += [
        gs.Node("Conv", _copy(conv.name), dict(conv.attrs), inputs, [copied]),
        gs.Node("Sub", f"{conv.name}.subtract", inputs=[float_output, copied], outputs=[difference]),
        gs.Node("ReduceMean", f"{conv.name}.average", {"keepdims": 0}, [difference, axes], [shift]),
    ]
    return shift


def _plan_of_copies(plan: Plan) -> Plan:
    """Only the copies run in INT8: each reads float values, rounded as they would be behind an INT8 network."""
    return Plan(
        tuple(_copy(name) for name in plan.quantised),
        dict.fromkeys(plan.quantised, "what its copy is compared with"),
        {_copy(name): why for name, why in plan.two_term.items()},
    )


def _copy(name: str) -> str:
    return f"{name}.copy"


def _shift(name: str) -> str:
    return f"{name}.shift"
