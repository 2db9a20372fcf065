"""The same build by NVIDIA's own tools: command lines for people who want to dig.

trtexec changed its defaults with TensorRT 11: until then it measures copies too, waits without spinning and launches
kernel by kernel, unless it is told otherwise, and a network is weakly typed unless it is told as well.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from . import library
from .build import BuildOptions


class CommandLine(NamedTuple):
    tool: str  # and which of its releases
    is_for_here: bool  # whether it fits the TensorRT of this machine
    line: str


def command_lines(
    bundle: Path, member: str, options: BuildOptions | None = None, *, flavour: str = "tensorrt"
) -> list[CommandLine]:
    """Lines that take a graph out of a bundle, build it and run it, first with trtexec, then against ONNX Runtime.

    Args:
        member: the graph, such as "graphs/mixed.onnx".

    Raises:
        EngineError: the flavour is missing.
    """
    options = options or BuildOptions()
    graph = Path(member).name
    unzip = CommandLine("unzip", True, f"unzip -p {shlex.quote(str(bundle))} {shlex.quote(member)} > {graph}")
    if flavour == "tensorrt-rtx":
        polygraphy = f"POLYGRAPHY_USE_TENSORRT_RTX=1 {_polygraphy(graph, options)}"
        return [
            unzip,
            CommandLine("tensorrt_rtx", True, f"tensorrt_rtx --onnx={graph} --saveEngine={Path(graph).stem}.plan"),
            CommandLine("polygraphy", True, polygraphy),
        ]
    has_weak_typing = _has_weak_typing(library.load(flavour))
    before_11 = ["--stronglyTyped", "--noDataTransfers", "--useSpinWait", "--useCudaGraph"]
    return [
        unzip,
        CommandLine("trtexec of TensorRT 10", has_weak_typing, shlex.join([*_trtexec(graph, options), *before_11])),
        CommandLine("trtexec of TensorRT 11", not has_weak_typing, shlex.join(_trtexec(graph, options))),
        CommandLine("polygraphy", True, _polygraphy(graph, options)),
    ]


def _has_weak_typing(trt: Any) -> bool:
    """What TensorRT 11 removed, and with it the need to ask for strong typing."""
    return hasattr(trt.BuilderFlag, "INT8")


def _trtexec(graph: str, options: BuildOptions) -> list[str]:
    line = ["trtexec", f"--onnx={graph}", f"--saveEngine={Path(graph).stem}.plan"]
    line += [f"--builderOptimizationLevel={options.optimisation_level}", f"--maxAuxStreams={options.aux_streams}"]
    if options.workspace_bytes is not None:
        line.append(f"--memPoolSize=workspace:{options.workspace_bytes / 2**20:g}")  # MiB
    line += [] if options.tf32 else ["--noTF32"]
    line += ["--profilingVerbosity=detailed"] if options.detailed else []
    line += ["--versionCompatible"] if options.version_compatible else []
    return [*line, "--excludeLeanRuntime"] if options.exclude_lean_runtime else line


def _polygraphy(graph: str, options: BuildOptions) -> str:
    """Compared on random pixels; a signal-to-noise ratio, because INT8 differs everywhere by a little."""
    line = ["polygraphy", "run", graph, "--trt", "--onnxrt", "--strongly-typed"]
    line += ["--builder-optimization-level", str(options.optimisation_level)]
    line += ["--max-aux-streams", str(options.aux_streams)]
    if options.workspace_bytes is not None:
        line += ["--pool-limit", f"workspace:{options.workspace_bytes}"]
    line += ["--tf32"] if options.tf32 else []
    line += ["--version-compatible"] if options.version_compatible else []
    line += ["--exclude-lean-runtime"] if options.exclude_lean_runtime else []
    return shlex.join([*line, "--val-range", "[0,255]", "--compare", "snr"])
