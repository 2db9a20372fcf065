"""Whether INT8 is safe stands above everything else on the page, with the figures and what so few images can show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segrd_edge.bundle import Bundle
from segrd_edge.detector import Detector
from segrd_edge.export import report_plans
from segrd_edge.export.bundle import ExportResult
from segrd_edge.export.limits import MOST_LOST, MOST_TURNED
from segrd_edge.export.report import write_report
from segrd_edge.export.report_int8 import finer, held_to_aims, safety, second_try
from segrd_edge.export.report_latency import Latency, LatencyTable, measure_latency
from segrd_edge.export.report_plans import PlanTried, measure_plans, plans_tried
from segrd_edge.export.report_precision import precision_section
from segrd_edge.export.report_record import latency_sentences
from segrd_edge.export.report_sections import metrics_section
from segrd_edge.manifest import Manifest, SecondTryRecord
from segrd_edge.training.evaluate import Evaluation

from .report_data import FRAME_HW, SIZE_HW, Page, few_rounds, making  # noqa: F401  (fixtures)

FP32 = {"image_auroc": 0.97, "pixel_ap": 0.5, "images_good": 400, "images_defect": 400, "images_with_mask": 12}
FEW = {"images_good": 40, "images_defect": 50}


def with_metrics(result: ExportResult, verdicts: int = 0, **int8: Any) -> ExportResult:
    """The result with metrics of FP32 for fp32, and these for INT8; with so many verdicts turned of 9."""
    frames = result.evaluations["fp32"].frames
    threshold = result.manifest.graphs["fp32"].threshold.value
    moved = [replace(f, score=2 * threshold - f.score if i < verdicts else f.score) for i, f in enumerate(frames)]
    graphs = dict(result.manifest.graphs)
    graphs["int8"] = graphs["int8"].model_copy(update={"threshold": graphs["fp32"].threshold})
    made = {"fp32": (frames, FP32), "int8": (moved, {**FP32, **int8})}
    evaluations = {
        name: replace(found, frames=made[name][0], metrics=replace(found.metrics, **made[name][1]))
        for name, found in result.evaluations.items()
    }
    return replace(result, manifest=result.manifest.model_copy(update={"graphs": graphs}), evaluations=evaluations)


def said_of(result: ExportResult) -> tuple[str, str, str]:
    found = safety(result.manifest, None, result.evaluations)
    return found.warning, found.answer, found.note


def test_the_aims_are_the_products() -> None:
    assert (MOST_LOST, MOST_TURNED) == ({"image_auroc": 0.003, "pixel_ap": 0.01}, 0.01)


@pytest.mark.parametrize(
    ("verdicts", "int8", "warning"),
    [
        (0, {"image_auroc": 0.9669}, "it loses 0.0031 image AUROC (aim: at most 0.003)."),
        (0, {"pixel_ap": 0.4899}, "it loses 0.0101 pixel AP (aim: at most 0.01)."),
        (2, {}, "it turns 2 of 9 verdicts (22.2 %; aim: at most 1 %)."),
        (
            1, {"image_auroc": 0.95, "pixel_ap": 0.44},
            "it loses 0.02 image AUROC (aim: at most 0.003) and 0.06 pixel AP (aim: at most 0.01), and turns 1 of 9 "
            "verdicts (11.1 %; aim: at most 1 %).",
        ),
    ],
)  # fmt: skip
def test_a_missed_aim_is_in_the_heading_with_its_figures(
    make: Any, tmp_path: Path, verdicts: int, int8: dict[str, Any], warning: str
) -> None:
    run, result = make()
    result = with_metrics(result, verdicts, **int8)
    html = write_report(tmp_path / "part.html", run, result)
    assert Page.of(html).headings[0].endswith(f". INT8 costs more than it should: {warning}")
    assert 'class="verdict yes"' not in html.read_text(encoding="utf-8")
    assert "is safe for this part" not in Page.of(html).text


def test_int8_that_keeps_to_its_aims_is_said_to_be_safe_as_far_as_is_known(make: Any, tmp_path: Path) -> None:
    run, result = make()
    result = with_metrics(result, image_auroc=0.967, pixel_ap=0.51)  # 0.003 lost, as floats have it
    page = Page.of(write_report(tmp_path / "part.html", run, result))
    assert (
        "INT8 is safe for this part, as far as 9 test images can show: it loses 0.003 image AUROC (aim: at most 0.003) "
        "and no pixel AP (aim: at most 0.01), and turns 0 of 9 verdicts (0 %; aim: at most 1 %)." in page.text
    )
    assert "INT8 costs more" not in page.text
    unknown = said_of(with_metrics(result, pixel_ap=None))[1]
    assert unknown.endswith("What it does to pixel AP is not known, for want of images or masks.")


def test_what_a_single_image_is_worth_is_said_where_that_is_more_than_an_aim(make: Any) -> None:
    _, result = make()
    alone = with_metrics(result, 1, image_auroc=0.95, **FEW)
    assert said_of(alone)[2].startswith(
        "One of so few images is worth 11.1 % of the verdicts and up to 0.025 image AUROC, more than the aim allows, "
        "so that one alone can have done this; more images would tell more finely."
    )
    several = with_metrics(result, 2, image_auroc=0.95, **FEW)
    assert "more than the aim allows; more images would" in said_of(several)[2]
    wide = with_metrics(result, 0, pixel_ap=0.4)
    assert "image AUROC" not in said_of(wide)[2]  # 400 images of a kind are enough for 0.003
    assert "Pixel AP rests on 12 masks." in said_of(wide)[2]


def test_the_heading_is_about_what_runs_by_itself(make: Any) -> None:
    _, result = make()
    result = with_metrics(result, 2, image_auroc=0.9)
    manifest = result.manifest.model_copy(update={"default_precision": "fp32"})
    assert said_of(replace(result, manifest=manifest)) == (
        "", "INT8 is in the bundle, but fp32 stays the default.", ""
    )  # fmt: skip
    # On a GPU TensorRT may take mixed, whatever the default of a processor is; not where it is not safe.
    evaluations = {**result.evaluations, "mixed": result.evaluations["int8"]}
    for is_safe in (True, False):
        mixed = manifest.graphs["int8"].model_copy(update={"is_safe": is_safe})
        both = manifest.model_copy(update={"graphs": {**manifest.graphs, "mixed": mixed}})
        found = said_of(replace(result, manifest=both, evaluations=evaluations))
        assert found[0].startswith("Mixed precision costs more than it should: it loses 0.07") == is_safe
        assert found[1] == "INT8 is in the bundle, but fp32 stays the default."
    assert held_to_aims(manifest, result.evaluations, "fp32") is None


@pytest.mark.parametrize(
    ("int8", "note"),
    [(True, "No test images were evaluated, so what int8 costs in accuracy is not known."), (False, "")],
)
def test_without_test_images_what_int8_costs_is_said_to_be_unknown(make: Any, int8: bool, note: str) -> None:
    assert said_of(make(int8=int8, evaluated=False)[1]) == ("", "", note)


def test_synthetic_defects_are_named(make: Any) -> None:
    _, result = make(synthetic=True)
    warning, _, _ = said_of(result)
    assert warning.startswith("INT8 costs more than it should on synthetic defects: it loses ")


def test_what_to_do_about_it(make: Any) -> None:
    _, result = make()
    result = with_metrics(result, 1)
    assert said_of(result)[2].endswith('precision="fp32" runs without INT8, at fp32\'s speed.')
    graphs = dict(result.manifest.graphs)
    graphs["int8"] = graphs["int8"].model_copy(update={"drift": {"score_mean": 0.0086}})
    manifest = result.manifest.model_copy(update={"graphs": graphs})
    assert "For less, add --max-score-shift 0.004 to the command" in said_of(replace(result, manifest=manifest))[2]
    tried = SecondTryRecord(
        score_shift=0.004, frames=12, turned_before=2, turned=1, speedup=2.0, is_safe=True, is_taken=False
    )

    def after(**changes: Any) -> Manifest:
        calibration = manifest.calibration.model_copy(update={"second_try": tried.model_copy(update=changes)})
        return manifest.model_copy(update={"calibration": calibration})

    assert "that turned 1 of 12 verdicts instead of 2 when it was tried, but by its work is only 2.0" in finer(after())
    assert finer(after(turned=2)).startswith("there is nothing to add")
    assert second_try(manifest) == second_try(after()) == ""
    assert "the first turned 2 of 12 verdicts on the held-out images, more" in second_try(after(is_taken=True))
    assert finer(after(is_taken=True)).startswith("add --max-score-shift 0.004")
    for drift, added in (
        ({"head": {}}, " in place of --int8-scope head: half"),  # it alone was tried, so it was asked for
        ({"all": {}, "head": {}}, " to the command that made this bundle: half"),
    ):
        scoped = manifest.calibration.model_copy(update={"scope": "head", "drift": drift})
        assert added in finer(manifest.model_copy(update={"calibration": scoped}))
    planned = manifest.calibration.model_copy(update={"scope": "plan"})  # which no limit changes
    assert finer(manifest.model_copy(update={"calibration": planned})).startswith("put more of it in float in the plan")


def test_losses_in_the_table_stand_out_from_the_aims_on(make: Any) -> None:
    _, result = make()
    for auroc, ap, lost in ((0.9675, 0.4905, False), (0.9665, 0.4895, True)):
        given = with_metrics(result, image_auroc=auroc, pixel_ap=ap)
        row = metrics_section(given.manifest, given.evaluations)[-1]
        assert [row["cells"][i]["lost"] for i in (0, 2)] == [lost, lost]


def test_the_sentence_on_verdicts_names_the_precision(make: Any, tmp_path: Path) -> None:
    run, result = make()
    result = with_metrics(result)
    graphs = {**result.manifest.graphs, "fp16": result.manifest.graphs["fp32"]}
    given = replace(
        result,
        manifest=result.manifest.model_copy(update={"graphs": graphs}),
        evaluations={**result.evaluations, "fp16": result.evaluations["fp32"]},
        held_out_scores={**result.held_out_scores, "fp16": result.held_out_scores["fp32"]},
        graph_bytes={**result.graph_bytes, "fp16": 5_500_000},
    )
    text = Page.of(write_report(tmp_path / "part.html", run, given)).text
    for precision in ("int8", "fp16"):
        assert f"{precision} and fp32 give the same verdict on all 9 test images" in text
    assert "Both precisions" not in text
    assert "There is no fp16 here" not in text


@pytest.mark.parametrize(("int8", "added"), [(True, "fp16 and mixed"), (False, "fp16")])
def test_why_there_is_no_fp16_for_a_processor(make: Any, tmp_path: Path, int8: bool, added: str) -> None:
    assert (
        "There is no fp16 here: the engines of a processor compute float16 as float32, so that it would gain nothing. "
        f"segrd-export --engine tensorrt adds {added}, for a GPU."
        in Page.of(write_report(tmp_path / "part.html", *make(int8=int8))).text
    )


def latency_table(int8_ms: float, automatic: str) -> LatencyTable:
    stages = {"preprocess": 1.0, "engine": 1.0, "postprocess": 1.0}
    rows = [Latency("onnxruntime", name, ms, ms, stages) for name, ms in (("fp32", 63.04), ("int8", int8_ms))]
    return LatencyTable(rows, [], FRAME_HW, 5, {"onnxruntime": automatic})


def test_an_engine_with_slow_int8_is_said_to_take_fp32_by_itself() -> None:
    said = "In onnxruntime, INT8 takes 142.0 ms here and fp32 63.0 ms"
    assert f'{said}; precision="auto" takes fp32 there.' in latency_sentences(latency_table(142, "fp32"))
    assert any(
        sentence.startswith(f'{said}. precision="auto" takes int8 there all the same')
        for sentence in latency_sentences(latency_table(142, "int8"))
    )
    assert not any("auto" in sentence for sentence in latency_sentences(latency_table(64, "fp32")))


@pytest.mark.parametrize("default", ["int8", "fp32"])
def test_what_an_engine_takes_by_itself_is_what_the_detector_takes(make: Any, default: str) -> None:
    run, result = make()
    bundle = Bundle.open(result.path)
    bundle = replace(bundle, manifest=bundle.manifest.model_copy(update={"default_precision": default}))
    table = measure_latency(bundle, run.preprocess.resize(bundle.golden()["images"][0]), rounds=1)
    assert set(table.automatic) == {"openvino", "onnxruntime"}
    for engine, precision in table.automatic.items():
        with Detector(bundle, engine=engine) as detector:
            assert detector.precision == precision
    assert table.automatic["onnxruntime"] == "fp32"


def a_calibration(**given: Any) -> Any:
    """Two plans tried: `all`, which moved too far, and `search`, which is exported."""

    def attempt(name: str, share: float) -> Any:
        return SimpleNamespace(plan=name, drift=SimpleNamespace(to_dict=lambda: {"score_mean": share}),
                               int8_share=share, two_term_share=0.0)  # fmt: skip

    fields = {
        "scope": "search", "fine_tuning": None, "improved": ["rounding"], "float_model": "float", "ranges": "ranges",
        "choice": SimpleNamespace(attempts={"all": attempt("all", 1.0), "search": attempt("search", 0.75)}),
        "budget": SimpleNamespace(allows=lambda drift: drift.to_dict()["score_mean"] < 1),
    }  # fmt: skip
    return SimpleNamespace(**fields | given)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was evaluated: (graph, photos, synthetic frames). Every graph reaches the metrics of FP32."""
    calls: list[Any] = []
    metrics = SimpleNamespace(**FP32, aupro=None)

    def evaluate_graph(graph: str, preprocess: Any, spec: Any, photos: Any, synthetic: Any) -> Any:
        calls.append((graph, photos, synthetic))
        return SimpleNamespace(metrics=metrics)

    monkeypatch.setattr(report_plans, "quantise", lambda model, ranges, plan: f"{plan} of {model} by {ranges}")
    monkeypatch.setattr(report_plans, "evaluate_graph", evaluate_graph)
    return calls


def test_the_plans_that_were_tried_are_scored_on_the_images_of_the_metrics(make: Any, evaluated: list[Any]) -> None:
    run, result = make()
    int8 = result.evaluations["int8"]
    found = measure_plans(run, a_calibration(), int8)
    assert evaluated == [("all of float by ranges", [frame.photo for frame in int8.frames], [])]
    assert found == {"all": {"image_auroc": 0.97, "pixel_ap": 0.5, "aupro": None}}
    everything, searched = plans_tried(a_calibration(), int8, found)
    assert everything == PlanTried("all", {"score_mean": 1.0}, 1.0, 0.0, False, False, found["all"])
    assert (searched.scope, searched.is_exported, searched.is_within_limits) == ("search", True, True)
    assert searched.metrics == {name: getattr(int8.metrics, name) for name in ("image_auroc", "pixel_ap", "aupro")}
    section = precision_section(
        result.manifest, None, result.evaluations, result.graph_bytes, latency_table(1, "int8"), [everything, searched]
    )
    first, second = section["int8"]["trials"]
    assert (first["outcome"], first["metrics"]) == ("moved too far, 100 % of the work", ["0.9700", "0.5000", "–"])
    assert (second["outcome"], second["figures"][0]) == ("exported, 75 % of the work", "0.7500")


def test_synthetic_frames_are_scored_as_they_were(make: Any, evaluated: list[Any]) -> None:
    run, result = make(synthetic=True)
    int8: Evaluation = result.evaluations["int8"]
    measure_plans(run, a_calibration(), int8)
    ((_, photos, frames),) = evaluated
    assert photos == []
    assert [(frame.photo, frame.mask is None) for frame in frames] == [(f.photo, f.mask is None) for f in int8.frames]
    for frame, before in zip(frames, int8.frames, strict=True):
        assert frame.image_bgr_u8.shape == (*SIZE_HW, 3)
        assert before.painted_bgr_u8 is None or (frame.image_bgr_u8 == before.painted_bgr_u8).all()


@pytest.mark.parametrize(
    "given",
    [
        {"improved": ["bias"]},  # of the plan that was taken: another's figures would be of other weights
        {"fine_tuning": SimpleNamespace(is_taken=True)},
        {"scope": "all", "choice": SimpleNamespace(attempts={"all": None})},
    ],
)
def test_plans_that_cannot_be_made_again_are_not_scored(make: Any, evaluated: list[Any], given: Any) -> None:
    run, result = make()
    assert measure_plans(run, a_calibration(**given), result.evaluations["int8"]) == {}
    assert evaluated == []


def test_more_images_than_a_report_may_take_time_for_are_not_scored_again(
    make: Any, evaluated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, result = make()
    monkeypatch.setattr(report_plans, "MOST_RUNS", 8)
    attempt = a_calibration().choice.attempts["all"]
    attempts = {"all": attempt, "float-skips": attempt, "search": attempt}
    many = a_calibration(choice=SimpleNamespace(attempts=attempts))
    assert list(measure_plans(run, many, result.evaluations["int8"])) == ["all"]  # one is, however many images
    assert len(evaluated) == 1


def test_photographs_that_are_gone_leave_the_plans_without_metrics(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, result = make(synthetic=True)
    for path in {frame.photo.path for frame in result.evaluations["int8"].frames}:
        path.unlink()
    lines: list[str] = []
    assert measure_plans(run, a_calibration(), result.evaluations["int8"], lines.append) == {}
    assert lines[-1].startswith("the photographs cannot be read again")
