"""Each tool on a tiny graph, where it is installed; and what is said where it is not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from segrd_edge.benchmarks.quantisers import tools
from segrd_edge.benchmarks.quantisers.tools import TOOLS, quantise, worker_command
from segrd_edge.benchmarks.quantisers.worker import TOOLS as WORKERS
from segrd_edge.calibration.check import violations
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.session import run_engine
from segrd_edge.errors import OptionError, SegrdError

from ...calibration.conftest import images, model  # noqa: F401  (fixtures)


@pytest.fixture
def frames(images: list[np.ndarray]) -> list[CalibrationFrame]:  # noqa: F811
    return [CalibrationFrame(image, Path("photo.png"), "0" * 64, "good") for image in images]


@pytest.mark.parametrize("tool", ["ours", "ours-all", "onnxruntime"])
def test_a_tool_makes_int8_of_the_same_function(
    tool: str,
    model: onnx.ModelProto,  # noqa: F811
    frames: list[CalibrationFrame],
) -> None:
    if tool == "onnxruntime":
        pytest.importorskip("sympy", reason="ONNX Runtime's quant_pre_process needs sympy")
    before = model.SerializeToString()
    made = quantise(tool, model, frames, {})
    assert model.SerializeToString() == before  # each tool gets the same graph
    producers = {output: node.op_type for node in made.model.graph.node for output in node.output}
    reads = [[producers.get(name) for name in node.input] for node in made.model.graph.node if node.op_type == "Conv"]
    assert sum(kinds[:2] == ["DequantizeLinear"] * 2 for kinds in reads) >= 8
    assert made.seconds > 0
    assert made.processor_seconds > 0
    assert all(made.versions.values())
    given = [frame.image_bgr_u8 for frame in frames]
    wanted, got = (list(run_engine("onnxruntime", graph, given)) for graph in (model, made.model))
    assert max(abs(a.score - b.score) for a, b in zip(wanted, got, strict=True)) < 0.05
    assert bool(violations(made.model)) == (tool == "onnxruntime")


def test_ours_says_which_scope_it_took(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:  # noqa: F811
    assert quantise("ours", model, frames, {}).settings == "scope auto: took all"


@pytest.mark.parametrize("tool", WORKERS)
def test_a_worker_runs_in_the_named_python_apart_from_this_folder(tool: str) -> None:
    command = worker_command(tool, Path("folder"), Path("venv/bin/python"))
    assert command[:2] == ["venv/bin/python", "-I"]  # this folder's modules are named like the tools
    assert Path(command[2]).is_file()
    assert command[3:] == [tool, "folder"]
    assert worker_command(tool, Path("folder"), None)[0] == sys.executable
    assert tool in TOOLS


def test_a_tool_that_is_not_installed_is_named(
    model: onnx.ModelProto,  # noqa: F811
    frames: list[CalibrationFrame],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import a_tool_that_nobody_has")
    monkeypatch.setattr(tools, "_WORKER", worker)
    with pytest.raises(SegrdError, match="No module named 'a_tool_that_nobody_has'") as raised:
        quantise("modelopt", model, frames, {})
    assert "nvidia-modelopt" in raised.value.fix


def test_a_tool_that_fails_is_not_said_to_be_missing(
    model: onnx.ModelProto,  # noqa: F811
    frames: list[CalibrationFrame],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("raise ValueError('no such operator')")
    monkeypatch.setattr(tools, "_WORKER", worker)
    with pytest.raises(SegrdError, match="nncf failed: ValueError: no such operator") as raised:
        quantise("nncf", model, frames, {})
    assert raised.value.fix == ""


def test_a_python_that_is_not_there(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:  # noqa: F811
    with pytest.raises(SegrdError, match="there is no /nowhere/python") as raised:
        quantise("nncf", model, frames, {"nncf": Path("/nowhere/python")})
    assert "--nncf-python" in raised.value.fix


def test_an_unknown_tool(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:  # noqa: F811
    with pytest.raises(OptionError, match="unknown tool 'tflite'"):
        quantise("tflite", model, frames, {})
