from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from segrd_edge.benchmarks.rtx_build import command
from segrd_edge.console import build_app

from ..calibration.conftest import model  # noqa: F401  (fixture)
from ..tensorrt.conftest import fp32_graph, int8_graph, int8_model, plan  # noqa: F401  (fixtures)

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


def test_int8_in_the_graph_is_int8_in_the_engine(
    make_bundle: Callable[..., Path],
    fp32_graph: bytes,  # noqa: F811
    int8_graph: bytes,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = make_bundle(tmp_path / "part.segrd")
    graphs = {"fp32": fp32_graph, "int8": int8_graph}
    monkeypatch.setattr("segrd_edge.bundle.Bundle.graph", lambda self, precision: graphs[precision])
    app = build_app(command, name="rtx_build", example="rtx_build part.segrd")
    done = CliRunner().invoke(app, [str(path), "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["graphs"]
    convolutions = sum(node.op_type == "Conv" for node in onnx.load_from_string(fp32_graph).graph.node)
    assert found["fp32"]["convolutions"] == {"Float": convolutions}
    assert found["int8"]["convolutions"]["Int8"] > 0
    assert sum(found["int8"]["convolutions"].values()) == convolutions
    assert found["int8"]["plan_mb"] > 0
