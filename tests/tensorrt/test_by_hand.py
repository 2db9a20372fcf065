from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from segrd_edge.tensorrt import library
from segrd_edge.tensorrt.build import BuildOptions
from segrd_edge.tensorrt.by_hand import command_lines

from ..fakes.machine import FakeGpu

EVERYTHING = BuildOptions(
    workspace_bytes=512 << 20,
    optimisation_level=5,
    version_compatible=True,
    exclude_lean_runtime=True,
    tf32=True,
    aux_streams=2,
)


def test_trtexec_is_told_what_its_release_does_not_do_by_itself(
    fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    unzip, ten, eleven, polygraphy = command_lines(Path("part.segrd"), "graphs/mixed.onnx")
    assert unzip.line == "unzip -p part.segrd graphs/mixed.onnx > mixed.onnx"
    assert (ten.is_for_here, eleven.is_for_here) == (False, True)
    assert eleven.line == (
        "trtexec --onnx=mixed.onnx --saveEngine=mixed.plan --builderOptimizationLevel=3 --maxAuxStreams=0 --noTF32 "
        "--profilingVerbosity=detailed"
    )
    assert ten.line == f"{eleven.line} --stronglyTyped --noDataTransfers --useSpinWait --useCudaGraph"
    assert polygraphy.line.startswith("polygraphy run mixed.onnx --trt --onnxrt --strongly-typed ")
    monkeypatch.setattr(library.load("tensorrt").BuilderFlag, "INT8", 1, raising=False)
    _, ten, eleven, _ = command_lines(Path("part.segrd"), "graphs/mixed.onnx")
    assert (ten.is_for_here, eleven.is_for_here) == (True, False)


def test_options_are_in_the_lines(fake_gpu: FakeGpu) -> None:
    _, ten, _, polygraphy = command_lines(Path("my part.segrd"), "graphs/fp16.onnx", EVERYTHING)
    wanted = ("workspace:512", "OptimizationLevel=5", "AuxStreams=2", "--versionCompatible", "--excludeLeanRuntime")
    assert all(option in ten.line for option in wanted)
    assert "--noTF32" not in ten.line
    assert "--pool-limit workspace:536870912" in polygraphy.line


def test_tensorrt_rtx_has_a_tool_of_its_own() -> None:
    unzip, tool, polygraphy = command_lines(Path("my part.segrd"), "graphs/fp16.onnx", flavour="tensorrt-rtx")
    assert unzip.line == "unzip -p 'my part.segrd' graphs/fp16.onnx > fp16.onnx"
    assert tool.line.startswith("tensorrt_rtx --onnx=fp16.onnx")
    assert polygraphy.line.startswith("POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy run ")


@pytest.mark.parametrize("options", [BuildOptions(), EVERYTHING])
def test_polygraphy_knows_every_option(options: BuildOptions, fake_gpu: FakeGpu, tmp_path: Path) -> None:
    """It writes the script that it would run, which it does after it has read all options."""
    tool = Path(sys.executable).with_name("polygraphy")
    if not tool.exists():
        pytest.skip("polygraphy is not installed")
    (tmp_path / "mixed.onnx").touch()
    *_, polygraphy = command_lines(Path("part.segrd"), "graphs/mixed.onnx", options)
    command = [str(tool), *shlex.split(polygraphy.line)[1:], "--gen-script", "script.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "TERM": "dumb"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    script = (tmp_path / "script.py").read_text()
    assert "strongly_typed=True" in script
    assert "SnrCompareFunc" in script
