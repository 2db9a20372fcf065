"""The tools that are compared: a float deploy graph and calibration frames in, an INT8 graph out.

Adding one of other people's is a function in `worker` and a line in `TOOLS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from segrd_edge.calibration.calibrate import calibrate
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.errors import OptionError, SegrdError
from segrd_edge.machine import package_version

_WORKER = Path(__file__).with_name("worker.py")
_LIMIT_S = 3600
_INSTALL = {
    "modelopt": "pip install torch==2.13.0, then nvidia-modelopt onnx~=1.21.0 onnxruntime~=1.24.2 onnx-graphsurgeon "
    "onnxconverter-common~=1.16.0 onnxslim polygraphy lief ml_dtypes onnxscript, into a venv of its own",
    "nncf": "pip install nncf onnx onnxruntime, into a venv of its own",
    "onnxruntime": "pip install onnxruntime onnx sympy",
}


@dataclass(frozen=True)
class Quantised:
    """An INT8 graph and how it was made."""

    model: onnx.ModelProto
    seconds: float  # by the clock, without the time to import the tool
    processor_seconds: float
    versions: dict[str, str]
    settings: str  # what was asked for


Quantise = Callable[[onnx.ModelProto, Sequence[CalibrationFrame], Mapping[str, Path]], Quantised]


def quantise(
    tool: str, model: onnx.ModelProto, frames: Sequence[CalibrationFrame], pythons: Mapping[str, Path]
) -> Quantised:
    """Quantise with a tool.

    Args:
        pythons: tool → the Python that has it, where that is not this one.

    Raises:
        OptionError: an unknown tool.
        SegrdError: the tool is not there, or fails.
    """
    if tool not in TOOLS:
        raise OptionError(f"unknown tool {tool!r}", expected="one of " + ", ".join(TOOLS))
    return TOOLS[tool](model, frames, pythons)


def _ours(
    scope: Literal["auto", "all"],
    model: onnx.ModelProto,
    frames: Sequence[CalibrationFrame],
    pythons: Mapping[str, Path],
) -> Quantised:
    wall, processor = time.perf_counter(), time.process_time()
    calibration = calibrate(model, frames, Int8Settings(scope=scope))
    return Quantised(
        calibration.model,
        time.perf_counter() - wall,
        time.process_time() - processor,
        {"segrd-edge": package_version("segrd-edge") or "unknown"},
        f"scope {scope}" + (f": took {calibration.scope}" if scope == "auto" else ""),
    )


def _foreign(
    tool: str, settings: str, model: onnx.ModelProto, frames: Sequence[CalibrationFrame], pythons: Mapping[str, Path]
) -> Quantised:
    """In a process of its own, on a copy of the graph: modelopt rewrites its input."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "graph.onnx")
        np.save(folder / "images.npy", np.stack([frame.image_bgr_u8 for frame in frames]))
        _run(tool, worker_command(tool, folder, pythons.get(tool)))
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return Quantised(onnx.load(folder / "quantised.onnx"), **result, settings=settings)


def worker_command(tool: str, folder: Path, python: Path | None) -> list[str]:
    """The command line that quantises `folder`'s graph; without a `python`, in this one."""
    return [str(python or sys.executable), "-I", str(_WORKER), tool, str(folder)]


def _run(tool: str, command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=False)
    except FileNotFoundError as error:
        raise SegrdError(f"{tool}: there is no {command[0]}", fix=f"name its Python with --{tool}-python") from error
    except subprocess.TimeoutExpired as error:
        raise SegrdError(f"{tool} did not finish within {_LIMIT_S} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SegrdError(f"{tool} failed: {last}", fix=_INSTALL[tool] if "ModuleNotFoundError" in last else "")


TOOLS: dict[str, Quantise] = {
    "ours": partial(_ours, "auto"),
    "ours-all": partial(_ours, "all"),
    "modelopt": partial(
        _foreign, "modelopt", "defaults (entropy), but what stays float is fp32, calibrated on the CPU"
    ),
    "nncf": partial(_foreign, "nncf", "defaults (preset performance, fast bias correction), on the ONNX graph"),
    "onnxruntime": partial(_foreign, "onnxruntime", "quant_pre_process, then quantize_static with its defaults"),
}
