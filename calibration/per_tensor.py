"""Which way from a histogram to a scale is best for each tensor, by the error that it causes at the model's output.

No rule about a tensor's own values says that: where defects are the rare large values, clipping them costs the verdict
what it saves in rounding, and elsewhere it is free. So it is measured. One graph has a switch at every tensor that gets
a scale,

    x ─┬─────────────────────────── If(which = k) ─► readers        which, scale: inputs of the graph
       └─ round to INT8 with scale ─┘

and with one tensor rounded and all else in float, the difference of map and score is that tensor's doing. Errors of
tensors that are rounded together add up as squares where they have nothing to do with each other; so

    1. each tensor is tried with the default method alone;
    2. those that together cause all but NEGLIGIBLE of the squared error are tried with the other methods too, where
       these differ at all: the rest could not gain more than NEGLIGIBLE whatever they had;
    3. each takes its best, if that is better than the default by more than the error of measuring.

On a trained DeSTSeg (bottle, 256×256, 32 frames) five of 61 tensors cause nine tenths of the error. Another method for
four of these moved the scores of 24 real test images by 0.027 on average, where the default for all moved them by 0.043
and the next best single method, mse, by 0.040; for six of metal_plate's, by 0.037 instead of 0.193. Everything in INT8,
OpenVINO; about a minute of processor time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.engines import EngineOutput

from .drift import Scale
from .graph import IR_VERSION, read_graph
from .histogram import Histogram
from .plan import Plan
from .progress import Track, untracked
from .quantise import INT8_MAX, sites_of
from .ranges import DEFAULT_METHOD, FixedMethod, Ranges, to_ranges
from .session import GraphSession

PROBES = 2  # frames that are measured on
NEGLIGIBLE = 0.02  # share of the squared error that is not worth a second look
ALIKE = 0.05  # relative difference of two ranges below which they are one
LEAST_GAIN = 0.1  # of a tensor's squared error: less is chance
_TINY = 1e-12

Images = Sequence[npt.NDArray[np.uint8]]


def choose_ranges(
    model: onnx.ModelProto,
    plan: Plan,
    histograms: Mapping[str, Histogram],
    percentile: float,
    images_bgr_u8: Images,
    reference: Sequence[EngineOutput],
    scale: Scale,
    *,
    track: Track = untracked,
) -> Ranges:
    """Ranges by whichever method suits each tensor.

    Args:
        model: the float graph that will be quantised by `plan`.
        histograms: of the tensors that get a scale; those that `plan` does not need keep the default.
        percentile: that of the default method.
        images_bgr_u8, reference: calibration frames, and what the float graph gives for them.
        scale: of the results.
        track: wraps the trials, for a progress bar.
    """
    by_method = {method: to_ranges(histograms, method, percentile).largest for method in get_args(FixedMethod)}
    switched = Switched(model, plan)
    tensors = [name for name in switched.tensors if by_method[DEFAULT_METHOD].get(name, 0) > 0]
    probes = _probes(images_bgr_u8, reference)
    wanted = [probe.reference for probe in probes]

    def error(name: str, method: FixedMethod) -> float:
        given = [switched.run(probe.image_bgr_u8, name, by_method[method][name]) for probe in probes]
        return relative_error(wanted, given, scale)

    errors = {
        name: {DEFAULT_METHOD: error(name, DEFAULT_METHOD)} for name in track(tensors, "rounding each tensor alone")
    }
    for name in track(_worth_it(errors), "trying other ranges"):
        for method in _different({method: largest[name] for method, largest in by_method.items()}):
            errors[name][method] = error(name, method)
    chosen = {name: _best(errors[name]) if name in errors else DEFAULT_METHOD for name in histograms}
    largest = {name: by_method[method][name] for name, method in chosen.items()}
    return Ranges(largest, "per-tensor", percentile, chosen)


class Switched:
    """The float graph with a switch at every tensor that `plan` gives a scale; loaded at the first run."""

    def __init__(self, model: onnx.ModelProto, plan: Plan) -> None:
        graph = read_graph(model)
        sites = sites_of(graph, plan)
        which, scale = gs.Variable("which", np.int64, (1,)), gs.Variable("scale", np.float32, ())
        graph.inputs += [which, scale]
        tensors = {site.tensor.name: site.tensor for site in sites}
        self.tensors = list(tensors)
        rounded = {t.name: _switch(graph, t, k, which, scale) for k, t in enumerate(tensors.values())}
        for site in sites:
            site.node.inputs[site.index] = rounded[site.tensor.name]
        switched = gs.export_onnx(graph.cleanup().toposort())
        switched.ir_version = IR_VERSION
        self._session = GraphSession(switched, ["score", "anomaly_map"])

    def run(self, image_bgr_u8: npt.NDArray[np.uint8], name: str, largest: float) -> EngineOutput:
        """What a network image gives where the tensor `name` is rounded to INT8 that reaches to ±`largest`."""
        which = np.array([self.tensors.index(name)], np.int64)
        score, anomaly_map = self._session.run(
            image_bgr_u8, which=which, scale=np.array(largest / INT8_MAX, np.float32)
        )
        return EngineOutput(float(score[0]), anomaly_map[0])


def _switch(graph: gs.Graph, tensor: gs.Variable, number: int, which: gs.Variable, scale: gs.Variable) -> gs.Variable:
    """Add the switch of one tensor to the graph; what its readers then read."""
    name = tensor.name
    zero = gs.Constant(f"{name}.zero_point", np.array(0, np.int8))
    chosen = gs.Variable(f"{name}.is_chosen", np.bool_, (1,))
    levels, rounded, same, output = (
        gs.Variable(f"{name}.{part}", dtype, tensor.shape)
        for part, dtype in (("int8", np.int8), ("rounded", np.float32), ("same", np.float32), ("switched", np.float32))
    )
    pair = [
        gs.Node("QuantizeLinear", f"{name}.quantise", inputs=[tensor, scale, zero], outputs=[levels]),
        gs.Node("DequantizeLinear", f"{name}.dequantise", inputs=[levels, scale, zero], outputs=[rounded]),
    ]
    branches = {
        "then_branch": gs.Graph(pair, outputs=[rounded], name=f"{name}.then", opset=graph.opset),
        "else_branch": gs.Graph(
            [gs.Node("Identity", f"{name}.keep", inputs=[tensor], outputs=[same])],
            outputs=[same], name=f"{name}.else", opset=graph.opset,
        ),
    }  # fmt: skip
    constant = gs.Constant(f"{name}.number", np.array([number], np.int64))
    graph.nodes += [
        gs.Node("Equal", f"{name}.choose", inputs=[which, constant], outputs=[chosen]),
        gs.Node("If", f"{name}.switch", branches, inputs=[chosen], outputs=[output]),
    ]
    return output


@dataclass(frozen=True)
class _Probe:
    """A frame that errors are measured on."""

    image_bgr_u8: npt.NDArray[np.uint8]
    reference: EngineOutput


def _probes(images: Images, reference: Sequence[EngineOutput]) -> list[_Probe]:
    """PROBES frames, evenly from the lowest score to the highest but neither of these: there a map is often saturated,
    and shows nothing."""
    order = np.argsort([output.score for output in reference])
    chosen = [int(order[(2 * k + 1) * len(order) // (2 * PROBES)]) for k in range(PROBES)]
    return [_Probe(images[i], reference[i]) for i in dict.fromkeys(chosen)]


def relative_error(reference: Sequence[EngineOutput], outputs: Sequence[EngineOutput], scale: Scale) -> float:
    """Squared difference from `reference` over its squared size, of the scores plus of the maps, all on `scale`.

    Sums over all frames stand on both sides, so that a frame whose map shows nothing adds its error and no more.
    """
    before, after = ([scale(output) for output in results] for results in (reference, outputs))
    scores = [np.array([[output.score] for output in results]) for results in (before, after)]
    maps = [np.stack([output.anomaly_map for output in results]) for results in (before, after)]
    return sum(float(np.square(b - a).sum()) / max(float(np.square(a).sum()), _TINY) for a, b in (scores, maps))


def _worth_it(errors: Mapping[str, Mapping[FixedMethod, float]]) -> list[str]:
    """The tensors with the greatest default errors, as many as cause all but NEGLIGIBLE of the sum."""
    order = sorted(errors, key=lambda name: -errors[name][DEFAULT_METHOD])
    sums = np.cumsum([errors[name][DEFAULT_METHOD] for name in order])
    return order[: int(np.searchsorted(sums, (1 - NEGLIGIBLE) * sums[-1])) + 1] if order and sums[-1] > 0 else []


def _different(largest: Mapping[FixedMethod, float]) -> list[FixedMethod]:
    """The methods but the default whose range is none that is there already."""
    kept: list[FixedMethod] = [DEFAULT_METHOD]
    for method, reach in largest.items():
        if reach > 0 and all(abs(reach / largest[other] - 1) > ALIKE for other in kept):
            kept.append(method)
    return kept[1:]


def _best(errors: Mapping[FixedMethod, float]) -> FixedMethod:
    best = min(errors, key=lambda method: errors[method])
    return best if errors[best] < (1 - LEAST_GAIN) * errors[DEFAULT_METHOD] else DEFAULT_METHOD
