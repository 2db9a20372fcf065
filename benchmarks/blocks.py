"""Where a frame's time goes inside the network: time of every block, with its multiply-accumulates, or of every kind
of kernel, with its share.

    python -m segrd_edge.benchmarks.blocks bottle.segrd
    python -m segrd_edge.benchmarks.blocks bottle.segrd --by kind

OpenVINO counts the time of every kernel. A kernel belongs to the block of the convolution in it; what has no
convolution, such as the products of features, counts by its kind. By kind, convolutions are told apart by what they
compute in, INT8 or float. The graphs take turns, and the counters cost time of their own, so these are shares to
compare, not latencies; those come from segrd-bench. Where other programs share the processor, the least of all rounds
of every kernel is nearer to the truth than the median: --least.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnx
import typer
from rich.table import Table

from segrd_edge.bundle import Bundle
from segrd_edge.calibration.blocks import block_of
from segrd_edge.calibration.graph import multiply_accumulates
from segrd_edge.console import emit_json, json_option, new_table, print_table, run_command
from segrd_edge.engines.openvino import cpu_settings
from segrd_edge.engines.openvino_uint8 import use_uint8_activations
from segrd_edge.errors import OptionError

_WARM_UP = 3
_PRECISIONS = ("fp32", "int8")  # what OpenVINO runs on a processor
By = Literal["block", "kind"]
_Samples = defaultdict[tuple[str, str], list[float]]  # (row, kernel) → ms of every run


def command(
    bundle: Annotated[Path, typer.Argument(help="The .segrd file.", show_default=False)],
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each graph that count.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; default is OpenVINO's choice.")] = None,
    by: Annotated[
        By, typer.Option(help="A row for every block of the network, or for every kind of kernel.")
    ] = "block",
    least: Annotated[
        bool, typer.Option("--least", help="Of every kernel the least of all rounds, not the median.")
    ] = False,
    json: Annotated[bool, json_option] = False,
) -> None:
    """Time of every block of a bundle's network, or of every kind of kernel, in OpenVINO."""
    opened = Bundle.open(bundle)
    graphs: dict[str, bytes] = {name: opened.graph(name) for name in opened.manifest.graphs if name in _PRECISIONS}
    times = measure_kernels(graphs, rounds, threads, by=by, least=least)
    macs = block_macs(onnx.load_from_string(graphs["fp32"])) if by == "block" else {}
    table = _block_table(bundle.name, macs, times) if by == "block" else _kind_table(bundle.name, times)
    print_table(table, as_json=json)
    if json:
        emit_json({"bundle": bundle.name, "rounds": rounds, "by": by, "least": least, "macs": macs, "ms": times})


def _block_table(name: str, macs: Mapping[str, int], times: Mapping[str, dict[str, float]]) -> Table:
    table = new_table(f"{name}, OpenVINO, ms per frame", "block", "GMACs", *times)
    for block in dict.fromkeys([*macs, *(block for found in times.values() for block in found)]):
        cells = (f"{found[block]:.2f}" if block in found else "–" for found in times.values())
        table.add_row(block, f"{macs[block] / 1e9:.2f}" if block in macs else "–", *cells)
    table.add_row("sum", f"{sum(macs.values()) / 1e9:.2f}", *(f"{sum(found.values()):.2f}" for found in times.values()))
    return table


def _kind_table(name: str, times: Mapping[str, dict[str, float]]) -> Table:
    """The kinds that take longest in the last precision first, each with its share of its column."""
    columns = (head for precision in times for head in (precision, "share"))
    table = new_table(f"{name}, OpenVINO, ms per frame", "kernels", *columns)
    sums = {precision: sum(found.values()) for precision, found in times.items()}
    *_, last = times.values()
    for kind in sorted({kind for found in times.values() for kind in found}, key=lambda kind: -last.get(kind, 0.0)):
        cells = ((f"{found.get(kind, 0):.2f}", f"{found.get(kind, 0) / sums[p]:.1%}") for p, found in times.items())
        table.add_row(kind, *(cell for pair in cells for cell in pair))
    table.add_row("sum", *(cell for total in sums.values() for cell in (f"{total:.2f}", "100%")))
    return table


def block_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Block → multiply-accumulates per frame, in the graph's order."""
    macs: Counter[str] = Counter()
    for node, count in multiply_accumulates(model).items():
        macs[block_of(node)] += count
    return dict(macs)


def measure_kernels(
    graphs: Mapping[str, bytes], rounds: int, threads: int | None = None, *, by: By = "block", least: bool = False
) -> dict[str, dict[str, float]]:
    """Precision → block, or kind of kernel → ms per run, the medians of its kernels, on noise as image.

    By block, kernels without a convolution are "other: KIND".

    Args:
        least: of every kernel the least of all rounds instead of the median.

    Raises:
        OptionError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise OptionError(
            "OpenVINO is not installed, and its counters are what this shows", fix="pip install 'segrd-edge[openvino]'"
        ) from error
    core = openvino.Core()
    requests: dict[str, Any] = {}
    rows: dict[str, Callable[[Any], str]] = {}
    for precision, graph in graphs.items():
        model = core.read_model(graph)
        use_uint8_activations(model)
        compiled = core.compile_model(model, "CPU", {"PERF_COUNT": True, **cpu_settings(threads)})
        nodes = onnx.load_from_string(graph).graph.node
        convolutions = {node.name for node in nodes if node.op_type == "Conv"}
        rows[precision] = kind_of if by == "kind" else partial(_owner, convolutions=convolutions)
        requests[precision] = compiled.create_infer_request()
        shape = compiled.inputs[0].shape
        image = np.random.default_rng(0).integers(0, 256, tuple(shape), np.uint8)
        requests[precision].set_input_tensor(openvino.Tensor(image))
    samples: dict[str, _Samples] = {precision: defaultdict(list) for precision in graphs}
    for number in range(_WARM_UP + rounds):
        for precision, request in requests.items():
            request.infer()
            if number >= _WARM_UP:
                _add(samples[precision], request.profiling_info, rows[precision])
    return {precision: _by_row(found, np.min if least else np.median) for precision, found in samples.items()}


def owner_of(kernel: str, kind: str, convolutions: set[str]) -> str:
    """The block that a kernel's time counts for. A convolution with a bias has a suffix in OpenVINO."""
    name = kernel.removesuffix("/WithoutBiases")
    return block_of(name) if name in convolutions else f"other: {kind}"


def kind_of(kernel: Any) -> str:
    """What a kernel of `profiling_info` does, and in what: convolutions in INT8, MaxPool in float."""
    kind = "convolutions" if kernel.node_type == "Convolution" else kernel.node_type
    return f"{kind} in {'INT8' if kernel.exec_type.endswith('_I8') else 'float'}"


def _owner(kernel: Any, convolutions: set[str]) -> str:
    return owner_of(kernel.node_name, kernel.node_type, convolutions)


def _add(samples: _Samples, profiled: Iterable[Any], row_of: Callable[[Any], str]) -> None:
    """Add one run's kernels."""
    for kernel in profiled:
        ms = kernel.real_time.total_seconds() * 1e3
        if ms > 0:
            samples[row_of(kernel), kernel.node_name].append(ms)


def _by_row(samples: _Samples, summary: Callable[[Sequence[float]], Any]) -> dict[str, float]:
    """Row → sum over its kernels."""
    total: defaultdict[str, float] = defaultdict(float)
    for (row, _), values in samples.items():
        total[row] += float(summary(values))
    return dict(total)


if __name__ == "__main__":
    run_command(command, name="blocks", example="python -m segrd_edge.benchmarks.blocks bottle.segrd")
