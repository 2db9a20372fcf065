"""segrd-build, on the fake GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress
from typer.testing import CliRunner, Result

from segrd_edge.build_cli import choose_flavour, command, report_to
from segrd_edge.bundle import Bundle
from segrd_edge.console import build_app
from segrd_edge.errors import EngineError, OptionError
from segrd_edge.machine import cache_folder
from segrd_edge.tensorrt import driver, timing

from ..fakes.gpu import install
from ..fakes.machine import FakeGpu, Outputs


@pytest.fixture(autouse=True)
def _quick(fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu.copy_ms = 0
    fake_gpu.run_ms.update(fp32=2.6, int8=1.9)
    for name in ("_BURST_S", "_WARM_UP_S"):
        monkeypatch.setattr(timing, name, 0)
    monkeypatch.setattr(timing, "_ROUNDS", 2)


def build(*arguments: Any) -> Result:
    app = build_app(command, name="segrd-build", example="segrd-build bottle.segrd")
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def answer(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def break_int8(outputs: Outputs, precision: str) -> None:
    if precision == "int8":
        outputs["score"] += 0.5


def test_the_table_says_what_was_chosen_and_why(bundle_path: Path) -> None:
    done = build(bundle_path)
    assert done.exit_code == 0, done.stderr
    assert "part on Fake RTX: tensorrt 11.4.0.106" in done.stdout
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("│")}
    assert "1.90" in rows["int8"]
    assert "chosen" in rows["int8"]
    assert "chosen" not in rows["fp32"]
    assert "int8: 1.90 ms against fp32 2.60 ms" in done.stdout
    assert "trtexec --onnx=int8.onnx" in done.stdout
    assert "# trtexec of TensorRT 10, not the one here" in done.stdout


def test_programs_start_without_a_build_afterwards(bundle_path: Path, fake_gpu: FakeGpu) -> None:
    from segrd_edge import Detector

    build(bundle_path)
    builds = fake_gpu.counts["build"]
    with Detector(bundle_path, engine="tensorrt") as detector:
        assert detector.precision == "int8"
    assert fake_gpu.counts["build"] == builds


def test_json_has_the_figures(bundle_path: Path) -> None:
    first = answer(build(bundle_path, "--json"))
    assert (first["engine"], first["precision"], first["was_decided"]) == ("tensorrt", "int8", True)
    figures = {candidate["precision"]: candidate for candidate in first["candidates"]}
    assert figures["int8"]["run_ms"] == pytest.approx(1.9)
    assert figures["fp32"]["test"]["max_score_difference"] == pytest.approx(0, abs=1e-6)
    assert figures["fp32"]["plan_bytes"] > 0
    again = answer(build(bundle_path, "--json"))
    assert not again["was_decided"]
    assert again["reason"] == first["reason"]


def test_a_discarded_engine_is_in_the_table(bundle_path: Path, fake_gpu: FakeGpu) -> None:
    fake_gpu.faults.outputs = break_int8
    done = build(bundle_path)
    assert done.exit_code == 0
    assert "discarded" in done.stdout
    assert "fp32: int8 is out of the question: the int8 engine was built, failed its self-test" in done.stdout


@pytest.mark.parametrize("arguments", [["--no-fallback"], ["--precision", "int8"]])
def test_without_fallback_a_failing_engine_is_an_error(
    arguments: list[str], bundle_path: Path, fake_gpu: FakeGpu
) -> None:
    fake_gpu.faults.outputs = break_int8
    done = build(bundle_path, *arguments)
    assert done.exit_code == 2
    assert "error: the int8 engine was built, failed its self-test and was discarded" in done.stderr
    assert "fix: " in done.stderr


def test_options_reach_the_build(bundle_path: Path) -> None:
    found = answer(build(bundle_path, "--precision", "fp32", "--workspace-mb", 256, "--level", 5, "--json"))
    assert found["reason"] == "fp32: asked for"
    (record,) = (json.loads(path.read_text()) for path in (cache_folder() / "engines").glob("*.json"))
    options = record["key"]["options"]
    assert (options["workspace_bytes"], options["optimisation_level"]) == (256 << 20, 5)
    trtexec = next(line["line"] for line in found["commands"] if line["is_for_here"] and "trtexec" in line["line"])
    assert "--memPoolSize=workspace:256 " in trtexec


@pytest.mark.parametrize("in_place", [False, True])
def test_lean_puts_the_engine_into_a_bundle(
    in_place: bool, make_bundle: Callable[..., Path], tmp_path: Path, fake_gpu: FakeGpu
) -> None:
    bundle = make_bundle(tmp_path / "part.segrd")
    before = bundle.read_bytes()
    out = bundle if in_place else tmp_path / "line.segrd"
    found = answer(build(bundle, "--lean", "--precision", "fp32", "--json", *([] if in_place else ["--out", out])))
    assert found["bundle"] == str(out)
    assert [record.precision for record in Bundle.open(out).manifest.lean_engines] == ["fp32"]
    assert (bundle.read_bytes() == before) == (not in_place)
    assert any("--versionCompatible --excludeLeanRuntime" in line["line"] for line in found["commands"])


def test_lean_says_what_keeps_tensorrt_itself_from_working(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path / "cache"))
    install(monkeypatch, flavours=("tensorrt-rtx",))
    done = build(bundle_path, "--lean")
    assert done.exit_code == 2
    assert "tensorrt needs the package 'tensorrt'" in done.stderr


def test_what_cannot_be_is_refused(bundle_path: Path, tmp_path: Path, fake_gpu: FakeGpu) -> None:
    for arguments, what in (
        ([], "no bundle"),
        ([bundle_path, "--out", tmp_path / "x.segrd"], "--out without --lean"),
        ([bundle_path, "--lean", "--out", tmp_path / "x.zip"], f"{tmp_path / 'x.zip'}: a bundle's name ends in .segrd"),
        ([bundle_path, "--engine", "openvino"], "--engine openvino"),
        ([bundle_path, "--engine", "tensorrt-rtx", "--lean"], "tensorrt-rtx, which has no lean runtime"),
        ([bundle_path, "--precision", "fp16"], "no fp16 graph"),
        ([bundle_path, "--level", "6"], "optimisation_level=6"),
        ([bundle_path, "--workspace-mb", "0"], "workspace_bytes=0"),
    ):
        done = build(*arguments)
        assert done.exit_code == 2
        assert f"error: {what}" in done.stderr or what in done.stderr.splitlines()[0]
    assert fake_gpu.counts["build"] == 0


def test_ctrl_c_ends_it_and_leaves_nothing_half_done(
    bundle_path: Path, fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(outputs: Outputs, precision: str) -> None:
        raise KeyboardInterrupt

    fake_gpu.faults.outputs = interrupted
    done = build(bundle_path)
    assert done.exit_code == 130
    fake_gpu.faults.outputs = lambda outputs, precision: None
    fake_gpu.misuse.clear()  # the fake's run was cut off in the middle, as no GPU's is
    assert build(bundle_path).exit_code == 0


def test_auto_is_the_flavour_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_flavour("auto") == "tensorrt"
    install(monkeypatch, flavours=("tensorrt-rtx",))
    assert choose_flavour("auto") == "tensorrt-rtx"
    install(monkeypatch, flavours=())
    with pytest.raises(EngineError, match=r"no TensorRT works here\n  tensorrt: .*\n  tensorrt-rtx: ") as caught:
        choose_flavour("auto")
    assert "pip install" in caught.value.fix
    with pytest.raises(OptionError, match="tensorrt-lean"):
        choose_flavour("tensorrt-lean")


def test_without_a_gpu_one_sentence_says_so(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(index: int = 0) -> driver.Gpu:
        raise EngineError("no NVIDIA driver", fix="install it")

    monkeypatch.setattr(driver, "gpu", no_driver)
    done = build(bundle_path)
    assert done.exit_code == 2
    assert done.stderr == "error: no TensorRT works here: no NVIDIA driver\nfix: install it\n"


def test_the_cache_is_listed_and_emptied(bundle_path: Path) -> None:
    build(bundle_path)
    listed = answer(build("--list", "--json"))
    assert [engine["fits"] for engine in listed["engines"]] == [True, True]
    assert {engine["record"]["self_test"]["precision"] for engine in listed["engines"]} == {"fp32", "int8"}
    text = build("--list").stdout
    assert "Fake RTX" in text
    assert "SEGRD_CACHE_LIMIT_GB" in text
    assert len(answer(build("--clear", "--json"))["removed"]) == 2
    assert answer(build("--list", "--json"))["engines"] == []


def test_phases_are_shown_while_they_last() -> None:
    bars = Progress(disable=True)
    report = report_to(bars)
    shown = []
    for event in (("a [b]", 0, 2), ("inner", 0, 1), ("inner", 1, 1), ("a [b]", 1, 2), ("a [b]", 2, 2)):
        report(*event)
        shown.append([(task.description, task.completed) for task in bars.tasks])
    outer = "a \\[b]"
    assert shown == [[(outer, 0)], [(outer, 0), ("inner", 0)], [(outer, 0)], [(outer, 1)], []]
