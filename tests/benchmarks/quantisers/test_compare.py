"""The whole comparison on a tiny graph: what the record holds, and what the table makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segrd_edge.benchmarks.quantisers.compare import FLOAT, Part, compare
from segrd_edge.benchmarks.quantisers.latency import AS_READ, speedup
from segrd_edge.benchmarks.quantisers.table import write_table
from segrd_edge.calibration.frames import choose_frames
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.data import scan

from ...calibration.conftest import build_small
from ...conftest import write_photos

SIZE_HW = (32, 64)
NOWHERE = Path("/nowhere/python")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = scan(write_photos(tmp_path_factory.mktemp("photos")))
    good = [photo.path for photo in folder.train]
    preprocess = Preprocess(SIZE_HW)
    frames = choose_frames(good[:10], preprocess, count=6)
    part = Part(
        "part", build_small(SIZE_HW), preprocess, MapSpec("none"), frames, good[10:], folder.test, false_reject=0.1
    )
    tools = ["ours-all", "nncf"]
    *_, record = compare(part, tools, pythons={"nncf": NOWHERE}, rounds=2, threads=1)
    return record


def test_the_record_is_json(record: dict[str, Any]) -> None:
    assert json.loads(json.dumps(record, allow_nan=False))["tools"].keys() == {FLOAT, "ours-all", "nncf"}


def test_thresholds_are_carried_over_from_floats(record: dict[str, Any], tmp_path: Path) -> None:
    base, ours = (record["tools"][tool]["threshold"] for tool in (FLOAT, "ours-all"))
    assert ours == pytest.approx(base, abs=0.02)
    for rule, said in (("carried over", "held-out images, carried over from float's, 8"), (None, "held-out images, 8")):
        (tmp_path / "part.json").write_text(json.dumps({**record, "thresholds": rule}))
        assert said in write_table(tmp_path).read_text()


def test_accuracy_is_measured_against_float(record: dict[str, Any]) -> None:
    base, ours = record["tools"][FLOAT], record["tools"]["ours-all"]
    assert base["drift"]["score_max"] == 0
    assert base["verdicts"]["flipped"] == 0
    assert 0 < ours["drift"]["score_max"] < 0.05
    assert 0 <= ours["verdicts"]["flipped"] <= ours["verdicts"]["of"] == 8
    assert ours["metrics"].keys() == base["metrics"].keys()


def test_the_file_is_described(record: dict[str, Any]) -> None:
    base, ours = record["tools"][FLOAT], record["tools"]["ours-all"]
    assert (base["int8_convolutions"], base["int8_readers"]) == (0, {})
    assert (ours["convolutions"], ours["int8_convolutions"]) == (12, 8)
    assert ours["int8_readers"] == {"Conv": 8, "Add": 2}
    assert ours["bytes"] < base["bytes"]
    assert ours["tensorrt"]["violations"] == 0


def test_every_graph_runs_in_every_engine(record: dict[str, Any]) -> None:
    latency = record["latency"]
    figures = {(figure["engine"], figure["tool"]): figure for figure in latency["figures"]}
    engines = {"openvino", "onnxruntime"} & {engine for engine, _ in figures}
    assert engines
    for engine in engines:
        assert figures[engine, FLOAT]["speedup"] == 1
        assert figures[engine, "ours-all"]["speedup"] > 0
        assert figures[engine, "ours-all"]["samples"] == 8
        assert figures[engine, "ours-all"]["score_mean"] < 0.05
    assert ((AS_READ, "ours-all") in figures) == ("openvino" in engines)
    assert (AS_READ, FLOAT) not in figures  # there is nothing to rewrite
    assert latency["failed"] == {}


def test_a_tool_that_is_not_there_is_a_row_and_no_crash(record: dict[str, Any], tmp_path: Path) -> None:
    assert "there is no" in record["tools"]["nncf"]["not_run"]
    (tmp_path / "part.json").write_text(json.dumps(record))
    assert "nncf: not run: nncf: there is no /nowhere/python" in write_table(tmp_path).read_text()


def test_the_table_shows_what_was_measured(record: dict[str, Any], tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**record, "part": name}))
    lines = write_table(tmp_path).read_text().splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## a", "## b"]
    rows = [line.split(" | ") for line in lines if line.startswith("| ours-all")]
    assert [row[1] for row in rows[:1]] == ["8 of 12"]
    assert rows[0][8].endswith("of 8")
    assert rows[1][7] == "kept"


def test_an_interrupted_comparison_leaves_a_table(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "part.json").write_text(json.dumps({**record, "latency": None}))
    text = write_table(tmp_path).read_text()
    assert "Latency was not measured." in text
    assert "| ours-all | – | – | – |" in text


def test_a_refused_graph_says_why(record: dict[str, Any], tmp_path: Path) -> None:
    ours = record["tools"]["ours-all"] | {
        "tensorrt": {"violations": 2, "first": ["x: the bias must stay float"], "refused": "cannot parse\n  node x"}
    }
    (tmp_path / "part.json").write_text(json.dumps({**record, "tools": {**record["tools"], "ours-all": ours}}))
    text = write_table(tmp_path).read_text()
    assert "| 2 broken | refused |" in text
    assert "ours-all breaks a rule: x: the bias must stay float" in text
    assert "ours-all is refused: cannot parse node x" in text


def test_speed_is_compared_within_a_round() -> None:
    """The machine was ten times slower in the second round, for both."""
    assert speedup([4.0, 4.0, 40.0, 40.0], [2.0, 2.0, 20.0, 20.0], per_round=2) == pytest.approx(2)
    assert speedup([4.0, 4.0, 40.0, 40.0], [2.0, 2.0, 20.0, 20.0], per_round=4) == pytest.approx(2)


def test_the_program_lists_its_tools() -> None:
    from typer.testing import CliRunner

    from segrd_edge.benchmarks.quantisers.__main__ import command
    from segrd_edge.console import build_app

    app = build_app(command, name="quantisers", example="quantisers runs/bottle --out bottle.json")
    shown = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout.split())
    assert "ours, ours-all, modelopt, nncf, onnxruntime" in shown
