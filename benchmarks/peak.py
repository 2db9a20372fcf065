"""The share of the processor's INT8 peak that a bundle's network reaches, and where the rest of the time goes.

    python -m segrd_edge.benchmarks.peak bottle.segrd

The peak is what OpenVINO reaches on this machine with layers that are nothing but work: wide convolutions and a large
product of matrices, in INT8, the best of them. They take turns with the bundle's INT8 graph, so that whatever else the
machine does slows both down. What the network's convolutions would take at that rate is one part of its time; the rest
is what they take longer, convolutions that the plan leaves in float, kernels that are no convolutions, and what lies
between kernels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import typer
from rich.table import Table

from segrd_edge import machine
from segrd_edge.bundle import Bundle
from segrd_edge.calibration.blocks import block_of
from segrd_edge.calibration.graph import OPSET, multiply_accumulates, write_graph
from segrd_edge.console import emit_json, json_option, new_table, print_table, run_command
from segrd_edge.errors import OptionError

from .blocks import Profile, measure_kernels

_INT8 = "int8"
_SIDE, _ROWS = 32, 2048  # of the references' feature maps and matrices
_WIDTHS = (128, 256, 512)  # channels of the reference convolutions; which is fastest depends on the caches
_MATRIX = 1024
_SECOND = "second"


@dataclass(frozen=True)
class Share:
    """Where the time of one run goes, in ms. `at_peak` and the four behind it are all of `run`."""

    gmacs: float  # of all convolutions, those in two terms counted twice
    peak_gmacs_per_s: float
    peak_layer: str  # the reference that reached it
    run: float
    at_peak: float  # what the convolutions in INT8 would take at the peak
    int8_below_peak: float  # what they take longer than that
    float_convolutions: float
    other_kernels: float
    between_kernels: float

    @property
    def of_peak(self) -> float:
        """The whole run's share of the peak."""
        return self.at_peak / self.run


@dataclass(frozen=True)
class Block:
    """One block's convolutions in INT8."""

    gmacs: float
    ms: float
    of_peak: float
    lost_ms: float  # beyond what the peak would take


def command(
    bundle: Annotated[Path, typer.Argument(help="The .segrd file.", show_default=False)],
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each graph that count.")] = 40,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; default is OpenVINO's choice.")] = None,
    least: Annotated[bool, typer.Option("--least", help="Of five sittings the fastest, not the median.")] = False,
    json: Annotated[bool, json_option] = False,
) -> None:
    """Share of the INT8 peak that a bundle's INT8 network reaches in OpenVINO, and where the rest goes."""
    opened = Bundle.open(bundle)
    if _INT8 not in opened.manifest.graphs:
        raise OptionError(f"{bundle} has no INT8 graph", fix="export it with --int8")
    graph = opened.graph(_INT8)
    share, blocks = measure(graph, rounds, threads, least=least)
    print_table(_share_table(bundle.name, share), as_json=json)
    print_table(_block_table(blocks), as_json=json)
    if json:
        emit_json(
            {
                "bundle": bundle.name,
                "machine": machine.cpu(),
                "openvino": machine.package_version("openvino"),
                "threads": threads,
                "rounds": rounds,
                "least": least,
                **asdict(share),
                "of_peak": share.of_peak,
                "blocks": {name: asdict(block) for name, block in blocks.items()},
            }
        )


def measure(
    graph: bytes, rounds: int, threads: int | None = None, *, least: bool = False
) -> tuple[Share, dict[str, Block]]:
    """An INT8 deploy graph beside the references: its share of the peak, and that of every block in INT8.

    Args:
        least: as of `blocks.measure_kernels`.

    Raises:
        OptionError: OpenVINO is not installed.
    """
    layers = references()
    graphs = {_INT8: graph, **{name: model.SerializeToString() for name, (model, _) in layers.items()}}
    profiles = measure_kernels(graphs, rounds, threads, least=least)
    rates = {name: _rate(profiles[name], macs) for name, (_, macs) in layers.items()}
    fastest = max(rates, key=rates.__getitem__)
    macs = multiply_accumulates(onnx.load_from_string(graph))
    return account(profiles[_INT8], macs, rates[fastest], fastest), blocks(profiles[_INT8], macs, rates[fastest])


def account(profile: Profile, macs: Mapping[str, int], peak: float, layer: str) -> Share:
    """Divide one run's time.

    Args:
        macs: convolution → multiply-accumulates.
        peak: multiply-accumulates per ms.
        layer: what reached it.
    """
    in_int8 = profile.int8_convolutions
    int8_ms = sum(kernel.ms for kernel in in_int8)
    convolutions_ms = sum(kernel.ms for kernel in profile.kernels if kernel.is_convolution)
    at_peak = sum(macs[kernel.node] for kernel in in_int8) / peak
    return Share(
        gmacs=sum(macs.values()) / 1e9,
        peak_gmacs_per_s=peak / 1e6,
        peak_layer=layer,
        run=profile.run_ms,
        at_peak=at_peak,
        int8_below_peak=int8_ms - at_peak,
        float_convolutions=convolutions_ms - int8_ms,
        other_kernels=sum(kernel.ms for kernel in profile.kernels) - convolutions_ms,
        between_kernels=profile.between_ms,
    )


def blocks(profile: Profile, macs: Mapping[str, int], peak: float) -> dict[str, Block]:
    """Block → its convolutions in INT8, those first that lose the most time. Arguments as of `account`."""
    work: defaultdict[str, float] = defaultdict(float)
    times: defaultdict[str, float] = defaultdict(float)
    for kernel in profile.int8_convolutions:
        work[block_of(kernel.node)] += macs[kernel.node]
        times[block_of(kernel.node)] += kernel.ms
    found = {
        name: Block(work[name] / 1e9, ms, work[name] / peak / ms, ms - work[name] / peak) for name, ms in times.items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].lost_ms))


def references() -> dict[str, tuple[onnx.ModelProto, int]]:
    """Name → an INT8 graph of two equal layers, of which the second counts, and the second's multiply-accumulates.

    The first layer is there for the second to have what layers in a network have: an input that a kernel wrote.
    """
    found = {}
    for width in _WIDTHS:
        name = f"convolution 3×3, {width} channels, {_SIDE}×{_SIDE}"
        found[name] = _reference("Conv", (1, width, _SIDE, _SIDE), (width, width, 3, 3), {"pads": [1, 1, 1, 1]})
    name = f"product of matrices, {_ROWS}×{_MATRIX} by {_MATRIX}×{_MATRIX}"
    found[name] = _reference("MatMul", (_ROWS, _MATRIX), (_MATRIX, _MATRIX), {})
    return found


def _reference(
    op: str, shape: tuple[int, ...], weight_shape: tuple[int, ...], attributes: dict[str, Any]
) -> tuple[onnx.ModelProto, int]:
    graph = gs.Graph(opset=OPSET)
    image = gs.Variable("image", np.uint8, shape)
    graph.inputs = [image]
    tensor = _node(graph, "DequantizeLinear", "image.dq", image, *_scale("image", 0.05, np.uint8(128)))
    generator = np.random.default_rng(0)
    for layer in ("first", _SECOND):
        values = gs.Constant(f"{layer}.values", generator.integers(-127, 128, weight_shape).astype(np.int8))
        scale = _scale(f"{layer}.weight", 1e-4, np.int8(0))
        weight = _node(graph, "DequantizeLinear", f"{layer}.weight.dq", values, *scale)
        tensor = _node(graph, "Relu", f"{layer}.relu", _node(graph, op, layer, tensor, weight, **attributes))
        scale = _scale(layer, 0.05, np.int8(0))
        code = _node(graph, "QuantizeLinear", f"{layer}.q", tensor, *scale)
        tensor = _node(graph, "DequantizeLinear", f"{layer}.dq", code, *scale)
    tensor.dtype = np.float32
    graph.outputs = [tensor]
    return write_graph(graph), int(np.prod(shape) * np.prod(weight_shape) // weight_shape[0])


def _node(graph: gs.Graph, op: str, name: str, *inputs: gs.Tensor, **attributes: Any) -> gs.Variable:
    (output,) = graph.layer(op=op, name=name, inputs=list(inputs), outputs=[f"{name}.out"], attrs=attributes)
    return output


def _scale(name: str, step: float, zero: np.uint8 | np.int8) -> tuple[gs.Constant, gs.Constant]:
    scale = gs.Constant(f"{name}.scale", np.array(step, np.float32))
    return scale, gs.Constant(f"{name}.zero", np.array(zero))


def _rate(profile: Profile, macs: int) -> float:
    """Multiply-accumulates per ms of a reference's second layer; 0 where the engine does not run it in INT8."""
    kernels = [kernel for kernel in profile.kernels if kernel.is_int8 and kernel.node.startswith(_SECOND)]
    return macs / max((kernel.ms for kernel in kernels), default=np.inf)


def _share_table(name: str, share: Share) -> Table:
    title = f"{name}, INT8, OpenVINO: {share.of_peak:.0%} of {share.peak_gmacs_per_s:.0f} GMAC/s ({share.peak_layer})"
    table = new_table(title, "time of a run", "ms", "share")
    for what, ms in (
        (f"its {share.gmacs:.2f} GMACs, those in INT8 at the peak", share.at_peak),
        ("convolutions in INT8, beyond that", share.int8_below_peak),
        ("convolutions in float", share.float_convolutions),
        ("other kernels", share.other_kernels),
        ("between kernels, and counting", share.between_kernels),
        ("all", share.run),
    ):
        table.add_row(what, f"{ms:.2f}", f"{ms / share.run:.1%}")
    return table


def _block_table(blocks: Mapping[str, Block]) -> Table:
    table = new_table("its blocks in INT8", "block", "GMACs", "ms", "of the peak", "ms beyond the peak's")
    for name, block in blocks.items():
        table.add_row(name, f"{block.gmacs:.2f}", f"{block.ms:.2f}", f"{block.of_peak:.0%}", f"{block.lost_ms:.2f}")
    return table


if __name__ == "__main__":
    run_command(command, name="peak", example="python -m segrd_edge.benchmarks.peak bottle.segrd")
