"""The installed programs, and the style that all of them share."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from segrd_edge import commands
from segrd_edge.console import build_app, emit_json, json_option, parse_duration_ms, parse_frame_size, parse_ints, track
from segrd_edge.errors import BundleError, OptionError

_HEAVY = ("torch", "onnx", "cv2", "openvino", "onnxruntime", "sklearn", "scipy", "matplotlib")


@pytest.mark.parametrize("program", list(commands.ENTRIES))
def test_help_shows_an_example_and_loads_nothing_heavy(program: str) -> None:
    entry = commands.ENTRIES[program]
    if importlib.util.find_spec(f"segrd_edge.{entry.function.partition(':')[0]}") is None:
        pytest.skip(f"{entry.function} is not there yet")
    code = (
        f"import sys; sys.argv = [{program!r}, '--help']; sys.modules.update(dict.fromkeys({_HEAVY!r}))\n"
        f"from segrd_edge import commands; commands._run({program!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"COLUMNS": "120"}
    )
    assert done.returncode == 0, done.stderr
    assert entry.example in " ".join(done.stdout.split())


def command(what: Annotated[str, typer.Argument()], json: Annotated[bool, json_option] = False) -> int:
    """Do what is asked."""
    if what == "error":
        raise BundleError("a [bold] file", expected="b", fix="pip install 'segrd-edge[train]'")
    if what == "missing":
        importlib.import_module("a_package_that_is_missing")
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "bug":
        raise ZeroDivisionError("a bug")
    if what == "disk":
        raise OSError(28, "No space left on device", "results.jsonl")
    if json:
        emit_json({"what": what})
    return 1 if what == "found" else 0


@pytest.mark.parametrize(
    ("what", "code", "stderr"),
    [
        ("nothing", 0, ""),
        ("found", 1, ""),
        ("error", 2, "error: a [bold] file\nexpected: b\nfix: pip install 'segrd-edge[train]'\n"),
        (
            "missing",
            2,
            "error: segrd-x needs the package 'a_package_that_is_missing', which is not installed\n"
            "expected: segrd-edge installed with its [train] extra\nfix: pip install 'segrd-edge[train]'\n",
        ),
        ("disk", 2, "error: results.jsonl: No space left on device\n"),
        ("interrupt", 130, "interrupted\n"),
    ],
)
def test_exit_codes_and_messages(what: str, code: int, stderr: str) -> None:
    done = CliRunner().invoke(build_app(command, name="segrd-x", example="segrd-x", extra="train"), [what])
    assert done.exit_code == code
    assert done.stderr == stderr


def test_a_bug_shows_its_traceback_and_is_no_finding() -> None:
    done = CliRunner().invoke(build_app(command, name="segrd-x", example="segrd-x"), ["bug"])
    assert done.exit_code == 2
    assert "ZeroDivisionError: a bug" in done.stderr


def test_json() -> None:
    done = CliRunner().invoke(build_app(command, name="segrd-x", example="segrd-x"), ["nothing", "--json"])
    assert json.loads(done.stdout) == {"what": "nothing"}
    with pytest.raises(ValueError, match="JSON compliant"):
        emit_json({"score": float("nan")})


def test_a_program_without_its_extra_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_torch(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")

    monkeypatch.setattr(commands, "import_module", without_torch)
    with pytest.raises(SystemExit) as caught:
        commands.train()
    assert caught.value.code == 2
    assert "pip install 'segrd-edge[train]'" in capsys.readouterr().err


def test_whole_numbers() -> None:
    assert parse_ints("--roi", "1,2,3,4", 4, ",", "1,2,3,4") == (1, 2, 3, 4)
    for text in ("1,2,3", "1,2,3,x", "", "1,2,3,4.5"):
        with pytest.raises(OptionError, match="--roi"):
            parse_ints("--roi", text, 4, ",", "1,2,3,4")


def test_a_duration_is_milliseconds_unless_it_says_seconds() -> None:
    for text, wanted in {"30ms": 30, "30": 30, "0.03s": 30, " 2.5 ms": 2.5, ".5s": 500}.items():
        assert parse_duration_ms("--budget", text) == pytest.approx(wanted)
    for text in ("", "0", "-3ms", "30us", "fast", "1e3", "nan", "inf", "30 m s"):
        with pytest.raises(OptionError, match="--budget") as caught:
            parse_duration_ms("--budget", text)
        assert "--budget 0.03s" in caught.value.fix


def test_a_frame_size_is_width_by_height() -> None:
    assert parse_frame_size("2448x2048") == (2048, 2448)  # (height, width), as everywhere in the code
    for text in ("2448", "2448x", "0x2048", "2448x-1", "2448,2048", "2448x2048x3"):
        with pytest.raises(OptionError, match=f"--frame {text}"):
            parse_frame_size(text)


def test_tracking_passes_items_on() -> None:
    assert list(track(iter("abc"), "reading")) == ["a", "b", "c"]


def test_what_the_runtime_logs_is_a_message_of_the_command() -> None:
    script = """
import logging
from segrd_edge.console import run_command
def command() -> None:
    logging.getLogger("segrd_edge").info("building [an] engine")
    logging.getLogger("segrd_edge.tensorrt").warning("falling back")
run_command(command, name="segrd-x", example="segrd-x")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == ["building [an] engine", "falling back"]
