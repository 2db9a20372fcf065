from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segrd_edge.benchmarks.startup import STAGES, command, measure
from segrd_edge.console import build_app
from segrd_edge.errors import BundleError, SegrdError


def test_every_start_is_a_process_with_all_stages(bundle_path: Path) -> None:
    starts = measure(bundle_path, (64, 96), engine="openvino", precision="int8", threads=1, rounds=1)
    assert [(start.kind, start.engine, start.precision) for start in starts] == [
        ("compiles", "openvino", "int8"),
        ("reads back", "openvino", "int8"),
    ]
    for start in starts:
        assert tuple(start.ms) == STAGES
        assert start.ms["total"] == pytest.approx(sum(start.ms[stage] for stage in STAGES[:-1]))
        assert min(start.ms.values()) > 0


def test_the_command_ends_in_json(bundle_path: Path) -> None:
    options = [str(bundle_path), "--rounds", "1", "--engine", "onnxruntime", "--frame", "96x64"]
    done = CliRunner().invoke(build_app(command, name="startup", example=""), options)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output.splitlines()[-1])
    assert (found["engine"], found["precision"], found["rounds"]) == ("onnxruntime", "fp32", 1)
    assert set(found["median_ms"]) == {"compiles", "reads back"}


def test_what_fails_says_so(bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        measure(tmp_path / "x.segrd", (64, 96), engine="auto", precision="auto", threads=None, rounds=1)
    with pytest.raises(SegrdError, match="unknown engine 'tpu'"):
        measure(bundle_path, (64, 96), engine="tpu", precision="auto", threads=None, rounds=1)
