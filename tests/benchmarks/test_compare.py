"""`segrd-compare`, from photographs to the page, with two models of three steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from segrd_edge.benchmarks import candidate, compare
from segrd_edge.benchmarks.compare_cli import command, options_by_model
from segrd_edge.benchmarks.side_by_side import measure_bundles
from segrd_edge.bundle import Bundle
from segrd_edge.calibration import frames as calibration_frames
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.console import build_app
from segrd_edge.errors import DataError, ThresholdError, TrainingError
from segrd_edge.export import report_latency
from segrd_edge.export.bundle import ExportResult, export_bundle
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.models import profile_options
from segrd_edge.training.run import Run, RunConfig

from ..conftest import write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("compare") / "photos", good=24)


@pytest.fixture(scope="module")
def configs(photos: Path) -> dict[str, RunConfig]:
    config = RunConfig(data=str(photos), preprocess=Preprocess((64, 64)), steps=3, batch=4)
    return {name: replace(config, model=name) for name in ("rd", "stfpm")}


@pytest.fixture(scope="module")
def finished(configs: dict[str, RunConfig], photos: Path) -> Path:
    """The folder of a comparison that was interrupted after its first model, and then went on."""
    out = photos.parent / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_frames, "FEWEST", 2)
        patch.setattr(report_latency, "_WARM_UP", 0)
        patch.setattr(report_latency, "_ENOUGH_S", 0.0)
        patch.setattr(candidate, "export_bundle", quick_export(interrupted_at="stfpm"))
        with pytest.raises(KeyboardInterrupt):
            compare.compare(configs, out, threads=1, rounds=2)
        assert not (out / "stfpm" / compare.RESULT_FILE).exists()
        before = (out / "rd" / compare.RESULT_FILE).stat().st_mtime_ns
        said: list[str] = []
        patch.setattr(candidate, "export_bundle", quick_export())
        compare.compare(configs, out, threads=1, rounds=2, latency_ms=1e6, progress=compare.Progress(said.append))
    assert said[0] == "1 of 2, rd: done before"
    assert (out / "rd" / compare.RESULT_FILE).stat().st_mtime_ns == before
    return out


def quick_export(interrupted_at: str = "") -> Callable[..., ExportResult]:
    """The export with few calibration frames, all of the network in INT8."""

    def export(run: Run, *args: Any, **options: Any) -> ExportResult:
        if run.config.model == interrupted_at:
            raise KeyboardInterrupt
        return export_bundle(run, *args, **options, settings=Int8Settings(frames=8, scope="all"))

    return export


def test_compare_json_holds_everything(finished: Path) -> None:
    summary = json.loads((finished / compare.SUMMARY_FILE).read_text())
    assert list(summary["models"]) == ["rd", "stfpm"]
    timed = [(latency["bundle"], latency["precision"]) for latency in summary["latency"]["bundles"]]
    assert timed == [(name, precision) for name in ("rd", "stfpm") for precision in ("fp32", "int8")]
    for name, record in summary["models"].items():
        assert record["steps"] == 3
        assert record["bundle_bytes"] == (finished / name / "part.segrd").stat().st_size
        for precision, graph in Bundle.open(finished / name / "part.segrd").manifest.graphs.items():
            assert graph.metrics is not None
            reached = record["precisions"][precision]
            assert reached["image_auroc"] == graph.metrics["image_auroc"]
            assert reached["wrong"]["escapes"] == [round(4 * reached["escape_rate"]), 4]
    assert summary["recommendation"]["model"] in ("rd", "stfpm")
    assert summary["latency"]["frames"]["sizes_hw"] == [[80, 80]]
    assert all(latency["p95_ms"] is None for latency in summary["latency"]["bundles"])  # of 4 samples


def test_each_image_has_its_score_and_its_own_pixel_ap(finished: Path) -> None:
    images = json.loads((finished / "rd" / compare.RESULT_FILE).read_text())["images"]
    assert [image["defective"] for image in images] == [False] * 4 + [True] * 4
    for image in images:
        for precision in ("fp32", "int8"):
            assert 0 <= image[precision]["score"] <= 1
            assert (image[precision]["pixel_ap"] is None) == (not image["defective"])


def test_the_page_and_the_reports_that_it_links_to(finished: Path) -> None:
    html = (finished / compare.PAGE_FILE).read_text(encoding="utf-8")
    assert "the best of these for this part within 1e+06 ms" in html
    for name in ("rd", "stfpm"):
        assert f'href="{name}/part.html"' in html
        assert (finished / name / "part.html").is_file()


def test_other_settings_are_refused_before_anything_is_trained(configs: dict[str, RunConfig], finished: Path) -> None:
    longer = {name: replace(config, steps=5) for name, config in configs.items()}
    with pytest.raises(TrainingError, match="was begun with steps 3 and not 5"):
        compare.compare(longer, finished)


def test_a_model_that_fails_is_named_and_the_others_go_on(
    configs: dict[str, RunConfig], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "rd").symlink_to(finished / "rd")

    def fail(*_: Any, **__: Any) -> None:
        raise ThresholdError("no threshold")

    monkeypatch.setattr(compare, "make_candidate", fail)
    summary = compare.compare(configs, out, threads=1, rounds=2)
    assert summary["failed"] == {"stfpm": "no threshold"}
    assert list(summary["models"]) == ["rd"]
    with pytest.raises(TrainingError, match="none of the models could be trained and exported: stfpm: no threshold"):
        compare.compare({"stfpm": configs["stfpm"]}, out)


def test_too_few_photographs(configs: dict[str, RunConfig], tmp_path: Path) -> None:
    few = write_photos(tmp_path / "few", good=9)
    asked = {name: replace(config, data=str(few)) for name, config in configs.items()}
    with pytest.raises(DataError, match="9 usable good images"):
        compare.compare(asked, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists()


def test_bundles_of_two_sizes_are_measured_together(bundle_path: Path, finished: Path) -> None:
    both = {"a": bundle_path, "b": finished / "rd" / "part.segrd"}
    measured = measure_bundles(both, compare._frames(finished / "rd", (64, 64)), threads=1, rounds=2)
    sizes = {(row["bundle"], *row["network_hw"]) for row in measured["bundles"]}
    assert sizes == {("a", 64, 96), ("b", 64, 64)}


def cli(*arguments: Any) -> Result:
    app = build_app(command, name="segrd-compare", example="segrd-compare photos --out compare", extra="export")
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "yolo"], "unknown model 'yolo'"),
        (["--model", "rd", "--option", "rd.depth=3"], "expected: model options among"),
        (["--model", "rd:fast"], "the model rd has no profile 'fast'"),
        (["--model", "adps:quick"], "one of accurate, balanced, fast"),
        (["--rotation", "half"], "--rotation half"),
        (["--option", "head_width=64"], "--option head_width=64"),
        (["--model", "rd", "--option", "destseg.head_width=64"], "destseg is not compared"),
        (["--latency-ms", "0"], "--latency-ms 0"),
        (["--minutes", "3", "--steps", "3", "--model", "rd"], "a budget of steps=3 and minutes=3.0"),
        (["--frame", "64"], "--frame 64"),
        (["--size", "100"], "network size 100x100"),
    ],
)
def test_wrong_options_cost_no_training(photos: Path, tmp_path: Path, options: list[str], message: str) -> None:
    done = cli(photos, "--out", tmp_path / "out", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = cli(tmp_path / "absent", "--out", tmp_path / "out", "--model", "rd")
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "expected", "fix"]
    assert "absent is not a folder" in lines[0]


def test_the_command_again_measures_again(photos: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def two_rounds(bundles: Any, frames: Any, **options: Any) -> Any:
        return measure_bundles(bundles, frames, **{**options, "rounds": 2})

    monkeypatch.setattr(compare, "measure_bundles", two_rounds)
    settings = ("--steps", 3, "--batch", 4, "--size", 64, "--threads", 1, "--frame", "60x50", "--latency-ms", 1e-3)
    done = cli(photos, "--out", finished, "--model", "rd", "--model", "stfpm", *settings, "--json")
    assert done.exit_code == 0, done.stderr
    (line,) = done.stdout.splitlines()
    summary = json.loads(line)
    assert summary["latency"]["frames"]["sizes_hw"] == [[50, 60]]
    assert summary["recommendation"]["model"] is None
    assert "2 of 2, stfpm: done before" in done.stderr
    assert "No model keeps 0.001 ms." in done.stderr


def test_options_belong_to_models() -> None:
    options = options_by_model(["rd.a=1", "destseg.b=x", "rd.c=0.5"], ["rd", "destseg", "stfpm"])
    assert options == {"rd": {"a": 1, "c": 0.5}, "destseg": {"b": "x"}, "stfpm": {}}


def test_profiles_of_a_model_are_compared_each_in_a_folder_of_its_own(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, RunConfig] = {}

    def compare_nothing(configs: dict[str, RunConfig], out: Path, **_: Any) -> None:
        asked.update(configs)
        raise TrainingError("asked")

    monkeypatch.setattr(compare, "compare", compare_nothing)
    models = ("--model", "adps", "--model", "adps:fast", "--model", "destseg:accurate", "--model", "destseg")
    settings = ("--option", "adps:fast.decoder=plain", "--rotation", "small", "--no-foreground")
    assert "asked" in cli(photos, "--out", tmp_path / "out", *models, *settings).stderr
    assert list(asked) == ["adps", "adps-fast", "destseg-accurate", "destseg"]
    assert [config.model for config in asked.values()] == ["adps", "adps", "destseg", "destseg"]
    assert asked["adps"].options == {}
    assert asked["adps-fast"].options == {**profile_options("adps", "fast"), "decoder": "plain"}
    assert asked["destseg-accurate"].options == {}
    assert asked["destseg"].options == profile_options("destseg", "balanced")  # with minutes
    assert all((config.rotation, config.foreground) == ("small", False) for config in asked.values())
