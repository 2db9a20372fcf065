from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segrd_edge import doctor, engines
from segrd_edge.console import build_app
from segrd_edge.engines.onnxruntime import OnnxRuntimeEngine
from segrd_edge.errors import SegrdError
from segrd_edge.probe import Answer
from segrd_edge.tensorrt import library, requirements
from segrd_edge.tensorrt.requirements import Lack

from ..fakes.gpu import install
from ..fakes.machine import FakeGpu

APP = build_app(doctor.command, name="segrd-doctor", example="segrd-doctor --json")
CPU_ENGINES = ("openvino", "onnxruntime")


def report_of(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(APP, [*arguments, "--json"])
    assert done.exit_code == code, done.output
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_json_reports_every_engine(bundle_path: Path) -> None:
    report = report_of(str(bundle_path))
    assert set(report["engines"]) == {*engines.ENGINES, *library.FLAVOURS}
    assert set(CPU_ENGINES) <= set(report["bundle"])
    for name in CPU_ENGINES:
        engine = report["engines"][name]
        assert (engine["state"], engine["works"]) == ("works", True), engine["detail"]
        assert engine["version"]
        assert report["bundle"][name]["works"], report["bundle"][name]["detail"]
    for engine in report["engines"].values():
        assert engine["state"] in ("works", "would work", "no")
        assert engine["works"] is (engine["state"] == "works")
    assert report["cpu"]["cores"] >= report["cpu"]["usable_cores"] >= 1
    assert {"train", "export", "openvino"} <= set(report["extras"])
    assert isinstance(report["nvidia"]["driver"]["works"], bool)
    assert len(report["nvidia"]["support"]) > 1


def test_what_an_extra_takes_in_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements_of = [
        "numpy>=1.24",
        "absent-one>=2; extra == 'cuda'",
        "absent-two>=12; python_version >= '3.11' and extra == 'cuda'",
        "absent-two<12; python_version < '3.11' and extra == 'cuda'",
        "segrd-edge[cuda]; extra == 'tensorrt'",
        "numpy; extra == 'tensorrt'",
        "numpy; extra == 'fine'",
    ]
    monkeypatch.setattr(doctor, "requires", lambda name: requirements_of)
    missing = ["absent-one", "absent-two"]
    assert doctor._extras() == {
        "cuda": {"installed": False, "missing": missing, "fix": "pip install 'segrd-edge[cuda]'"},
        "tensorrt": {"installed": False, "missing": missing, "fix": "pip install 'segrd-edge[tensorrt]'"},
        "fine": {"installed": True, "missing": [], "fix": ""},
    }


@pytest.mark.parametrize(("governor", "warned"), [(None, False), ("performance", False), ("powersave", True)])
def test_the_governor_of_a_pc(monkeypatch: pytest.MonkeyPatch, governor: str | None, warned: bool) -> None:
    cpu = {**doctor.machine.cpu(), "governor": governor}
    monkeypatch.setattr(doctor.machine, "cpu", lambda: cpu)
    monkeypatch.setattr(doctor, "engine_names", list)
    report = doctor.examine()
    assert not report["ok"]
    fixes = [warning["fix"] for warning in report["warnings"]]
    assert ("sudo cpupower frequency-set -g performance" in fixes) is warned


def test_one_engine_alone(bundle_path: Path) -> None:
    report = report_of("--engine", "onnxruntime")
    assert (list(report), list(report["engines"])) == (["ok", "engines"], ["onnxruntime"])
    report = report_of(str(bundle_path), "--engine", "onnxruntime")
    assert report["ok"]
    assert report["bundle"]["onnxruntime"]["detail"].endswith("golden scores at fp32 within 0")


def test_the_exit_code_is_that_of_the_engine_asked_for() -> None:
    if requirements.lack("tensorrt") is None:
        pytest.skip("this machine runs TensorRT")
    assert not report_of("--engine", "tensorrt", code=2)["ok"]


@pytest.mark.parametrize(
    ("state", "fix", "is_tried"),
    [("works", "", True), ("would work", "", True), ("would work", "x", False), ("no", "", False)],
)
def test_a_bundle_is_tried_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, state: str, fix: str, is_tried: bool
) -> None:
    def ask(function: str, *arguments: str, timeout_s: float) -> Answer:
        if function.endswith(":verdict"):
            return Answer(True, {"state": state, "detail": "", "fix": fix})
        return Answer(True, "3 golden scores")

    monkeypatch.setattr(doctor, "ask", ask)
    report = doctor.examine_engine("tensorrt-lean", "part.segrd")
    assert report["ok"] is is_tried
    assert list(report["bundle"]) == (["tensorrt-lean"] if is_tried else [])


def test_an_engine_that_there_is_not() -> None:
    done = CliRunner().invoke(APP, ["--engine", "tensort"])
    assert done.exit_code == 2
    assert "tensorrt-rtx" in done.stderr


def test_without_an_engine_the_exit_code_is_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(function: str, *arguments: str, timeout_s: float) -> Answer:
        return Answer(False, None, "the process was ended by signal 11", "[broken]")

    monkeypatch.setattr(doctor, "ask", ask)
    done = CliRunner().invoke(APP, [])
    assert done.exit_code == 2
    assert "the process was ended by signal 11" in done.stdout
    assert "fix: [broken]" in done.stdout


def test_a_damaged_bundle_is_reported(tmp_path: Path) -> None:
    (tmp_path / "text.segrd").write_text("no bundle")
    report = doctor.examine_engine("onnxruntime", tmp_path / "text.segrd")
    assert not report["ok"]
    assert "not a bundle" in report["bundle"]["onnxruntime"]["detail"]


def test_an_engine_that_is_not_installed_would_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeEngine, "is_available", lambda: False)
    assert doctor.verdict("onnxruntime") == {
        "state": "would work",
        "detail": "not installed",
        "fix": OnnxRuntimeEngine.install,
    }


def test_an_engine_that_computes_something_else_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> str:
        raise SegrdError("an error of 0.2", expected="1e-6", fix="mend it")

    monkeypatch.setattr(doctor, "run_tiny_graph", fail)
    assert doctor.verdict("onnxruntime") == {
        "state": "no",
        "detail": "an error of 0.2 (expected: 1e-6)",
        "fix": "mend it",
    }


@pytest.mark.parametrize("name", list(library.FLAVOURS))
@pytest.mark.parametrize("can_be_installed", [False, True])
def test_what_tensorrt_lacks_is_said_before_it_is_tried(
    monkeypatch: pytest.MonkeyPatch, name: str, can_be_installed: bool
) -> None:
    monkeypatch.setattr(requirements, "lack", lambda flavour: Lack("no driver", "install it", can_be_installed))
    monkeypatch.setattr(doctor, "run_tiny_graph", lambda name: pytest.fail("it was tried"))
    state = "would work" if can_be_installed else "no"
    assert doctor.verdict(name) == {"state": state, "detail": "no driver", "fix": "install it"}


def test_tensorrt_is_tried_where_nothing_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "lack", lambda flavour: None)
    monkeypatch.setattr(doctor, "run_tiny_graph", lambda name: f"{name} ran")
    assert doctor.verdict("tensorrt") == {"state": "works", "detail": "tensorrt ran", "fix": ""}
    lean = doctor.verdict("tensorrt-lean")  # it builds nothing, so there is nothing to try it on
    assert (lean["state"], lean["fix"]) == ("would work", "")


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_computes_the_tiny_graph(fake_gpu: FakeGpu, name: str) -> None:
    assert doctor.verdict(name) == {"state": "works", "detail": "computes the test graph correctly", "fix": ""}


@pytest.mark.parametrize(
    ("machine", "state", "detail"),
    [
        ({"compute_capability": (6, 1)}, "no", "too old for TensorRT"),
        ({"pycuda": False}, "would work", "need the package 'pycuda'"),
        ({"flavours": ()}, "would work", "needs the package 'tensorrt'"),
    ],
)
def test_what_a_gpu_lacks(monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any], state: str, detail: str) -> None:
    install(monkeypatch, **machine)
    found = doctor.verdict("tensorrt")
    assert found["state"] == state
    assert detail in found["detail"]
    assert found["fix"]


def test_the_tiny_graph_is_one_that_tensorrt_builds() -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from segrd_edge.tensorrt.build import build

    assert build(doctor.TINY_GRAPH, flavour="tensorrt-rtx").plan


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
