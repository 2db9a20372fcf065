"""Where a frame's time goes inside the network: time of every block, with its multiply-accumulates, or of every kind
of kernel, with its share.

    python -m segrd_edge.benchmarks.blocks bottle.segrd
    python -m segrd_edge.benchmarks.blocks bottle.segrd --by kind

OpenVINO counts the time of every kernel. A kernel belongs to the block of the convolution in it; what has no
convolution, such as the products of features, counts by its kind. By kind, convolutions are told apart by what they
compute in, INT8 or float. The graphs take turns, and the counters cost time of their own, so these are shares to
compare, not latencies; those come from segrd-bench. The runs are spread over five sittings, and each graph's median one
counts. Where other programs share the processor, the fastest is nearer to the truth: --least.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
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

_WARM_UP = 3  # runs, of every sitting
_SITTINGS = 5
_PRECISIONS = ("fp32", "int8")  # what OpenVINO runs on a processor
By = Literal["block", "kind"]


def command(
    bundle: Annotated[Path, typer.Argument(help="The .segrd file.", show_default=False)],
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each graph that count.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; default is OpenVINO's choice.")] = None,
    by: Annotated[
        By, typer.Option(help="A row for every block of the network, or for every kind of kernel.")
    ] = "block",
    least: Annotated[bool, typer.Option("--least", help="Of five sittings the fastest, not the median.")] = False,
    json: Annotated[bool, json_option] = False,
) -> None:
    """Time of every block of a bundle's network, or of every kind of kernel, in OpenVINO."""
    opened = Bundle.open(bundle)
    graphs: dict[str, bytes] = {name: opened.graph(name) for name in opened.manifest.graphs if name in _PRECISIONS}
    profiles = measure_kernels(graphs, rounds, threads, least=least)
    times = {
        name: by_kind(profile) if by == "kind" else by_block(profile, convolutions_of(graphs[name]))
        for name, profile in profiles.items()
    }
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


@dataclass(frozen=True)
class Kernel:
    """What OpenVINO runs as one step, and how long that takes."""

    name: str
    node_type: str
    exec_type: str
    ms: float

    @property
    def is_convolution(self) -> bool:
        return self.node_type == "Convolution"

    @property
    def is_int8(self) -> bool:
        return self.exec_type.endswith("_I8")

    @property
    def node(self) -> str:
        """The node of the graph. A convolution with a bias has a suffix in OpenVINO."""
        return self.name.removesuffix("/WithoutBiases")


@dataclass(frozen=True)
class Profile:
    """One graph's kernels, and the whole run that they are part of."""

    kernels: Sequence[Kernel]
    run_ms: float

    @property
    def int8_convolutions(self) -> list[Kernel]:
        return [kernel for kernel in self.kernels if kernel.is_convolution and kernel.is_int8]

    @property
    def between_ms(self) -> float:
        """What no kernel counts: starting them, and the counters themselves."""
        return self.run_ms - sum(kernel.ms for kernel in self.kernels)


def measure_kernels(
    graphs: Mapping[str, bytes], rounds: int, threads: int | None = None, *, least: bool = False
) -> dict[str, Profile]:
    """Graph → its kernels, each with its time, on noise as image; the graphs take turns.

    OpenVINO tells the mean of a kernel's runs, those of warming up included, so the graphs are compiled anew for each
    of five sittings, and what warming up took is subtracted. The sitting in which a graph took its median time counts,
    with all its kernels, so that they add up.

    Args:
        rounds: runs of each graph that count, in all sittings together.
        least: the sitting in which a graph took the least time instead.

    Raises:
        OptionError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise OptionError(
            "OpenVINO is not installed, and its counters are what this shows", fix="pip install 'segrd-edge[openvino]'"
        ) from error
    core, parts = openvino.Core(), np.array_split(range(rounds), min(_SITTINGS, rounds))
    sittings = [_sit(core, graphs, len(part), threads) for part in parts]
    by_run_ms = {name: sorted((found[name] for found in sittings), key=lambda p: p.run_ms) for name in graphs}
    return {name: profiles[0 if least else len(profiles) // 2] for name, profiles in by_run_ms.items()}


def _sit(core: Any, graphs: Mapping[str, bytes], rounds: int, threads: int | None) -> dict[str, Profile]:
    requests = {name: _request(core, graph, threads) for name, graph in graphs.items()}
    _run(requests, _WARM_UP)
    before = {name: _kernel_means_ms(request) for name, request in requests.items()}
    runs_ms = _run(requests, rounds)
    found = {}
    for name, request in requests.items():
        totals = {kernel: ms * (_WARM_UP + rounds) for kernel, ms in _kernel_means_ms(request).items()}
        counted = {kernel: total - before[name].get(kernel, 0.0) * _WARM_UP for kernel, total in totals.items()}
        kernels = [Kernel(*kernel, max(ms / rounds, 0.0)) for kernel, ms in counted.items()]
        found[name] = Profile(kernels, runs_ms[name])
    return found


def _request(core: Any, graph: bytes, threads: int | None) -> Any:
    import openvino

    model = core.read_model(graph)
    use_uint8_activations(model)
    compiled = core.compile_model(model, "CPU", {"PERF_COUNT": True, **cpu_settings(threads)})
    request, shape = compiled.create_infer_request(), compiled.inputs[0].shape
    image = np.random.default_rng(0).integers(0, 256, tuple(shape), np.uint8)
    request.set_input_tensor(openvino.Tensor(image))
    return request


def _run(requests: Mapping[str, Any], rounds: int) -> dict[str, float]:
    """Let the graphs take turns; the mean ms of each one's runs."""
    total = dict.fromkeys(requests, 0.0)
    for _ in range(rounds):
        for name, request in requests.items():
            start = perf_counter()
            request.infer()
            total[name] += (perf_counter() - start) * 1e3
    return {name: ms / rounds for name, ms in total.items()}


def _kernel_means_ms(request: Any) -> dict[tuple[str, str, str], float]:
    """Kernel's name and types → mean of all its runs since the graph was compiled: OpenVINO never starts anew."""
    return {
        (kernel.node_name, kernel.node_type, kernel.exec_type): kernel.real_time.total_seconds() * 1e3
        for kernel in request.profiling_info
        if kernel.real_time
    }


def by_block(profile: Profile, convolutions: Container[str]) -> dict[str, float]:
    """Block → ms of its convolutions' kernels; those without a convolution are "other: KIND".

    Args:
        convolutions: names of the graph's.
    """
    return _by_row(profile, lambda kernel: owner_of(kernel, convolutions))


def by_kind(profile: Profile) -> dict[str, float]:
    """Kind of kernel → ms."""
    return _by_row(profile, kind_of)


def owner_of(kernel: Kernel, convolutions: Container[str]) -> str:
    """The block that a kernel's time counts for."""
    return block_of(kernel.node) if kernel.node in convolutions else f"other: {kernel.node_type}"


def kind_of(kernel: Kernel) -> str:
    """What a kernel does, and in what: convolutions in INT8, MaxPool in float."""
    kind = "convolutions" if kernel.is_convolution else kernel.node_type
    return f"{kind} in {'INT8' if kernel.is_int8 else 'float'}"


def convolutions_of(graph: bytes) -> set[str]:
    """Names of a graph's convolutions."""
    return {node.name for node in onnx.load_from_string(graph).graph.node if node.op_type == "Conv"}


def _by_row(profile: Profile, row_of: Callable[[Kernel], str]) -> dict[str, float]:
    """Row → sum over its kernels."""
    total: defaultdict[str, float] = defaultdict(float)
    for kernel in profile.kernels:
        total[row_of(kernel)] += kernel.ms
    return dict(total)


if __name__ == "__main__":
    run_command(command, name="blocks", example="python -m segrd_edge.benchmarks.blocks bottle.segrd")
