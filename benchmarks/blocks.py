"""Where a frame's time goes inside the network: multiply-accumulates and time of every block.

    python -m segrd_edge.benchmarks.blocks bottle.segrd

OpenVINO counts the time of every kernel. A kernel belongs to the block of the convolution in it; what has no
convolution, such as the products of features, counts by its kind. The graphs take turns, and the counters cost time of
their own, so these are shares to compare, not latencies; those come from segrd-bench.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer

from segrd_edge.bundle import Bundle
from segrd_edge.calibration.blocks import block_of
from segrd_edge.calibration.graph import multiply_accumulates
from segrd_edge.console import emit_json, json_option, new_table, print_table, run_command
from segrd_edge.engines.openvino import cpu_settings
from segrd_edge.engines.openvino_uint8 import use_uint8_activations
from segrd_edge.errors import OptionError

_WARM_UP = 3
_PRECISIONS = ("fp32", "int8")  # what OpenVINO runs on a processor


def command(
    bundle: Annotated[Path, typer.Argument(help="The .segrd file.", show_default=False)],
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each graph that count.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; default is OpenVINO's choice.")] = None,
    json: Annotated[bool, json_option] = False,
) -> None:
    """Multiply-accumulates and time of every block of a bundle's network, in OpenVINO."""
    opened = Bundle.open(bundle)
    graphs: dict[str, bytes] = {name: opened.graph(name) for name in opened.manifest.graphs if name in _PRECISIONS}
    macs = block_macs(onnx.load_from_string(graphs["fp32"]))
    times = measure_blocks(graphs, rounds, threads)
    rows = dict.fromkeys([*macs, *(block for found in times.values() for block in found)])
    table = new_table(f"{bundle.name}, OpenVINO, ms per frame", "block", "GMACs", *graphs)
    for block in rows:
        cells = (f"{found[block]:.2f}" if block in found else "–" for found in times.values())
        table.add_row(block, f"{macs[block] / 1e9:.2f}" if block in macs else "–", *cells)
    table.add_row("sum", f"{sum(macs.values()) / 1e9:.2f}", *(f"{sum(found.values()):.2f}" for found in times.values()))
    print_table(table, as_json=json)
    if json:
        emit_json({"bundle": bundle.name, "rounds": rounds, "macs": macs, "ms": times})


def block_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Block → multiply-accumulates per frame, in the graph's order."""
    macs: Counter[str] = Counter()
    for node, count in multiply_accumulates(model).items():
        macs[block_of(node)] += count
    return dict(macs)


def measure_blocks(graphs: Mapping[str, bytes], rounds: int, threads: int | None = None) -> dict[str, dict[str, float]]:
    """Precision → block → median ms per run, on noise as image. Kernels without a convolution are "other: KIND".

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
    requests, convolutions = {}, {}
    for precision, graph in graphs.items():
        model = core.read_model(graph)
        use_uint8_activations(model)
        compiled = core.compile_model(model, "CPU", {"PERF_COUNT": True, **cpu_settings(threads)})
        nodes = onnx.load_from_string(graph).graph.node
        convolutions[precision] = {node.name for node in nodes if node.op_type == "Conv"}
        requests[precision] = compiled.create_infer_request()
        shape = compiled.inputs[0].shape
        image = np.random.default_rng(0).integers(0, 256, tuple(shape), np.uint8)
        requests[precision].set_input_tensor(openvino.Tensor(image))
    samples: dict[str, dict[str, list[float]]] = {precision: {} for precision in graphs}
    for number in range(_WARM_UP + rounds):
        for precision, request in requests.items():
            request.infer()
            if number >= _WARM_UP:
                _add(samples[precision], request.profiling_info, convolutions[precision])
    return {
        precision: {block: float(np.median(values)) for block, values in found.items()}
        for precision, found in samples.items()
    }


def owner_of(kernel: str, kind: str, convolutions: set[str]) -> str:
    """The block that a kernel's time counts for. A convolution with a bias has a suffix in OpenVINO."""
    name = kernel.removesuffix("/WithoutBiases")
    return block_of(name) if name in convolutions else f"other: {kind}"


def _add(samples: dict[str, list[float]], profiled: Iterable[Any], convolutions: set[str]) -> None:
    """Add one run's kernels, summed by block."""
    total: defaultdict[str, float] = defaultdict(float)
    for kernel in profiled:
        ms = kernel.real_time.total_seconds() * 1e3
        if ms > 0:
            total[owner_of(kernel.node_name, kernel.node_type, convolutions)] += ms
    for block, ms in total.items():
        samples.setdefault(block, []).append(ms)


if __name__ == "__main__":
    run_command(command, name="blocks", example="python -m segrd_edge.benchmarks.blocks bottle.segrd")
