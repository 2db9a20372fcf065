"""A bundle that keeps a time per frame: which precision becomes the default, on figures that nobody measured; and the
measurement, on the test bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrd_edge.bundle import Bundle
from segrd_edge.errors import OptionError
from segrd_edge.export import budget, report, report_record
from segrd_edge.export.budget import budget_sentence, check_budget, choose_default, hold_budget
from segrd_edge.export.bundle import ExportResult
from segrd_edge.export.report_latency import LatencyTable
from segrd_edge.export.target import Target
from segrd_edge.manifest import LatencyRecord, Manifest

Fields = Callable[..., dict[str, Any]]


def record(fp32_ms: float, int8_ms: float | None, budget_ms: float = 30) -> LatencyRecord:
    p99: dict[str, float] = {"fp32": fp32_ms} | ({} if int8_ms is None else {"int8": int8_ms})
    return LatencyRecord.model_validate(
        {
            "budget_ms": budget_ms,
            "frame_hw": (480, 640),
            "engine": "openvino",
            "engine_version": None,
            "machine": "a processor",
            "samples": 100,
            "p50_ms": {name: ms / 2 for name, ms in p99.items()},
            "p99_ms": p99,
        }
    )


def manifest(manifest_fields: Fields, default: str = "int8", lost: float = 0.0) -> Manifest:
    fields = manifest_fields(default_precision=default)
    for name, image_auroc in (("fp32", 0.95), ("int8", 0.95 - lost)):
        fields["graphs"][name]["metrics"] = {"image_auroc": image_auroc, "pixel_ap": None}
    return Manifest(**fields)


@pytest.mark.parametrize(
    ("fp32_ms", "int8_ms", "lost", "expected"),
    [
        (40.0, 20.0, 0.0, "int8"),
        (25.0, 20.0, 0.004, "int8"),  # no loss
        (25.0, 20.0, 0.006, "fp32"),  # there is time for the more accurate
        (40.0, 20.0, 0.006, "int8"),  # there is not
        (25.0, 40.0, 0.0, "fp32"),
        (30.0, 30.1, 0.0, "fp32"),
        (40.0, 35.0, 0.0, None),
    ],
)
def test_the_default_is_the_most_accurate_that_keeps_the_budget(
    manifest_fields: Fields, fp32_ms: float, int8_ms: float, lost: float, expected: str | None
) -> None:
    assert choose_default(manifest(manifest_fields, lost=lost), record(fp32_ms, int8_ms)) == expected


def test_int8_that_calibration_refused_does_not_become_the_default(manifest_fields: Fields) -> None:
    refused = manifest(manifest_fields, default="fp32")
    assert choose_default(refused, record(40, 20)) is None
    assert choose_default(refused, record(20, 10)) == "fp32"


def test_the_figures_in_a_sentence() -> None:
    assert budget_sentence(record(40, 20)) == (
        "Against a budget of 30 ms at p99, frames of 640×480 in openvino, 100 samples each: fp32 40.0 ms "
        "(median 20.0), int8 20.0 ms (median 10.0)."
    )


@pytest.fixture
def exported(make_bundle: Callable[..., Path], tmp_path: Path) -> ExportResult:
    path = make_bundle(tmp_path / "part.segrd")
    return ExportResult(path, Bundle.open(path).manifest, {}, {}, {}, None)


def test_the_bundle_records_what_was_measured(exported: ExportResult, good_frame: np.ndarray) -> None:
    before = Bundle.open(exported.path)
    held = hold_budget(exported, good_frame, 1e6)
    after = Bundle.open(exported.path)
    assert held.holds
    assert held.sentences[-1] == "int8 keeps it, and is the default."
    assert after.manifest == held.result.manifest
    latency = after.manifest.latency
    assert latency is not None
    assert (latency.budget_ms, latency.frame_hw, latency.samples) == (1e6, (120, 180), 100)
    assert set(latency.p99_ms) == {"fp32", "int8"}
    assert all(0 < latency.p50_ms[name] <= ms for name, ms in latency.p99_ms.items())
    assert after.manifest.model_copy(update={"latency": None}) == before.manifest
    unchanged = set(before.sha256) - {"manifest.json"}
    assert {name: after.sha256[name] for name in unchanged} == {name: before.sha256[name] for name in unchanged}


def test_where_nothing_keeps_it_the_bundle_stays_and_the_way_on_is_said(
    exported: ExportResult, good_frame: np.ndarray
) -> None:
    held = hold_budget(exported, good_frame, 1e-4)
    assert not held.holds
    assert Bundle.open(exported.path).manifest.default_precision == "int8"
    assert held.sentences[1] == "No precision keeps it. The bundle is whole, with int8 as its default."
    assert held.sentences[2].endswith("segrd-bench --budget 0.0001ms --frame 180x120")


@pytest.mark.parametrize(
    ("is_safe", "sentence"),
    [
        (False, "INT8 would keep it, but is not within its limits (--max-score-shift and the like): fp32 stays the"),
        (True, "INT8 would keep it, but is not as much faster as --min-speedup asks for: fp32 stays the default"),
    ],
)
def test_where_only_refused_int8_keeps_it_that_is_said(
    make_bundle: Callable[..., Path],
    good_frame: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_safe: bool,
    sentence: str,
) -> None:
    path = make_bundle(tmp_path / "part.segrd", default_precision="fp32")
    manifest = Bundle.open(path).manifest
    graphs = {**manifest.graphs, "int8": manifest.graphs["int8"].model_copy(update={"is_safe": is_safe})}
    samples = {"fp32": np.full(100, 40.0), "int8": np.full(100, 20.0)}
    monkeypatch.setattr(budget, "measure", lambda *_: samples)
    asked = ExportResult(path, manifest.model_copy(update={"graphs": graphs}), {}, {}, {}, None)
    held = hold_budget(asked, good_frame, 30)
    assert not held.holds
    assert held.sentences[1].startswith(sentence)


def test_turns_alternate_and_the_first_inspections_do_not_count(
    bundle_path: Path, good_frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    shown: list[bool] = []
    defect = budget._with_defect(Bundle.open(bundle_path), good_frame)
    assert defect.shape == good_frame.shape

    class Scripted(budget.Detector):
        def inspect(self, frame: np.ndarray) -> Any:
            order.append(self.precision)
            shown.append(frame is defect)
            return super().inspect(frame)

    monkeypatch.setattr(budget, "Detector", Scripted)
    monkeypatch.setattr(budget, "TURNS", 2)
    samples = budget.measure(Bundle.open(bundle_path), "openvino", [good_frame, defect])
    assert {name: taken.size for name, taken in samples.items()} == {"fp32": 10, "int8": 10}
    assert order == ["fp32"] * 7 + ["int8"] * 14 + ["fp32"] * 7
    assert sum(shown) == 14


def test_a_gpu_is_not_timed_here() -> None:
    check_budget(Target())
    with pytest.raises(OptionError, match="--budget for the engine tensorrt"):
        check_budget(Target("tensorrt"))


def test_the_report_shows_the_figures_and_its_command_asks_for_them_again(
    exported: ExportResult, manifest_fields: Fields
) -> None:
    measured = Manifest(**manifest_fields(latency=record(40, 20)))
    table = LatencyTable([], [], (480, 640), 0)
    assert report._latency(table, measured)["sentences"][0] == budget_sentence(record(40, 20))
    assert len(report._latency(table, exported.manifest)["sentences"]) == 1
    assert "--budget 30ms" in [*report_record._export_options(replace(exported, manifest=measured))]
    assert not any("--budget" in option for option in report_record._export_options(exported))
