"""The JSON file beside the page has the page's figures, under names that stay, and nothing of where files lay."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segrd_edge.calibration.budget import Budget
from segrd_edge.calibration.drift import Drift
from segrd_edge.export import cli, report, report_latency
from segrd_edge.export.bundle import ExportResult
from segrd_edge.export.report import json_path, write_report
from segrd_edge.export.report_latency import NotMeasured
from segrd_edge.manifest import CalibrationRecord
from segrd_edge.training.run import Run

from .report_data import FRAME_HW, HELD_OUT, Page, few_rounds, making  # noqa: F401  (fixtures)

DRIFT = {"score_mean": 0.0123, "score_max": 0.2, "map_cosine_mean": 0.98, "map_cosine_min": 0.9}
OTHER = {"image_auroc": 0.9125, "pixel_ap": 0.5, "aupro": None}


def written(folder: Path, run: Run, result: ExportResult) -> tuple[dict[str, Any], Page]:
    html = write_report(folder / "part.html", run, result)
    assert json_path(html) == folder / "part.report.json"
    return json.loads((folder / "part.report.json").read_text(encoding="utf-8")), Page.of(html)


def with_record(result: ExportResult) -> ExportResult:
    """With all that calibration may have found out."""
    blocks = [
        {"block": "student.layer1.0", "nodes": ["student.a"], "macs": 300, "drift": DRIFT},
        {"block": "head.b", "nodes": ["head.b"], "macs": 100, "drift": DRIFT, "two_term_drift": DRIFT},
        {"block": "head.out", "nodes": ["head.out"], "macs": 100, "drift": DRIFT},
    ]
    record = CalibrationRecord.model_validate({
        **result.manifest.calibration.model_dump(), "sensitivity": blocks,
        "two_term": [{"node": "head.b", "reason": "alone it moves too much"}],
        "method_trials": {"percentile": DRIFT},
        "drift_by_method": {"percentile": DRIFT, "max": {**DRIFT, "score_mean": 0.0088}},
        "metrics_by_method": {"max": OTHER}, "budget": Budget().to_dict(), "int8_share": 0.8,
    })  # fmt: skip
    attempts = {
        scope: SimpleNamespace(drift=Drift(mean, 0.2, 0.999, 0.9, 0.1), int8_share=share, two_term_share=0.0)
        for scope, mean, share in (("all", 0.03, 1.0), ("float-skips", 0.004, 0.8))
    }
    calibration: Any = SimpleNamespace(
        scope="float-skips", choice=SimpleNamespace(attempts=attempts), budget=Budget(), drift=attempts["all"].drift,
        int8_share=0.8, improved=["bias"], fine_tuning=None, better_method=None,
    )  # fmt: skip
    return replace(result, manifest=result.manifest.model_copy(update={"calibration": record}), calibration=calibration)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield name
            yield from strings(member)
    elif isinstance(value, list):
        for member in value:
            yield from strings(member)


def test_every_figure_is_that_of_the_result_and_of_the_page(make: Any, tmp_path: Path) -> None:
    run, result = make()
    values, page = written(tmp_path, run, with_record(result))
    assert values["default"]["precision"] == "int8"
    assert values["default"]["reason"].startswith("INT8 is the default on a processor: with 80 % of the work in it")
    assert values["default"]["reason"] in page.text
    assert page.headings[0] == f"{values['verdict']['headline']} {values['int8']['warning']}"
    assert values["int8"]["taken_by_itself"] == ["int8"]
    assert values["int8"]["aims"] == {"image_auroc": 0.003, "pixel_ap": 0.01, "verdicts": 0.01}
    assert values["metrics_source"] == "test photographs"
    assert list(values["precisions"]) == ["fp32", "int8"]
    for name, found in values["precisions"].items():
        evaluation, graph = result.evaluations[name], result.manifest.graphs[name]
        assert found["metrics"] == json.loads(json.dumps(evaluation.to_dict()))
        assert found["threshold"] == graph.threshold.value
        assert found["graph_bytes"] == result.graph_bytes[name]
        assert found["is_default"] == (name == "int8")
        assert found["escapes"] == {"count": 1, "of": 5}
    assert [values["precisions"][name]["false_rejects"]["count"] for name in ("fp32", "int8")] == [0, 1]
    assert values["precisions"]["int8"]["aims"]["verdicts"] == {"cost": 1 / 9, "limit": 0.01, "is_missed": True}
    assert values["precisions"]["fp32"]["aims"] is None
    assert list(values["not_exported"]) == ["fp16"]


def test_the_images_have_the_scores_of_the_scatter(make: Any, tmp_path: Path) -> None:
    run, result = make()
    values, _ = written(tmp_path, run, result)
    frames = result.evaluations["fp32"].frames
    images = values["images"]
    assert [(image["file"], image["kind"]) for image in images[:5]] == [
        *((f"good/{number}.png", "good") for number in range(4)), ("dent/0.png", "dent"),
    ]  # fmt: skip
    assert [image["scores"]["fp32"] for image in images] == [frame.score for frame in frames]
    assert [image["scores"]["int8"] for image in images] == [f.score for f in result.evaluations["int8"].frames]
    thresholds = {name: found["threshold"] for name, found in values["precisions"].items()}
    verdicts = [[image["scores"][name] >= value for name, value in thresholds.items()] for image in images]
    assert sum(a != b for a, b in verdicts) == 1
    assert [image["is_defect"] for image in images] == [frame.photo.is_defect for frame in frames]


def test_all_that_was_tried_for_int8_is_there(make: Any, tmp_path: Path) -> None:
    run, result = make()
    values, page = written(tmp_path, run, with_record(result))
    found = values["calibration"]
    exported, other = found["methods"]
    own = result.evaluations["int8"].metrics
    assert exported == {
        "method": "percentile", "is_exported": True, "drift": DRIFT,
        "metrics": {name: getattr(own, name) for name in ("image_auroc", "pixel_ap", "aupro")},
    }  # fmt: skip
    assert (other["method"], other["is_exported"], other["metrics"]) == ("max", False, OTHER)
    everything, taken = found["plans"]
    assert (everything["scope"], everything["int8_share"], everything["is_within_limits"]) == ("all", 1.0, False)
    assert (everything["is_exported"], everything["metrics"]) == (False, None)
    assert everything["drift"]["score_mean"] == 0.03
    assert (taken["scope"], taken["is_exported"], taken["is_within_limits"]) == ("float-skips", True, True)
    assert taken["metrics"] == exported["metrics"]
    assert "moved too far, 100 % of the work" in page.text
    assert "exported, 80 % of the work" in page.text
    assert [(block["block"], block["runs_in"]) for block in found["sensitivity"]] == [
        ("student.layer1.0", "int8"), ("head.b", "two-term"), ("head.out", "float"),
    ]  # fmt: skip
    assert found["sensitivity"][1]["two_term_drift"] == DRIFT
    assert found["limits"] == Budget().to_dict()


def test_the_latency_is_the_one_measured_for_the_page(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, result = make()
    tables: list[Any] = []

    def measure(*args: Any) -> Any:
        refused = NotMeasured("openvino", "fp16", f"{tmp_path}/lib.so is missing")
        table = replace(report_latency.measure_latency(*args), failures=[refused])
        tables.append(table)
        return table

    monkeypatch.setattr(report, "measure_latency", measure)
    values, page = written(tmp_path, run, result)
    (table,) = tables
    found = values["latency"]
    assert (found["frame_hw"], found["rounds"], found["budget"]) == ([*FRAME_HW], table.rounds, None)
    assert {(engine, name) for engine, each in found["engines"].items() for name in each["precisions"]} == {
        (row.engine, row.precision) for row in table.rows
    }
    for row in table.rows:
        engine = found["engines"][row.engine]
        assert engine["precisions"][row.precision]["median_ms"] == row.median_ms
        assert engine["automatic"] == table.automatic[row.engine]
        assert f"{row.median_ms:.1f} ms, p90" in page.text
    assert found["not_measured"] == [{"engine": "openvino", "precision": "fp16"}]
    assert "Not measured: openvino at fp16: " in page.text


def test_its_names_stay(make: Any, tmp_path: Path) -> None:
    values, _ = written(tmp_path, *make())
    assert values["schema_version"] == 1
    assert list(values) == [
        "schema_version", "product", "bundle", "created", "segrd_edge_version", "model", "size_hw", "verdict",
        "default", "int8", "metrics_source", "precisions", "not_exported", "latency", "calibration", "images",
        "machine",
    ]  # fmt: skip
    assert list(values["precisions"]["int8"]) == [
        "is_default", "graph_bytes", "threshold", "threshold_statement", "false_rejects", "escapes", "metrics",
        "verdict_changes", "aims", "drift", "is_safe", "parity",
    ]  # fmt: skip
    assert list(values["calibration"]) == [
        "frames", "method", "percentile", "method_trials", "scope", "limits", "int8_share", "two_term_share", "speedup",
        "second_try", "methods", "plans", "sensitivity",
    ]  # fmt: skip
    documented = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    for name in values:
        assert f"`{name}`" in documented


@pytest.mark.parametrize("given", [{}, {"synthetic": True}, {"evaluated": False}, {"int8": False}])
def test_nothing_in_it_says_where_files_lay(make: Any, tmp_path: Path, given: dict[str, Any]) -> None:
    values, _ = written(tmp_path, *make(**given))
    assert values["bundle"] == "part.segrd"
    for text in strings(values):
        assert str(tmp_path) not in text
        assert not re.search(r"(^|\s)(/|[A-Z]:\\)\w", text)


def test_what_is_not_known_is_null(make: Any, tmp_path: Path) -> None:
    run, result = make(synthetic=True)
    values, _ = written(tmp_path, run, result)
    assert values["metrics_source"] == "synthetic defects on 4 held-out good images"
    assert values["verdict"]["answer"] == "unknown"
    for found in values["precisions"].values():
        assert (found["escapes"], found["false_rejects"]) == (None, None)
        assert found["metrics"]["source"] == values["metrics_source"]
    assert len(values["images"]) == 12
    assert values["images"][0]["file"] == "0.png"
    bare = replace(result, evaluations={})
    values, _ = written(tmp_path, run, bare)
    assert (values["metrics_source"], values["images"]) == (None, [])
    assert all(found["metrics"] is None and found["aims"] is None for found in values["precisions"].values())
    assert values["int8"]["note"].startswith("No test images were evaluated")


def test_without_int8_there_is_no_calibration(make: Any, tmp_path: Path) -> None:
    values, _ = written(tmp_path, *make(int8=False))
    assert values["calibration"] is None
    assert values["default"] == {"precision": "fp32", "reason": "This bundle has no INT8 graph."}
    assert values["int8"]["taken_by_itself"] == []


def test_nan_is_never_written_and_then_there_is_no_page_either(make: Any, tmp_path: Path) -> None:
    run, result = make()
    metrics = replace(result.evaluations["int8"].metrics, aupro=float("nan"))
    evaluations = {**result.evaluations, "int8": replace(result.evaluations["int8"], metrics=metrics)}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path / "new" / "part.html", run, replace(result, evaluations=evaluations))
    assert not list(tmp_path.glob("new/*"))


@pytest.mark.parametrize("wanted", [True, False])
def test_the_command_writes_both_or_neither(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wanted: bool
) -> None:
    run, result = make()
    assert run.threshold["scores"] == HELD_OUT["fp32"]
    monkeypatch.setattr(Run, "load", lambda folder: run)
    monkeypatch.setattr(cli, "_export", lambda *args, **given: result)
    cli.command([run.folder], result.path, engine="cpu", report=wanted, json=True)
    reports = {path.name for path in tmp_path.iterdir() if path.suffix in (".html", ".json")}
    assert reports == ({"part.html", "part.report.json"} if wanted else set())
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["report"] == (str(tmp_path / "part.html") if wanted else None)
    assert printed["report_json"] == (str(tmp_path / "part.report.json") if wanted else None)
