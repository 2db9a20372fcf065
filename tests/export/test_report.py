"""The page says what the run and the result hold, says so in words where they hold nothing, and needs no other file."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from segrd_edge.bundle import Bundle
from segrd_edge.calibration.budget import Budget
from segrd_edge.calibration.drift import Drift
from segrd_edge.export import charts, report_text
from segrd_edge.export.report import _typical_frame, write_report
from segrd_edge.export.report_facts import Errors, Share, answer, choose_cases, compare, count_errors
from segrd_edge.export.report_int8 import why_default
from segrd_edge.export.report_pictures import case_pictures
from segrd_edge.export.report_precision import _calibration
from segrd_edge.export.target import Target
from segrd_edge.frames import read_frame
from segrd_edge.manifest import CalibrationRecord, NodeReason
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.data import Photo
from segrd_edge.training.evaluate import FrameResult

from .report_data import (  # noqa: F401  (fixtures)
    FRAME_HW,
    HELD_OUT,
    SIZE_HW,
    Page,
    evaluations_of,
    few_rounds,
    making,
)


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("evaluated", [True, False])
def test_it_renders_whatever_is_missing(make: Any, tmp_path: Path, int8: bool, evaluated: bool) -> None:
    page = Page.of(write_report(tmp_path / "new" / "part.html", *make(int8=int8, evaluated=evaluated)))
    assert [heading[:2].strip() for heading in page.headings][1:] == [str(number) for number in range(2, 11)]
    assert ("no defect images were given, so the escape rate is unknown" in page.text) == (not evaluated)
    assert ("This bundle has no INT8 graph" in page.text) == (not int8)
    assert "Undefined" not in page.text
    assert "None" not in page.text


def test_it_is_one_file_whose_pictures_decode(make: Any, tmp_path: Path) -> None:
    html = write_report(tmp_path / "part.html", *make())
    page = Page.of(html)
    assert len(page.pictures) > 9
    for uri in page.pictures:
        head, _, body = uri.partition(",")
        assert head in ("data:image/jpeg;base64", "data:image/png;base64")
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(body, validate=True), np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert min(pixels.shape[:2]) >= 24
    source = html.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|<script|<link", source)
    assert page.targets == [f"#{name}" for name in page.anchors]
    assert html.stat().st_size < 3_000_000


def test_its_numbers_are_those_of_the_result(make: Any, tmp_path: Path) -> None:
    run, result = make()
    text = Page.of(write_report(tmp_path / "part.html", run, result)).text
    for precision, graph in result.manifest.graphs.items():
        metrics = result.evaluations[precision].metrics
        assert f"{graph.threshold.value:.4f}" in text
        for value in (metrics.image_auroc, metrics.pixel_ap, metrics.aupro, metrics.iap, metrics.f1):
            assert f"{value:.4f}" in text
    assert result.manifest.graphs["int8"].threshold.statement in text
    # int8 rejects the third good image, fp32 none; both miss the second dent.
    assert "1 of 4 (25 %)" in text
    assert "0 of 4 (0 %)" in text
    assert "1 of 5 (20 %)" in text
    assert "int8 and fp32 disagree on 1 of 9 test images" in text
    for checksum in Bundle.open(result.path).sha256.values():
        assert checksum in text
    assert "3 frames set the INT8 scales: 2 good and 1 with a synthetic defect" in text
    assert "2 of 3 convolutions run in INT8" in text
    assert "1 output channels, fewer than 16" in text


def test_metrics_on_synthetic_defects_are_said_to_be_and_tell_nothing_of_escapes(make: Any, tmp_path: Path) -> None:
    run, result = make(synthetic=True)
    page = Page.of(write_report(tmp_path / "part.html", run, result))
    text = page.text
    assert "Not known yet: no defect images were given, so the escape rate is unknown" in text
    assert text.count("The metrics come from synthetic defects on 4 held-out good images. A model that was") == 2
    assert f"{result.evaluations['fp32'].metrics.image_auroc:.4f}" in text
    assert "synthetic perlin" in text
    assert "1 missed defect among these" in text
    assert "synthetic perlin on photos/0.png" in text
    assert "int8 and fp32 disagree on 1 of 12 test images with and without synthetic defects" in text
    assert f"segrd-eval {result.path} {run.config.data} --synthetic" in text
    assert not re.search(r"\d[^.]{0,60}escape|escape among|measure false rejects|Undefined|None", text)


def test_a_synthetic_defect_is_shown_where_it_lies_in_the_frame(tmp_path: Path) -> None:
    preprocess = Preprocess(SIZE_HW, fit="letterbox", crop_xywh=(20, 4, 40, 30))
    path = tmp_path / "good.png"
    cv2.imwrite(str(path), np.full((*FRAME_HW, 3), 60, np.uint8))
    painted = preprocess.resize(read_frame(path))
    placement = preprocess.placement(FRAME_HW)
    placement.covered(painted)[:, -8:] = 250  # the right fifth of the crop
    result = FrameResult(Photo(path, "synthetic perlin"), 0.9, np.zeros(SIZE_HW, np.float32), None, painted)
    picture = _decode(case_pictures(result, preprocess, 0.95).frame)
    bright = np.argwhere(picture[..., 0] > 150)
    assert np.abs(np.array([bright.min(axis=0), bright.max(axis=0)]) - [[4, 52], [33, 59]]).max() <= 2


def test_float16_layers_and_the_target_are_explained(make: Any, tmp_path: Path) -> None:
    run, result = make()
    drift = {"score_mean": 0.0012, "score_max": 0.0034, "map_cosine_mean": 0.9987, "map_cosine_min": 0.9876}
    kept = [NodeReason(node=n, reason="gives or follows raw") for n in ("head.out", "deploy.blur")]
    half = result.manifest.graphs["fp32"].model_copy(
        update={"drift": drift, "kept_fp32": kept, "batch": 4, "frame_hw": (2048, 2448)}
    )
    mixed = half.model_copy(update={"is_safe": False})
    graphs = {**result.manifest.graphs, "fp16": half, "mixed": mixed}
    manifest = result.manifest.model_copy(update={"graphs": graphs})
    target = Target("tensorrt", (2048, 2448), 4)
    changed = replace(
        result,
        manifest=manifest,
        target=target,
        held_out_scores={**result.held_out_scores, **dict.fromkeys(("fp16", "mixed"), HELD_OUT["fp32"])},
        evaluations={**result.evaluations, **dict.fromkeys(("fp16", "mixed"), result.evaluations["fp32"])},
        graph_bytes={**result.graph_bytes, "fp16": 5_500_000, "mixed": 4_500_000},
    )
    text = Page.of(write_report(tmp_path / "part.html", run, changed)).text
    assert "4 frames of 2448 × 2048" in text
    assert "fp16 and mixed: 2 nodes kept in float32, and why" in text  # once, as they are the same
    assert text.count("head.out, deploy.blur") == 1
    assert "(default on a processor)" in text
    assert "TensorRT takes fp16, because mixed moves the results further than the limits allow." in text
    for value in ("0.0012", "0.0034", "0.9987", "0.9876"):
        assert value in text
    assert "--int8 --engine tensorrt --frame 2448x2048 --batch 4 --out" in text
    assert "segrd-build" in text
    plain = Page.of(write_report(tmp_path / "plain.html", run, result)).text
    assert "Float16" not in plain
    assert "segrd-build" not in plain


def test_what_int8_does_and_what_else_was_tried_are_shown(make: Any, tmp_path: Path) -> None:
    run, result = make()
    drift = {"score_mean": 0.0123, "score_max": 0.2, "map_cosine_mean": 0.98, "map_cosine_min": 0.9}
    turned = {"pairs_turned": 1 / 8, "flip_rate": 1 / 12, "image_auroc_drop": 1 / 36, "pixel_ap_drop": 1 / 32}
    blocks = [
        {"block": "student.layer1.0", "nodes": ["student.a"], "macs": 300, "drift": {**drift, "score_mean": 0.0042}},
        {"block": "head.fuse", "nodes": ["head.out"], "macs": 100, "drift": {**drift, "score_mean": 0.0777, **turned}},
    ]
    tuning = {"minutes": 1, "steps": 25, "before": drift, "after": {**drift, "score_mean": 0.0456}, "is_taken": False}
    record = CalibrationRecord.model_validate({
        **result.manifest.calibration.model_dump(), "sensitivity": blocks, "improved": ["bias"], "fine_tuning": tuning,
        "drift_by_method": {"percentile": drift, "max": {**drift, "score_mean": 0.0088, "flip_rate": 0.25}},
        "metrics_by_method": {"max": {"image_auroc": 0.9125, "pixel_ap": 0.5, "aupro": None}},
    })  # fmt: skip
    found = _calibration(record, None, result.evaluations)
    exported = result.evaluations["int8"].metrics
    assert [(method, figures[0], figures[5], metrics[0]) for method, figures, metrics in found["methods"]["rows"]] == [
        ("percentile", "0.0123", "–", report_text.number(exported.image_auroc)), ("max", "0.0088", "0.2500", "0.9125"),
    ]  # fmt: skip
    assert "0.0042, 75 % of the work, INT8" in found["sensitivity"]["chart"]
    assert "0.0777, 25 % of the work, float" in found["sensitivity"]["chart"]
    student, head = found["sensitivity"]["rows"]
    assert (student[:2], head[:2]) == (("student.layer1.0", "INT8"), ("head.fuse", "float"))
    assert head[2] == ["0.0777", "0.2000", "0.9800", "0.9000", "0.1250", "0.0833", "0.0278", "0.0312"]
    assert found["weights"][0] == "Biases take up INT8's mean shift."
    assert found["weights"][1].endswith("0.0123 before, mean |Δscore| 0.0456 after; the result was not taken.")
    manifest = result.manifest.model_copy(update={"calibration": record})
    html = write_report(tmp_path / "part.html", run, replace(result, manifest=manifest))
    text = Page.of(html).text
    assert "INT8 is the default on a processor." in text
    assert "The same layers with scales found in other ways" in text
    assert "What each block does alone" in text
    assert "All that each block alone does" in text
    assert (
        "int8 moves these scores by 0.0211 on average. 1 image of 9 lies no farther than that from fp32's threshold, "
        "and 1 has another verdict." in text
    )
    assert "--max-score-shift" not in text
    graphs = dict(manifest.graphs)
    graphs["int8"] = graphs["int8"].model_copy(update={"drift": {**drift, "score_mean": 0.0086}})
    turned = replace(result, manifest=manifest.model_copy(update={"graphs": graphs}))
    text = Page.of(write_report(tmp_path / "turned.html", run, turned)).text
    assert "1 has another verdict. For fewer, add --max-score-shift 0.004 to the command that made this bundle" in text
    # A mark per image: 4 good ones, 5 defects.
    marks = re.findall(r'<circle class="(good|defect)"', html.read_text(encoding="utf-8"))
    assert (marks.count("good"), marks.count("defect")) == (4, 5)


def test_scores_that_have_not_moved_lie_on_the_diagonal() -> None:
    axis = charts.Axis(0, 1)
    svg = charts.agreement({"good": [(0.25, 0.25), (0.75, 0.5)]}, (0.5, 0.6), axis, x_label="before", y_label="after")
    (x0, y0), (x1, y1) = ((float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg))
    left, bottom, right, top = map(float, re.findall(r"M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)", svg)[0])
    assert (x0 - left) / (right - left) == pytest.approx((bottom - y0) / (bottom - top), abs=1e-3)
    assert (x1 - left) / (right - left) == pytest.approx(0.75, abs=1e-3)
    assert (bottom - y1) / (bottom - top) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("chosen", "given", "sentence"),
    [
        ("int8", {}, "INT8 is the default on a processor: with 61.3 % of the work in it, the results keep within the "
         "limits (mean |Δscore| 0.01, mean map cosine 0.99, pairs turned 0.01)."),
        ("fp32", {"drift": Drift(0.02, 0.1, 0.999, 0.99, 0.1)}, "INT8 is in the bundle, but fp32 stays the default: "
         "mean |Δscore| 0.0200 over 0.01."),
        ("fp32", {"budget": Budget(speedup=2.5), "speedup": 2.46, "reached_speedup": 2.46}, "INT8 is in the bundle, "
         "but fp32 stays the default: it is measured 2.46 times as fast as fp32, and 2.5 times was asked for."),
        ("fp32", {"budget": Budget(speedup=3), "reached_speedup": 1.85}, "INT8 is in the bundle, but fp32 stays the "
         "default: it is by its work 1.85 times as fast as fp32, and 3 times was asked for."),
        ("fp32", {"int8_ms": 20.0}, "INT8 is in the bundle, but fp32 stays the default: fp32 keeps the budget of 30 ms "
         "as well, and is more accurate on the images that the metrics come from."),
        ("fp32", {"int8_ms": 29.0}, "INT8 is in the bundle, but fp32 stays the default: fp32 keeps the budget of 30 "
         "ms, and is not slower here."),
        ("fp32", {"int8_ms": 31.0}, "INT8 is in the bundle, but fp32 stays the default: it takes 31.0 ms at p99 here, "
         "and the budget of 30 ms is kept by fp32."),
        ("fp32", {"int8_ms": None}, "INT8 is in the bundle, but fp32 stays the default: against the budget of 30 ms "
         "only fp32 could be timed here."),
    ],
)  # fmt: skip
def test_why_int8_is_the_default_or_not(make: Any, chosen: Any, given: dict[str, Any], sentence: str) -> None:
    fields = {
        "drift": Drift(0.005, 0.1, 0.999, 0.99, 0.1), "budget": Budget(), "int8_share": 0.613, "speedup": None,
        "is_fast": "reached_speedup" not in given,
    }  # fmt: skip
    calibration: Any = SimpleNamespace(**fields | given)
    manifest = make()[1].manifest.model_copy(update={"default_precision": chosen})
    if "int8_ms" in given:
        timed = {"fp32": 25.0, "int8": given["int8_ms"]}
        latency = SimpleNamespace(budget_ms=30.0, p99_ms={name: ms for name, ms in timed.items() if ms})
        manifest = manifest.model_copy(update={"latency": latency})
    assert why_default(manifest, calibration) == sentence


def test_methods_of_calibration_are_counted() -> None:
    fields: dict[str, Any] = {
        "method": "per-tensor", "percentile": 99.9, "equalised": ["c"], "scope": "all", "drift": {}, "frames": [],
        "quantised": ["head.a"], "left_float": [],
    }  # fmt: skip
    methods = {"a": "percentile", "b": "max", "d": "percentile"}
    record = CalibrationRecord.model_validate({**fields, "tensor_methods": methods})
    assert _calibration(record, None, {})["method"].startswith(
        "per-tensor, by what each does to the output: percentile 99.9 for 2 tensors, max for 1 tensor; concatenated"
    )
    alone = CalibrationRecord.model_validate({**fields, "method": "mse", "percentile": None, "equalised": []})
    assert _calibration(alone, None, {})["method"] == "mse"
    trials = {
        "percentile": {"score_mean": 0.0101, "map_cosine_mean": 0.95},
        "mse": {"score_mean": 0.0121, "map_cosine_mean": 0.99},
    }
    chosen = alone.model_copy(update={"method_trials": trials})
    assert _calibration(chosen, None, {})["method"] == (
        "mse, the way that moves scores and maps less with everything in INT8 "
        "(mean |Δscore| and mean map cosine: percentile 0.0101 and 0.9500, mse 0.0121 and 0.9900)"
    )


def test_what_runs_in_two_terms_is_said_and_explained() -> None:
    block = {"block": "head.a", "nodes": ["head.a"], "macs": 3, "drift": {"score_mean": 0.04}}
    fields: dict[str, Any] = {
        "method": "percentile", "percentile": 99.9, "equalised": [], "scope": "search", "drift": {}, "frames": [],
        "quantised": ["head.a", "head.b"], "left_float": [], "sensitivity": [block],
    }  # fmt: skip
    plain = _calibration(CalibrationRecord.model_validate(fields), None, {})
    assert (plain["two_terms"], plain["two_term_reasons"]) == ([], {})
    assert "100 % of the work, INT8<" in plain["sensitivity"]["chart"]
    why = {"node": "head.a", "reason": "alone it moves too much"}
    twice = {**fields, "two_term": [why], "two_term_share": 0.25, "float_skips": True, "unclipped": ["x", "y"]}
    shown = _calibration(CalibrationRecord.model_validate(twice), None, {})
    first, second = shown["two_terms"]
    assert first.startswith("1 convolution, with 25 % of the multiply-accumulates, read their input as the sum")
    assert second == "What skips the residual blocks stays in float."
    assert shown["two_term_reasons"] == {"alone it moves too much": ["head.a"]}
    assert shown["method"] == "percentile 99.9; 2 tensors of what the head reads not clipped"
    assert "100 % of the work, INT8 in two terms<" in shown["sensitivity"]["chart"]
    assert [row[1] for row in shown["sensitivity"]["rows"]] == ["INT8 in two terms"]


def test_a_crop_and_what_it_leaves_out(make: Any, tmp_path: Path) -> None:
    run, result = make()
    preprocess = replace(run.preprocess, crop_xywh=(2, 4, 40, 30))
    gone = Photo(tmp_path / "gone.png", "dent", tmp_path / "gone_mask.png")
    evaluations = {name: replace(found, left_out=[gone]) for name, found in result.evaluations.items()}
    cropped = replace(run, config=replace(run.config, preprocess=preprocess))
    text = Page.of(write_report(tmp_path / "part.html", cropped, replace(result, evaluations=evaluations))).text
    assert "--crop 2,4,40,30" in text
    assert "40 × 30 from x = 2, y = 4; nothing else is looked at" in text
    assert "; 1 left out: the defects lie outside the crop" in text


def test_a_golden_image_is_timed_as_a_frame_that_the_crop_lies_inside_of(make: Any) -> None:
    run, result = make(evaluated=False)
    assert _typical_frame([], run, Bundle.open(result.path)).shape == (*SIZE_HW, 3)
    preprocess = replace(run.preprocess, crop_xywh=(2, 4, 40, 30))
    cropped = replace(run, config=replace(run.config, preprocess=preprocess))
    assert _typical_frame([], cropped, Bundle.open(result.path)).shape == (34, 42, 3)


def test_the_commands_give_every_option_that_matters(make: Any, tmp_path: Path) -> None:
    run, result = make()
    config = replace(run.config, seed=3, rotation="full", false_reject=0.01, options={"head_width": 64})
    text = Page.of(write_report(tmp_path / "part.html", replace(run, config=config), result)).text
    command = next(line for line in text.splitlines() if line.strip().startswith("segrd-train"))
    for option in ("--minutes 2", "--batch 8", "--size 32", "--seed 3", "--rotation full", "--false-reject 1%"):
        assert option in command
    assert "--profile accurate --option head_width=64" in command  # with minutes the head would be another one
    assert "--textures" not in command
    assert f"segrd-export {run.folder} --int8 --engine cpu --out {result.path}" in text


def test_names_are_escaped(make: Any, tmp_path: Path) -> None:
    run, result = make(evaluated=False)
    manifest = result.manifest.model_copy(update={"product": "<b>cap & lid</b>"})
    html = write_report(tmp_path / "part.html", run, replace(result, manifest=manifest))
    assert "<b>cap" not in html.read_text(encoding="utf-8")
    assert "<b>cap & lid</b>" in Page.of(html).text


def test_problems_of_the_data_are_listed_and_their_absence_is_said(make: Any, tmp_path: Path) -> None:
    run, result = make(evaluated=False)
    assert "The data check found no problem" in Page.of(write_report(tmp_path / "a.html", run, result)).text
    data = {**run.data, "problems": ["photos/7.png: cannot be read"]}
    text = Page.of(write_report(tmp_path / "b.html", replace(run, data=data), result)).text
    assert "photos/7.png: cannot be read" in text
    assert "--skip-bad" in text


def test_photographs_that_are_gone_are_said_to_be(make: Any, tmp_path: Path) -> None:
    run, result = make()
    for path in (tmp_path / "photos").rglob("*.png"):
        path.unlink()
    text = Page.of(write_report(tmp_path / "part.html", run, result)).text
    assert "the file is gone" in text
    assert "unknown: the photographs are no longer in that folder" in text


def test_good_images_that_set_the_threshold_prove_nothing_about_it(make: Any, tmp_path: Path) -> None:
    run, result = make()
    counts = {key: count for key, count in run.data["counts"].items() if key != "test/good"}
    plain = replace(run, data={**run.data, "layout": "plain", "counts": counts})
    text = Page.of(write_report(tmp_path / "part.html", plain, result)).text
    assert "the held-out ones stand in for them" in text
    assert "fits the budget" not in text
    assert "good, test" not in text


@pytest.mark.parametrize(
    ("rejects", "escapes", "expected"),
    [
        (Share(0, 40), Share(0, 20), "yes"),
        (Share(1, 40), Share(0, 20), "yes"),  # 18 % of all sets of 40 have one or more at a rate of 0.5 %
        (Share(3, 40), Share(0, 20), "decide"),  # 0.1 % have three
        (Share(0, 40), Share(2, 20), "decide"),
        (Share(0, 40), Share(6, 20), "no"),
        (Share(3, 40), Share(1, 20), "no"),
        (Share(0, 40), Share(0, 0), "unknown"),
    ],
)
def test_the_answer(rejects: Share, escapes: Share, expected: str) -> None:
    assert answer(Errors(rejects, escapes, {}), 0.005) == expected


def test_good_images_that_set_the_threshold_are_no_evidence_of_false_rejects() -> None:
    errors = Errors(Share(0, 8), Share(2, 20), {})
    assert report_text.headline("decide", errors, fresh_good=True).endswith("false rejects keep to the budget.")
    assert report_text.headline("decide", errors, fresh_good=False).endswith("what new good parts do is not known.")


def test_the_upper_limit_is_clopper_pearsons() -> None:
    assert Share(0, 20).upper_limit == pytest.approx(1 - 0.05 ** (1 / 20), abs=1e-12)  # the "rule of three"
    assert Share(1, 20).upper_limit == pytest.approx(0.2161, abs=1e-4)  # tabulated
    assert Share(5, 5).upper_limit == 1.0


def test_errors_and_differences_count_scores_at_the_threshold_as_defects(tmp_path: Path) -> None:
    both = evaluations_of(tmp_path, ["fp32", "int8"])
    errors = count_errors(both["fp32"], 0.5)  # a scratch scores exactly 0.5
    assert (errors.escapes.count, errors.escapes_by_kind["scratch"].count) == (1, 0)
    assert errors.escapes_by_kind["dent"] == Share(1, 3)
    difference = compare(both["fp32"], both["int8"], (0.21, 0.22))
    assert difference.verdicts == Share(1, 9)
    assert difference.score_max == pytest.approx(0.08, abs=1e-6)


def test_cases_are_the_extremes_and_nobody_is_in_two_groups(tmp_path: Path) -> None:
    frames = evaluations_of(tmp_path, ["fp32"])["fp32"].frames
    cases = choose_cases(frames, count=2)
    assert [round(f.score, 3) for f in cases.hardest] == [0.12, 0.5]
    assert [round(f.score, 3) for f in cases.highest_good] == [0.19, 0.15]
    assert [round(f.score, 3) for f in cases.clearest] == [0.9, 0.7]
    every = choose_cases(frames, count=100)
    assert len(every.hardest) + len(every.clearest) == 5


def test_the_heat_map_is_hot_where_the_map_is(tmp_path: Path) -> None:
    result = next(f for f in evaluations_of(tmp_path, ["fp32"])["fp32"].frames if f.score > 0.8)
    pictures = case_pictures(result, Preprocess(SIZE_HW), 0.3)
    frame, heat, mask = (_decode(uri) for uri in (pictures.frame, pictures.heat, pictures.mask))
    changed = np.abs(heat.astype(int) - frame).max(axis=2) > 30  # JPEG leaves about 10
    assert changed[mask[..., 0] > 128].mean() > 0.9
    assert changed[:, :16].mean() == 0  # the defect lies in the right half


def test_axes_are_monotonic_and_their_ticks_apart() -> None:
    rng = np.random.default_rng(0)
    for kind, low, high in (("linear", 0.0, 0.37), ("log", 0.02, 900.0), ("log", 2.0, 3.0), ("logit", 1e-4, 0.999)):
        axis = charts.Axis(low, high, kind)  # type: ignore[arg-type]
        values = np.sort(rng.uniform(low, high, 50))
        assert (np.diff(axis.at(values)) >= 0).all()
        assert axis.at([low, high]) == pytest.approx([0, 1], abs=1e-9)
        ticks = axis.ticks(300, 36)
        assert 1 <= len(ticks) <= 9
        assert (np.diff(axis.at(ticks)) * 300 >= 36 - 1e-9).all()


def test_scores_that_crowd_get_a_stretched_axis() -> None:
    crowded, spread = [0.001, 0.002, 0.003], [0.5, 0.7, 0.9]
    assert charts.score_axis([crowded, spread], 0.01).kind == "logit"
    assert charts.score_axis([[0.1, 0.2, 0.3], spread], 0.4).kind == "linear"
    assert charts.score_axis([[0.2]], 0.2).kind == "linear"


def test_a_curve_shows_every_point_until_there_are_too_many() -> None:
    steps = np.arange(1, 5001)
    short = charts.curve(steps[:9], 1.0 / steps[:9], title="loss")
    assert short.count("L") == 8
    long = charts.curve(steps, 1.0 / steps, title="loss", log=True)
    assert len(long) < 20_000
    assert charts.curve([1], [0.0], title="one point")


def _decode(uri: str | None) -> np.ndarray:
    assert uri is not None
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(picture)
