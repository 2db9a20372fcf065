"""What follows an export for TensorRT, where the machine can build and where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segrd_edge import build_cli
from segrd_edge.errors import EngineError, OptionError
from segrd_edge.export.build import build_here, check_lean
from segrd_edge.export.target import CPU, Target
from segrd_edge.tensorrt import requirements
from segrd_edge.tensorrt.requirements import Lack

BUNDLE = Path("out/my part.segrd")
NO_GPU = Lack("the NVIDIA driver finds no GPU", "check nvidia-smi -L", can_be_installed=False)


def refuse(*_: Any, **__: Any) -> None:
    pytest.fail("an engine was built")


@pytest.mark.parametrize("lean", [False, True])
def test_without_a_gpu_the_reason_and_the_command_are_given(
    lean: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(requirements, "lack", lambda flavour: NO_GPU)
    monkeypatch.setattr(build_cli, "command", refuse)
    assert not build_here(BUNDLE, Target("tensorrt"), lean=lean)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("no engine was built here: the NVIDIA driver finds no GPU\nThe bundle is complete.")
    assert f"segrd-build 'my part.segrd' --engine tensorrt{' --lean' if lean else ''}, or let" in printed.err


def test_with_one_it_is_segrd_build(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(requirements, "lack", lambda flavour: None)
    monkeypatch.setattr(build_cli, "command", lambda bundle, **options: called.append((bundle, options)))
    assert build_here(BUNDLE, Target("tensorrt"), lean=True, as_json=True)
    assert called == [(BUNDLE, {"engine": "tensorrt", "lean": True, "json": True})]


def test_a_build_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise EngineError("no engine of this bundle works here")

    monkeypatch.setattr(requirements, "lack", lambda flavour: None)
    monkeypatch.setattr(build_cli, "command", fail)
    with pytest.raises(EngineError, match="no engine of this bundle works here"):
        build_here(BUNDLE, Target("tensorrt-rtx"))


@pytest.mark.parametrize("target", [CPU, Target("tensorrt-rtx")])
def test_lean_is_tensorrts_alone(target: Target) -> None:
    check_lean(Target("tensorrt"))
    with pytest.raises(OptionError, match=f"--lean for the engine {target.engine}"):
        check_lean(target)
