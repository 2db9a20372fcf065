"""What a TensorRT compiler makes of a bundle's graphs, without a GPU:

    python -m segrd_edge.benchmarks.rtx_build bottle.segrd

TensorRT-RTX compiles on any machine. Seconds, size, layers, and the element type that each convolution reads, which
shows whether INT8 and float16 in the graph are INT8 and float16 in the engine. Nothing is executed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from segrd_edge.bundle import Bundle
from segrd_edge.console import emit_json, json_option, new_table, print_table, run_command, track
from segrd_edge.tensorrt.build import build
from segrd_edge.tensorrt.layers import CONVOLUTION

FLAVOUR = "tensorrt-rtx"


def command(
    bundle: Annotated[Path, typer.Argument(help="The .segrd file.", show_default=False)],
    json: Annotated[bool, json_option] = False,
) -> None:
    """Compile every graph of a bundle with TensorRT-RTX and show what became of its convolutions."""
    opened = Bundle.open(bundle)
    graphs = opened.manifest.graphs
    found = {name: compile_graph(opened.graph(name)) for name in track(graphs, "compiling", len(graphs))}
    table = new_table(f"{bundle.name}, {FLAVOUR}", "graph", "seconds", "plan, MB", "layers", "convolutions read")
    for name, figures in found.items():
        read = ", ".join(f"{dtype} {count}" for dtype, count in figures["convolutions"].items())
        table.add_row(name, f"{figures['seconds']:.1f}", f"{figures['plan_mb']:.1f}", str(figures["layers"]), read)
    print_table(table, as_json=json)
    if json:
        emit_json({"bundle": bundle.name, "graphs": found})


def compile_graph(graph: bytes) -> dict[str, Any]:
    """Figures of one build.

    Raises:
        EngineError: TensorRT-RTX is not installed, or cannot build the graph.
    """
    built = build(graph, flavour=FLAVOUR)
    convolutions = [layer for layer in built.layers if layer.kind == CONVOLUTION and layer.input_dtypes]
    return {
        "versions": dict(built.versions),
        "seconds": round(built.seconds, 2),
        "plan_mb": round(len(built.plan) / 1e6, 2),
        "layers": len(built.layers),
        "convolutions": dict(Counter(layer.input_dtypes[0] for layer in convolutions)),
        "warnings": list(built.warnings),
    }


if __name__ == "__main__":
    run_command(command, name="rtx_build", example="python -m segrd_edge.benchmarks.rtx_build bottle.segrd")
