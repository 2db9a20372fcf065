"""segrd-export --budget: what it takes of the exports of several runs, and what it writes; on the test bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segrd_edge import engines
from segrd_edge.benchmarks import budget_export, budget_run
from segrd_edge.benchmarks.budget_export import Held, check_budget, check_same_images, hold_budget
from segrd_edge.benchmarks.budget_run import Settings
from segrd_edge.benchmarks.contenders import Wanted
from segrd_edge.bundle import Bundle
from segrd_edge.errors import OptionError
from segrd_edge.export import report, report_record
from segrd_edge.export.bundle import ExportResult
from segrd_edge.export.report_latency import LatencyTable
from segrd_edge.export.target import Target

Export = Callable[..., ExportResult]


@pytest.fixture
def exported(
    make_bundle: Callable[..., Path], manifest_fields: Callable[..., dict[str, Any]], tmp_path: Path
) -> Export:
    """`exported("name", fp32=0.9, int8=0.9, is_safe=True)`: a bundle of that name with these image AUROCs."""

    def make(name: str, fp32: float = 0.9, int8: float = 0.9, *, is_safe: bool = True) -> ExportResult:
        records = manifest_fields()["graphs"]
        for precision, auroc in (("fp32", fp32), ("int8", int8)):
            records[precision]["metrics"] = {
                "image_auroc": auroc, "pixel_ap": None,
                "source": "test photographs", "images_good": 20, "images_defect": 9,
            }  # fmt: skip
        records["int8"]["is_safe"] = is_safe
        path = tmp_path / f"{name}.segrd"
        make_bundle(path, records=records, default_precision="int8" if is_safe else "fp32")
        return ExportResult(path, Bundle.open(path).manifest, {}, {}, {}, None)

    return make


@pytest.fixture
def durations(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """p99 by "name precision engine", ms; what is not in it takes 10 ms."""
    set_ms: dict[str, float] = {}

    def measure(bundles: Any, wanted: Sequence[tuple[str, Wanted]], frames: Any, **_: Any) -> dict[str, Any]:
        rows = []
        for name, (engine, precision) in wanted:
            ms = set_ms.get(f"{Path(name).stem} {precision} {engine}", 10.0)
            rows.append(
                {
                    "bundle": name, "engine": engine, "engine_version": "1", "precision": precision,
                    "network_hw": [64, 64], "min_ms": ms / 2, "median_ms": ms / 1.25, "p95_ms": ms, "p99_ms": ms,
                    "max_ms": ms, "late": 0, "stages_ms": {"preprocess": 1.0, "engine": 1.0},
                }
            )  # fmt: skip
        return {
            "bundles": rows, "rounds": 50, "samples": 100, "noisy_rounds": 0, "skipped": {},
            "frames": {"sizes_hw": [[120, 180]]},
        }  # fmt: skip

    monkeypatch.setattr(budget_run, "measure_wanted", measure)
    monkeypatch.setattr(engines, "processor_engines", lambda: ["openvino", "onnxruntime"])
    return set_ms


def hold(results: Sequence[ExportResult], out: Path, budget_ms: float, threads: int | None = None) -> Held:
    runs: Any = [SimpleNamespace(folder=result.path.stem) for result in results]
    held = hold_budget(runs, results, out, Settings(budget_ms, frame_hw=(120, 180), threads=threads))
    assert held.run.folder == Path(held.found["best"][0]["bundle"]).stem if held.found["best"] else True
    assert Bundle.open(out).manifest == held.result.manifest
    return held


@pytest.mark.parametrize(
    ("fp32_ms", "int8_ms", "int8_auroc", "expected"),
    [
        (40, 20, 0.9, "int8"),
        (25, 20, 0.897, "int8"),  # no loss
        (25, 20, 0.89, "fp32"),  # there is time for the more accurate
        (40, 20, 0.89, "int8"),  # there is not
        (25, 40, 0.9, "fp32"),
        (30, 30.1, 0.9, "fp32"),
    ],
)
def test_the_most_accurate_precision_that_keeps_the_budget_becomes_the_default(
    exported: Export, durations: dict[str, float], fp32_ms: float, int8_ms: float, int8_auroc: float, expected: str
) -> None:
    result = exported("part", 0.9, int8_auroc)
    for engine in ("openvino", "onnxruntime"):
        durations.update({f"part fp32 {engine}": fp32_ms, f"part int8 {engine}": int8_ms})
    held = hold([result], result.path, 30)
    assert held.holds
    assert held.result.manifest.default_precision == expected
    assert held.sentences[0] == f"{result.path} has {expected} as its default."


def test_of_several_runs_the_most_accurate_is_copied_and_the_others_stay(
    exported: Export, durations: dict[str, float], tmp_path: Path
) -> None:
    results = [exported("fast", 0.8, 0.8), exported("good", 0.95, 0.94), exported("late", 0.99, 0.99)]
    before = [Bundle.open(result.path).manifest for result in results]
    late = {f"{name} {precision}": ms for name, precision, ms in (("late", "int8", 31), ("late", "fp32", 60))}
    durations.update({f"{name} {engine}": ms for name, ms in late.items() for engine in ("openvino", "onnxruntime")})
    held = hold(results, tmp_path / "best.segrd", 30)
    manifest = held.result.manifest
    assert (held.run.folder, manifest.product, manifest.default_precision) == ("good", "best", "fp32")
    assert [Bundle.open(result.path).manifest for result in results] == before
    assert manifest.latency is not None
    assert manifest.latency.sentences == held.sentences
    assert f"{results[1].path}, with fp32 as its default" in held.sentences[0]
    assert "More accurate, and 1.00 ms over the budget" in " ".join(held.sentences)


def test_the_faster_engine_is_measured_and_named_where_a_detector_would_take_another(
    exported: Export, durations: dict[str, float]
) -> None:
    result = exported("part", 0.95, 0.9)
    durations["part fp32 onnxruntime"] = 5
    held = hold([result], result.path, 30)
    assert {(row["precision"], row["engine"]) for row in held.found["bundles"]} == {
        ("fp32", "onnxruntime"),
        ("int8", "openvino"),
    }
    assert held.sentences[1].endswith(f'open it as Detector("{result.path}", engine="onnxruntime").')
    shared = hold([result], result.path, 30, threads=1)
    assert 'Its time is that of onnxruntime on 1 thread: open it as Detector("' in shared.sentences[1]
    assert shared.sentences[1].endswith('", engine="onnxruntime", threads=1).')
    latency = held.result.manifest.latency
    assert latency is not None
    assert latency.engines == {"fp32": "onnxruntime 1", "int8": "openvino 1"}


def test_int8_that_calibration_refused_is_never_taken(exported: Export, durations: dict[str, float]) -> None:
    result = exported("part", is_safe=False)
    for engine in ("openvino", "onnxruntime"):
        durations[f"part fp32 {engine}"] = 40
    held = hold([result], result.path, 30)
    assert not held.holds
    assert held.result.manifest.default_precision == "fp32"
    assert "INT8 moves the scores of the calibration frames too far there." in " ".join(held.sentences)


def test_where_nothing_keeps_it_the_bundle_is_whole_and_the_way_on_is_said(exported: Export, tmp_path: Path) -> None:
    """Measured, not made up."""
    result, out = exported("part"), tmp_path / "best.segrd"
    before = Bundle.open(result.path)
    held = hold([result], out, 1e-4)
    after = Bundle.open(out)
    assert not held.holds
    assert (
        held.sentences[0]
        == f"{out} is {result.path}, with int8 as its default. It is whole, and nothing else was changed."
    )
    assert "Nothing keeps 0.0001 ms" in held.sentences[1]
    assert any(each.endswith("segrd-bench --budget 0.0001ms --frame 180x120") for each in held.sentences)
    latency = after.manifest.latency
    assert latency is not None
    assert (latency.budget_ms, latency.frame_hw, latency.samples) == (1e-4, (120, 180), 100)
    assert all(0 < latency.p50_ms[name] <= ms for name, ms in latency.p99_ms.items())
    unchanged = after.manifest.model_copy(update={"latency": None, "product": before.manifest.product})
    assert unchanged == before.manifest
    others = set(before.sha256) - {"manifest.json"}
    assert {name: after.sha256[name] for name in others} == {name: before.sha256[name] for name in others}


def test_the_report_shows_the_figures_and_its_command_asks_for_them_again(
    exported: Export, durations: dict[str, float]
) -> None:
    result = exported("part")
    assert len(report._latency(LatencyTable([], [], (120, 180), 0), result.manifest)["sentences"]) == 1
    assert not any("--budget" in option for option in report_record._export_options(result))
    durations["part fp32 openvino"] = durations["part fp32 onnxruntime"] = 40
    held = hold([result], result.path, 30)
    sentences = report._latency(LatencyTable([], [], (120, 180), 0), held.result.manifest)["sentences"]
    assert sentences[0] == (
        "Against a budget of 30 ms at p99, frames of 180×120, 100 samples each: int8 10.0 ms (median 8.0) in "
        "openvino 1, fp32 40.0 ms (median 32.0) in openvino 1."
    )
    assert sentences[1 : 1 + len(held.sentences)] == held.sentences
    assert "--budget 30ms" in [*report_record._export_options(held.result)]


def a_run(folder: str, data: str, held_out: str, *kinds: str) -> Any:
    counts = dict.fromkeys(("train/good", "test/good", *kinds), 3)
    return SimpleNamespace(
        folder=Path(folder),
        config=SimpleNamespace(data=data),
        data={"counts": counts, "held_out": [{"file": name} for name in held_out]},
    )


def test_what_cannot_be_compared_or_timed_is_refused_first() -> None:
    run, other = a_run("a", "photos", "xy"), a_run("b", "photos", "yz")
    check_budget(Target(), None)
    check_same_images(run, a_run("b", "photos", "yx"))
    check_same_images(a_run("a", "photos", "xy", "test/dent"), a_run("b", "./photos", "yz", "test/dent"))
    with pytest.raises(OptionError, match="a and b hold different photographs out"):
        check_same_images(run, other)
    with pytest.raises(OptionError, match="a was trained on photos, b on other"):
        check_same_images(run, a_run("b", "other", "xy"))
    with pytest.raises(OptionError, match="--budget for the engine tensorrt"):
        check_budget(Target("tensorrt"), None)
    with pytest.raises(OptionError, match=r"--min-speedup 2\.5 with --budget"):
        check_budget(Target(), 2.5)


def test_the_engines_are_those_of_the_processor(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(paths: Any, settings: Settings, said: Any, *, screen: bool) -> Any:
        asked.append((settings.engines, screen))
        raise OptionError("enough")

    monkeypatch.setattr(budget_export, "measure_budget", measure)
    monkeypatch.setattr(engines, "processor_engines", lambda: ["onnxruntime"])
    with pytest.raises(OptionError, match="enough"):
        hold([exported("part")], Path("x.segrd"), 30)
    assert asked == [(["onnxruntime"], True)]
