from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segrd_edge import doctor
from segrd_edge.console import build_app
from segrd_edge.engines import ENGINES

APP = build_app(doctor.command, name="segrd-doctor", example="segrd-doctor --json")


def test_json_reports_working_engines(bundle_path: Path) -> None:
    done = CliRunner().invoke(APP, [str(bundle_path), "--json"])
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert set(report["engines"]) == set(report["bundle"]) == set(ENGINES)
    for engine in report["engines"].values():
        assert engine["works"], engine["detail"]
        assert engine["version"]
    for probe in report["bundle"].values():
        assert probe["works"], probe["detail"]
    assert report["cpu"]["cores"] >= report["cpu"]["usable_cores"] >= 1
    assert {"train", "export", "openvino"} <= set(report["extras"])
    assert isinstance(report["nvidia_driver"]["works"], bool)
    assert report["tensorrt"] == "not in this release"


def test_without_an_engine_the_exit_code_is_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "probe_engine", lambda name: doctor.Probe(False, "[broken]"))
    done = CliRunner().invoke(APP, [])
    assert done.exit_code == 2
    assert "[broken]" in done.stdout


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("import os; os.kill(os.getpid(), 11)", "the process was ended by signal 11"),
        ("raise ValueError('seven')", "seven"),
        ("import absent_package", "No module named 'absent_package'"),
    ],
)
def test_what_crashes_is_reported(code: str, detail: str) -> None:
    assert doctor._probe(code) == doctor.Probe(False, detail)


def test_a_damaged_bundle_is_reported(tmp_path: Path) -> None:
    (tmp_path / "text.segrd").write_text("no bundle")
    report = doctor.examine(tmp_path / "text.segrd")
    assert not report["ok"]
    assert "not a bundle" in report["bundle"]["onnxruntime"]["detail"]


def test_the_tiny_graph_is_what_its_comment_says() -> None:
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["levels"], ["peak"], axes=[3], keepdims=0),
        helper.make_node("Div", ["peak", "white"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map"], ["score"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 32, 32, 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [1, 32, 32]),
        ],
        [helper.make_tensor("white", TensorProto.FLOAT, [], [255.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    stored = onnx.load_model_from_string(doctor.TINY_GRAPH)
    onnx.checker.check_model(stored)
    assert stored == model


def test_runs_where_no_engine_is_installed() -> None:
    code = (
        "import sys; sys.modules.update(openvino=None, onnxruntime=None)\n"
        "from segrd_edge.doctor import run_tiny_graph\n"
        "run_tiny_graph('openvino')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'segrd-edge[openvino]'" in done.stderr
