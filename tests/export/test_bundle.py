"""The whole station on a network that was trained for three steps."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segrd_edge import engines
from segrd_edge.bundle import Bundle
from segrd_edge.calibration import ranges
from segrd_edge.calibration.cache import ObservationCache
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.console import FOUND
from segrd_edge.detector import Detector
from segrd_edge.engines import create
from segrd_edge.errors import ExportError, OptionError, TrainingError
from segrd_edge.export import bundle as station
from segrd_edge.export import fine_tune
from segrd_edge.export.build import build_here
from segrd_edge.export.bundle import ExportResult, export_bundle
from segrd_edge.export.report_plans import measure_plans, metrics_of
from segrd_edge.export.target import Target
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess
from segrd_edge.selftest import self_test
from segrd_edge.tensorrt import timing
from segrd_edge.training.backbone import ResNetFeatures
from segrd_edge.training.data import file_sha256
from segrd_edge.training.evaluate import evaluate
from segrd_edge.training.predict import predict
from segrd_edge.training.run import Run, RunConfig
from segrd_edge.training.train import train

from ..conftest import write_photos
from ..fakes.machine import FakeGpu

FRAME_HW = (90, 120)
OPTIONS = {"head_width": 32, "head_fusion_kernel": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    write_photos(folder / "photos")
    torch.manual_seed(0)
    torch.save(ResNetFeatures("resnet18", 3).state_dict(), folder / "teacher.pth")
    trained = train(
        RunConfig(
            data=str(folder / "photos"),
            model="destseg",
            options=OPTIONS,
            teacher=str(folder / "teacher.pth"),
            preprocess=Preprocess((64, 64)),
            steps=3,
            batch=4,
        ),
        folder / "run",
    )
    assert trained is not None
    return trained


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """torch's exporter runs once: every test here exports the same run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(station, "export_core", lru_cache(station.export_core))
        yield


@pytest.fixture(scope="module")
def result(run: Run, one_core: None, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """Everything that a bundle can hold."""
    out = tmp_path_factory.mktemp("out") / "part.segrd"
    target = Target("tensorrt", FRAME_HW, 2)
    return export_bundle(run, out, settings=Int8Settings(frames=8, scope="head"), target=target)


def test_the_bundle_opens_and_says_what_happened(run: Run, result: ExportResult) -> None:
    bundle = Bundle.open(result.path)
    manifest = bundle.manifest
    assert manifest == result.manifest
    assert set(manifest.graphs) == {"fp32", "int8", "fp16", "mixed"}
    assert result.calibration is not None
    assert manifest.default_precision == ("int8" if result.calibration.is_safe else "fp32")
    assert manifest.product == "part"
    assert Preprocess.from_dict(manifest.preprocess) == run.preprocess
    assert manifest.data["held_out_sha256"] == [entry["sha256"] for entry in run.data["held_out"]]
    assert manifest.model.training.images == len(run.data["train"])
    assert manifest.model.teacher is not None
    assert manifest.model.teacher.sha256 == run.record["teacher"]["sha256"]
    assert result.graph_bytes == {p: len(bundle.graph(p)) for p in manifest.graphs}
    assert result.graph_bytes["int8"] < result.graph_bytes["fp32"]


def test_the_same_plan_is_scored_with_other_scales(result: ExportResult) -> None:
    assert result.manifest.calibration is not None
    found, taken = result.manifest.calibration.metrics_by_method, result.manifest.calibration.method
    assert list(found) == [method for method in ("percentile", "max", "entropy", "mse") if method != taken]
    assert all(0 <= metrics["image_auroc"] <= 1 for metrics in found.values() if metrics["image_auroc"] is not None)
    assert all(set(metrics) == {"image_auroc", "pixel_ap", "aupro"} for metrics in found.values())


def test_a_plan_that_was_tried_is_scored_as_the_one_in_the_bundle(run: Run, result: ExportResult) -> None:
    assert result.calibration is not None
    choice = result.calibration.choice
    twins = replace(choice, attempts={"twin": choice.taken, **choice.attempts})
    int8 = result.evaluations["int8"]
    assert measure_plans(run, replace(result.calibration, choice=twins), int8) == {"twin": metrics_of(int8)}


def test_fp32s_scores_of_the_calibration_frames_are_not_computed_twice(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    judge = station.judge
    monkeypatch.setattr(station, "judge", lambda *args, **given: calls.append(given) or judge(*args, **given))
    settings = Int8Settings(frames=8, scope="head")
    made = export_bundle(run, tmp_path / "part.segrd", settings=settings, evaluate=False).calibration
    assert made is not None
    float_call, int8_call = calls
    assert (float_call["shown"], float_call["reference"]) == ([], None)
    graph = create("auto", Bundle.open(tmp_path / "part.segrd").graph("fp32"))
    scores = [graph.run(frame.image_bgr_u8).score for frame in made.frames]
    graph.close()
    assert len(int8_call["shown"]) == 8
    assert int8_call["reference"].shown_scores == pytest.approx(scores, abs=1e-5)


def test_calibration_record(run: Run, result: ExportResult) -> None:
    record = result.manifest.calibration
    assert record is not None
    assert list(record.method_trials) == ["percentile", "mse"]
    assert record.method in record.method_trials
    assert record.percentile == (99.99 if record.method == "percentile" else None)
    assert record.tensor_methods == {}  # one method for all
    assert [frame.kind for frame in record.frames] == ["good"] * 4 + ["synthetic"] * 4
    assert [frame.defect for frame in record.frames[4:]] == ["nsa", "simplex", "perlin", "nsa"]
    assert len({frame.pixels_sha256 for frame in record.frames} - {None}) == 8
    root = Path(run.config.data)
    assert all(file_sha256(root / frame.file) == frame.sha256 for frame in record.frames)
    held_out = {entry["file"] for entry in run.data["held_out"]}
    assert not held_out & {frame.file for frame in record.frames}  # the threshold's images stay unseen
    assert all(name.startswith("head.") for name in record.quantised)
    assert record.budget == {"score_shift": 0.01, "map_cosine": 0.99, "pairs_turned": 0.01}
    assert result.calibration is not None
    assert record.int8_share == result.calibration.int8_share
    assert record.drift["head"]["flip_rate"] in {i / 8 for i in range(9)}  # at the run's own threshold
    assert record.sensitivity == []  # a scope that was asked for is not searched, and the settings did not ask
    assert {left.node for left in record.left_float} >= {"teacher.conv1", "head.out.1", "deploy.normalise"}


def test_every_precision_has_parity_its_own_threshold_and_metrics(run: Run, result: ExportResult) -> None:
    for precision, record in result.manifest.graphs.items():
        assert record.opset == 19
        assert record.threshold.n_good == len(run.data["held_out"]) == len(result.held_out_scores[precision])
        assert record.threshold.n_defect == 4
        assert record.metrics is not None
        assert record.metrics["source"] == "test photographs"
        assert record.metrics["images_good"] == 4
        assert record.metrics["image_auroc"] == result.evaluations[precision].metrics.image_auroc
        changes = record.verdict_changes
        assert (changes is None) == (precision == "fp32")
        if changes is not None:
            assert changes.held_out_frames == len(run.data["held_out"])
            assert (changes.test_frames, changes.test_source) == (8, "test photographs")
    parity = result.manifest.graphs["fp32"].parity
    assert parity is not None
    assert max(parity["map"], parity["score"]) < 1e-4


def test_fp32_scores_are_those_of_torch(run: Run, result: ExportResult) -> None:
    frames = [read_frame(path) for path in run.photo_paths("held_out")]
    wanted = [prediction.score for prediction in predict(run.model, run.preprocess, frames)]
    assert np.allclose(result.held_out_scores["fp32"], wanted, atol=1e-4)


def test_golden_images_hold_in_the_detector(result: ExportResult) -> None:
    golden = Bundle.open(result.path).golden()
    assert golden["images"].shape == (4, 64, 64, 3)
    precisions = ("fp32", "int8", "fp16", "mixed")
    assert set(golden) == {"images", *(f"{kind}_{precision}" for kind in ("score", "map") for precision in precisions)}
    for engine in ("onnxruntime", "openvino"):
        for precision in ("fp32", "int8"):
            with Detector(result.path, engine=engine, precision=precision) as detector:
                assert detector.self_test().frames == 4


def test_the_graphs_for_tensorrt_take_two_frames_at_once_and_hold_too(run: Run, result: ExportResult) -> None:
    bundle = Bundle.open(result.path)
    for precision, record in bundle.manifest.graphs.items():
        is_half = precision in ("fp16", "mixed")
        assert (record.batch, record.frame_hw) == ((2, FRAME_HW) if is_half else (1, None))
        assert ("deploy.normalise" in {left.node for left in record.kept_fp32}) == is_half
        assert (record.drift is None) == (precision == "fp32")
    for precision in ("fp16", "mixed"):
        engine = create("onnxruntime", bundle.graph(precision))
        assert (engine.takes_frames, engine.input_hw, engine.batch) == (True, FRAME_HW, 2)
        assert self_test(engine, bundle, precision).frames == 4  # type: ignore[arg-type]  # a precision
        engine.close()
    fp16, fp32 = bundle.manifest.graphs["fp16"], bundle.manifest.graphs["fp32"]
    assert fp16.parity is not None
    assert 0 < fp16.parity["score"] < 1e-2
    assert fp16.threshold.value == pytest.approx(fp32.threshold.value, abs=1e-2)
    assert result.graph_bytes["fp16"] < result.graph_bytes["fp32"]


def test_where_there_is_a_gpu_its_engines_are_built_tested_and_run(
    run: Run,
    result: ExportResult,
    fake_gpu: FakeGpu,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the fake GPU, whose engines compute in ONNX Runtime and whose clock needs no long measurement."""
    monkeypatch.setattr(timing, "_BURST_S", 0)
    monkeypatch.setattr(timing, "_WARM_UP_S", 0)
    monkeypatch.setattr(timing, "_ROUNDS", 2)
    assert build_here(result.path, result.target)
    printed = capsys.readouterr().out
    assert "chosen" in printed
    manifest = result.manifest
    assert ("mixed" in printed) == bool(manifest.graphs["mixed"].is_safe)  # whatever the processor's default is
    frame = cv2.resize(read_frame(run.photo_paths("held_out")[0]), FRAME_HW[::-1])
    with (
        Detector(result.path, engine="tensorrt") as on_gpu,
        Detector(result.path, engine="onnxruntime", precision="fp32") as on_cpu,
    ):
        assert on_gpu.precision in ("fp16", "mixed")
        assert on_gpu.inspect(frame).score == pytest.approx(on_cpu.inspect(frame).score, abs=2e-2)


def test_what_does_not_fit_the_run_is_refused_at_once(run: Run, tmp_path: Path) -> None:
    cropped = replace(run, config=replace(run.config, preprocess=Preprocess((64, 64), crop_xywh=(0, 0, 80, 80))))
    with pytest.raises(OptionError, match="--frame 100x70"):
        export_bundle(
            cropped,
            tmp_path / "x.segrd",
            target=Target("tensorrt", (70, 100)),
            said=lambda line: pytest.fail("work was done"),
        )


def test_fp32_only_without_evaluation(run: Run, tmp_path: Path) -> None:
    lines: list[str] = []
    result = export_bundle(run, tmp_path / "x.segrd", int8=False, evaluate=False, said=lines.append)
    assert set(result.manifest.graphs) == {"fp32"}
    assert result.calibration is None and result.manifest.calibration is None  # noqa: PT018
    assert result.evaluations == {}
    assert result.manifest.graphs["fp32"].metrics is None
    assert [line.split()[0] for line in lines] == ["writing", "comparing", "scoring", "writing"]


def test_without_defects_the_metrics_come_from_synthetic_ones(run: Run, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(Path(run.config.data) / "train", photos / "train")
    lines: list[str] = []
    result = export_bundle(run, tmp_path / "x.segrd", int8=False, data=photos, said=lines.append)
    evaluation, record = result.evaluations["fp32"], Bundle.open(result.path).manifest.graphs["fp32"]
    assert f"scoring 8 held-out and {len(evaluation.frames)} synthetic images with fp32" in lines
    assert len(evaluation.by_kind) == 3
    assert record.metrics is not None
    assert record.metrics["source"] == evaluation.source == "synthetic defects on 8 held-out good images"
    assert {frame.photo.path for frame in evaluation.frames} == set(run.photo_paths("held_out", photos))
    assert evaluation.good_scores == result.held_out_scores["fp32"]
    # Nothing that is said of escapes comes from them.
    assert (record.threshold.escape_rate, record.threshold.n_defect) == (None, 0)
    assert record.threshold.histogram.defect is None
    again = evaluate(result.path, photos, synthetic=True, engine=engines.available()[0], precision="fp32")
    assert again.to_dict() == record.metrics


def test_photographs_that_changed_or_went_are_refused(run: Run, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run.config.data, moved)
    first = moved / run.data["held_out"][0]["file"]
    cv2.imwrite(str(first), np.zeros((80, 80, 3), np.uint8))
    with pytest.raises(ExportError, match=r"1 of 8 held_out photographs changed after training"):
        export_bundle(run, tmp_path / "x.segrd", data=moved)
    first.unlink()
    with pytest.raises(TrainingError, match="are gone"):
        export_bundle(run, tmp_path / "x.segrd", data=moved)
    assert not (tmp_path / "x.segrd").exists()


def test_a_graph_that_differs_is_not_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = station.build_deploy_graph
    swapped = replace(run.preprocess, pixel_order="bgr")
    monkeypatch.setattr(station, "build_deploy_graph", lambda core, preprocess, spec: real(core, swapped, spec))
    with pytest.raises(ExportError, match="differs from the torch model"):
        export_bundle(run, tmp_path / "x.segrd", int8=False)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_refused_at_once(run: Run, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="ends in"):
        export_bundle(run, tmp_path / "part.zip", said=lambda line: pytest.fail("work was done"))


def test_a_plan_is_replayed_and_an_edited_one_followed(run: Run, result: ExportResult, tmp_path: Path) -> None:
    assert result.calibration is not None
    choices = {**result.calibration.plan.to_dict(), "head.out.0.0": {"float": "by hand"}}
    edited = export_bundle(
        run, tmp_path / "part.segrd", settings=Int8Settings(8, plan=choices), evaluate=False
    ).manifest.calibration
    assert edited is not None
    before = result.manifest.calibration
    assert before is not None
    assert (edited.scope, set(before.quantised) - set(edited.quantised)) == ("plan", {"head.out.0.0"})
    assert next(left.reason for left in edited.left_float if left.node == "head.out.0.0") == "by hand"
    with pytest.raises(OptionError, match="--plan without INT8"):
        export_bundle(run, tmp_path / "x.segrd", int8=False, settings=Int8Settings(plan=choices))


def test_a_plan_that_does_not_fit_is_refused_by_its_file_before_the_frames_are_chosen(
    run: Run,
    result: ExportResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from segrd_edge.export.cli import command

    assert result.calibration is not None
    monkeypatch.setattr(Run, "load", lambda folder: run)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps({**result.calibration.plan.to_dict(), "head.other": "int8"}))
    with pytest.raises(OptionError, match=f"^the plan {path} names layers that this network does not have: 1"):
        command([run.folder], tmp_path / "x.segrd", plan=path, engine="cpu")
    told = capsys.readouterr().err
    assert "writing the network as ONNX" in told
    assert "comparing it with torch" not in told


def test_a_fine_tune_says_how_far_it_is(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReachedError(Exception):
        """The fine-tune has been reached."""

    def fine_tune_graph(run: Run, photos: Any, budget: Any, graph: Any, *, said: Any) -> None:
        said(f"{budget.minutes:g} minutes")
        raise ReachedError

    monkeypatch.setattr(fine_tune, "fine_tune_graph", fine_tune_graph)
    settings = Int8Settings(4, scope="head", improve=(), fine_tune_minutes=0.5)
    lines: list[str] = []
    with pytest.raises(ReachedError):
        export_bundle(run, tmp_path / "x.segrd", settings=settings, evaluate=False, said=lines.append)
    assert lines[-1] == "0.5 minutes"


def test_the_method_of_every_tensor_is_recorded_and_nothing_observed_twice(run: Run, tmp_path: Path) -> None:
    told: list[str] = []

    def track(items: Sequence[Any], description: str) -> Sequence[Any]:
        told.append(description)
        return items

    each = Int8Settings(4, method="per-tensor", scope="head")
    cache = ObservationCache(tmp_path)
    first = export_bundle(run, tmp_path / "a.segrd", settings=each, evaluate=False, cache=cache, track=track)
    record = first.manifest.calibration
    assert record is not None
    assert first.calibration is not None
    assert record.method == "per-tensor"
    assert record.tensor_methods.keys() == first.calibration.ranges.chosen.keys()
    assert set(record.tensor_methods.values()) <= {"max", "percentile", "entropy", "mse"}
    assert told[:2] == ["reading photographs", "observing activations"]
    with pytest.MonkeyPatch.context() as patch:
        session = SimpleNamespace(run=lambda image: pytest.fail("a frame was observed again"))
        patch.setattr(ranges, "GraphSession", lambda *args: session)
        again = export_bundle(
            run, tmp_path / "b.segrd", settings=replace(each, method="mse"), evaluate=False, cache=cache
        )
    assert again.calibration is not None
    assert again.calibration.prepared.largest == first.calibration.prepared.largest


def test_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from segrd_edge.export.cli import command

    monkeypatch.setattr(Run, "load", lambda folder: run)  # the one whose core is there already
    out = tmp_path / "part.segrd"
    options: dict[str, Any] = {"budget": "0.0001ms", "budget_frame": "90x60", "budget_threads": 1}
    code = command([run.folder], out, int8=False, report=False, engine="cpu", json=True, **options)
    assert code == FOUND  # nothing keeps that; the bundle is whole
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["bundle"] == str(out)
    assert set(figures["graphs"]) == {"fp32"}
    assert figures["graphs"]["fp32"]["threshold"] == Bundle.open(out).manifest.graphs["fp32"].threshold.value
    assert figures["int8"] is None
    assert {name: figures["latency"][name] for name in ("frame_hw", "threads", "samples")} == {
        "frame_hw": [60, 90],
        "threads": 1,
        "samples": 100,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame": "2448", "engine": "tensorrt"}, "--frame 2448"),
        ({"frame": "2448x2048", "engine": "cpu"}, "--frame 2448x2048 for the engine cpu"),
        ({"batch": 4, "engine": "cpu"}, "--batch 4 for the engine cpu"),
        ({"batch": 0, "engine": "tensorrt"}, "--batch 0"),
        ({"engine": "openvino"}, "unknown engine 'openvino'"),
        ({"lean": True, "engine": "tensorrt-rtx"}, "--lean for the engine tensorrt-rtx"),
        ({"budget": "30ms", "engine": "tensorrt"}, "--budget for the engine tensorrt"),
        ({"budget": "soon"}, "--budget soon"),
        ({"budget_threads": 1}, "--budget-frame or --budget-threads without --budget"),
        ({"budget": "30ms", "budget_frame": "2448"}, "--budget-frame 2448"),
        ({"int8_scope": "foo"}, "unknown INT8 scope 'foo'"),
        ({"calibration": "kl"}, "unknown calibration method 'kl'"),
        ({"int8_improve": "rounding,more"}, "unknown INT8 improvement 'more'"),
        ({"qat_minutes": math.inf}, "--qat-minutes inf"),
        ({"max_score_shift": 2}, "--max-score-shift 2"),
        ({"int8": False, "qat_minutes": 3, "min_speedup": 3}, "--min-speedup, --qat-minutes without INT8"),
        ({"budget": "30ms", "min_speedup": 2.5, "engine": "cpu"}, "--min-speedup 2.5 with --budget"),
    ],
)
def test_options_that_cannot_work_are_refused_before_the_run_is_read(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    from segrd_edge.export.cli import command

    with pytest.raises(OptionError, match=message):
        command([tmp_path / "no run"], **options)
