"""`segrd-bench`, end to end on the test bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from segrd_edge.benchmarks.cli import command
from segrd_edge.console import build_app

RUNNER = CliRunner()


def bench(*arguments: Any) -> Result:
    app = build_app(command, name="segrd-bench", example="segrd-bench bottle.segrd")
    return RUNNER.invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100"})


def test_the_table_names_contenders_and_figures(bundle_path: Path) -> None:
    done = bench(bundle_path, "--frame", "96x64", "--rounds", 2, "--threads", 1)
    assert done.exit_code == 0, done.stderr
    for text in ("openvino", "onnxruntime", "fp32", "int8", "p99.9", "jitter", "preprocess", "bare engine", "memory"):
        assert text in done.stdout
    assert "is the fastest" in done.stderr
    assert "Not known: p90 needs 10 samples, 4 were taken" in " ".join(done.stderr.split())


def test_json_is_one_object_on_the_last_line_of_stdout_and_the_page_is_written(
    bundle_path: Path, tmp_path: Path
) -> None:
    page = tmp_path / "latency.html"
    done = bench(
        *(bundle_path, "--frame", "70x50", "--rounds", 2, "--json", "--html", page),
        *("--engine", "onnxruntime", "--precision", "fp32", "--precision", "int8"),
    )
    assert done.exit_code == 0, done.stderr
    (line,) = done.stdout.splitlines()
    values = json.loads(line)
    assert [contender["name"] for contender in values["contenders"]] == ["onnxruntime fp32", "onnxruntime int8"]
    assert values["frames"]["sizes_hw"] == [[50, 70]]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frame", "1024"], "--frame 1024"),
        (["--frame", "96x0"], "--frame 96x0"),
        (["--rounds", "1"], "rounds=1"),
        (["--rounds", "2", "--seconds", "3"], "rounds=2 and seconds=3"),
        (["--engine", "tpu"], "unknown engine 'tpu'"),
        (["--precision", "fp16"], "no fp16 graph"),
        (["--run", "absent"], "absent is not a run"),
        (["--frames", "absent"], "absent: no such file or folder"),
    ],
)
def test_exit_code_2_and_a_message_for_wrong_options(bundle_path: Path, arguments: list[str], message: str) -> None:
    done = bench(bundle_path, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
