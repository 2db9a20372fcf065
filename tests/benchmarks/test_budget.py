"""What fits a budget: the judgement on figures that nobody measured, and the command on tiny bundles."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from segrd_edge.benchmarks.budget import Answer, Basis, Timed, judge
from segrd_edge.benchmarks.budget_run import P99_ROUNDS, Settings, basis, rounds, timed
from segrd_edge.benchmarks.budget_text import best_of, headline, python_line, sentences
from segrd_edge.benchmarks.choice import RESULT_FILE, Scored
from segrd_edge.benchmarks.cli import command
from segrd_edge.bundle import Bundle
from segrd_edge.console import build_app
from segrd_edge.errors import OptionError
from segrd_edge.manifest import Manifest

from .made_up import record, scored

PHOTOGRAPHS = Basis("test photographs (20 good, 20 defective)", "a")
SYNTHETIC = Basis("synthetic defects on held-out good images (9 good, 9 defective)", "b")


def made(
    model: str,
    p99_ms: float,
    image_auroc: float | None = 0.9,
    pixel_ap: float | None = 0.5,
    *,
    precision: str = "fp32",
    is_accepted: bool = True,
    of: Basis | None = PHOTOGRAPHS,
    images: Scored | None = None,
    preprocess_ms: float = 1.0,
    late: int = 0,
) -> Timed:
    return Timed(
        model=model,
        precision=precision,
        image_auroc=image_auroc,
        pixel_ap=pixel_ap,
        median_ms=0.8 * p99_ms,
        p95_ms=0.9 * p99_ms,
        images=images,
        engine="openvino",
        network_hw=(64, 64),
        p99_ms=p99_ms,
        late=late,
        stages_ms={"preprocess": preprocess_ms, "engine": 0.8 * p99_ms - 1, "postprocess": 0.5, "other": 0.5},
        is_accepted=is_accepted,
        basis=of,
    )


def judged(found: list[Timed], budget_ms: float) -> Answer:
    return judge(found, budget_ms, samples=100)


def best(answer: Answer) -> list[str]:
    return [each.model for each in best_of(answer).values()]


def test_the_most_accurate_within_the_budget_is_taken_by_p99() -> None:
    found = [made("fast", 10, 0.8), made("good", 30, 0.9), made("late", 30.1, 0.99), made("slow", 80, 0.995)]
    answer = judged(found, 30)
    assert best(answer) == ["good"]
    assert [each.model for each in answer.fitting] == ["fast", "good"]
    assert best(judged(found, 30.1)) == ["late"]
    assert headline(answer) == (
        "Take good at fp32 in openvino: the most accurate within 30 ms by test photographs (20 good, 20 defective): "
        "image AUROC 0.900, pixel AP 0.500, 30.0 ms at p99, 0.000 ms to spare."
    )


def test_every_step_from_the_best_says_what_it_costs() -> None:
    found = [made("fast", 10, 0.8), made("good", 30, 0.9), made("late", 42, 0.99), made("slow", 80, 0.995)]
    up, down, stages, certainty = sentences(judged(found, 32), "640x480", threads=2)
    assert certainty == (
        "Of the 100 inspections of good at fp32 in openvino none took longer than 32 ms. So at most 3.0% of the frames "
        "will be late, with 95 % confidence, where they come one after the other as here; for a smaller share measure "
        "longer (--seconds). At the pace of the line: segrd-bench good --engine openvino --precision fp32 "
        "--frame 640x480 --threads 2 --period 32 --deadline 32"
    )
    assert up == (
        "More accurate, and 10.0 ms over the budget: late at fp32 in openvino, image AUROC +0.090, pixel AP +0.000, "
        "42.0 ms. Slower still: slow at fp32 in openvino (80.0 ms)."
    )
    assert down == (
        "The next step down, fast at fp32 in openvino, saves 20.0 ms (10.0 ms): image AUROC −0.100, pixel AP +0.000."
    )
    assert stages == (
        "Where the 24.0 ms (median) of good at fp32 in openvino go: preprocess 1.00, engine 23.0, postprocess 0.500, "
        "other 0.500."
    )
    assert sentences(judged(found[:1], 32), "640x480")[0].startswith("Nothing of what is over the budget")


def test_of_equals_the_fastest_is_taken_and_pixel_ap_decides_between_equal_aurocs() -> None:
    equals = judged([made("fast", 10, 0.900), made("slow", 20, 0.904)], 30)
    assert best(equals) == ["fast"]
    assert "The images cannot tell it from slow at fp32 in openvino (20.0 ms): of equals, the fastest is taken." in (
        sentences(equals, "640x480")
    )
    assert best(judged([made("fast", 10, 0.9, 0.5), made("sharp", 20, 0.904, 0.6)], 30)) == ["sharp"]


def test_the_single_images_say_what_is_noise() -> None:
    """One of 20 defects missed is 0.05 image AUROC: a difference by the floor, noise by these images."""
    both = [("fast", 10.0, 0.95, 1), ("slow", 20.0, 1.0, 0)]
    assert best(judged([made(name, t, auroc) for name, t, auroc, _ in both], 30)) == ["slow"]
    by_image = [made(name, t, auroc, images=scored(missed, 0.5)) for name, t, auroc, missed in both]
    assert best(judged(by_image, 30)) == ["fast"]


def test_nothing_fits() -> None:
    answer = judged([made("slow", 50), made("fast", 35, preprocess_ms=9)], 30)
    assert answer.fitting == []
    assert answer.nearest.model == "fast"
    assert headline(answer) == (
        "Nothing keeps 30 ms at p99. The nearest, fast at fp32 in openvino, takes 35.0 ms: 5.00 ms over."
    )
    stages, tail, crop, down = sentences(answer, "1024x768")
    assert stages.startswith("Where the 28.0 ms")
    assert tail.startswith("Its median, 28.0 ms, would fit")
    assert crop.startswith("The resize of 1024x768 takes 9.00 ms of it")
    assert down.endswith("segrd-bench --budget 30ms --frame 1024x768")


def test_refused_int8_is_never_taken_and_never_counts_as_fitting() -> None:
    found = [made("a", 50, 0.9), made("a", 10, 0.9, precision="int8", is_accepted=False)]
    answer = judged(found, 30)
    assert (answer.fitting, answer.nearest) == ([], found[0])
    assert sentences(answer, "64x64")[-1].startswith("Not to choose from: a at int8 in openvino.")
    assert best(judged(found, 60)) == ["a"]
    assert best_of(judged(found, 60))[PHOTOGRAPHS.text].precision == "fp32"


def test_metrics_of_different_images_are_not_compared() -> None:
    answer = judged([made("a", 10, 0.8), made("b", 20, 0.99, of=SYNTHETIC), made("c", 25, 0.9)], 30)
    assert best(answer) == ["c", "b"]
    assert "These metrics come from different images" in sentences(answer, "64x64")[0]
    assert answer.dearer(answer.timed[0]) == []


def test_without_metrics_what_fits_is_known_and_the_best_is_not() -> None:
    answer = judged([made("a", 10, None, None, of=None), made("b", 40, None, None, of=None)], 30)
    assert best(answer) == []
    assert headline(answer) == (
        "1 of 2 keep 30 ms, the fastest a at fp32 in openvino with 10.0 ms at p99. Which is the most accurate is not "
        "known: these bundles hold no metrics."
    )


def test_the_line_of_python_is_one() -> None:
    line = python_line(made("runs/a.segrd", 10), 2)
    assert line == 'Detector("runs/a.segrd", engine="openvino", precision="fp32", threads=2)'
    compile(line, "line", "eval")


def test_enough_rounds_for_p99_and_as_long_as_asked_for() -> None:
    said: list[str] = []
    assert list(rounds(Settings(30), said.append)) == list(range(50))
    assert len(said) == 9
    assert said[0].startswith("5 of 50 rounds")
    assert len(list(rounds(Settings(30, rounds=60), said.append))) == 60
    assert len(list(rounds(Settings(30, seconds=0.05), lambda line: None))) > P99_ROUNDS
    with pytest.raises(OptionError, match="--rounds 49 with --budget"):
        Settings(30, rounds=49)


def fields_with(manifest_fields: Callable[..., dict[str, Any]], **of_graphs: Any) -> dict[str, Any]:
    fields = manifest_fields()
    return {**fields, "graphs": {name: {**graph, **of_graphs} for name, graph in fields["graphs"].items()}}


METRICS = {
    "source": "test photographs", "image_auroc": 0.95, "pixel_ap": 0.7,
    "images_good": 20, "images_defect": 20, "images_left_out": 0,
}  # fmt: skip


def test_what_metrics_come_from(manifest_fields: Callable[..., dict[str, Any]]) -> None:
    def made_of(data: dict[str, Any], **metrics: Any) -> Basis | None:
        return basis(Manifest(**fields_with(manifest_fields, metrics=METRICS | metrics) | {"data": data}), "fp32")

    real = made_of({"counts": {"train/good": 9, "test/good": 20}})
    assert real is not None
    assert real.text == "test photographs (20 good, 20 defective)"
    assert real == made_of({"counts": {"train/good": 7, "test/good": 20}})  # whatever it was trained on
    assert real != made_of({"counts": {"train/good": 9, "test/good": 21}})
    painted = {"source": "synthetic defects on held-out good images"}
    one, other = (made_of({"held_out_sha256": [seed]}, **painted) for seed in "ab")
    assert one != other
    assert basis(Manifest(**manifest_fields()), "fp32") is None
    unknown = fields_with(manifest_fields, metrics={"image_auroc": 0.95})
    assert basis(Manifest(**unknown), "fp32") is None


def test_the_single_scores_are_those_that_segrd_compare_left(
    make_bundle: Callable[..., Path], manifest_fields: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    row = {"bundle": "a", "engine": "openvino", "network_hw": [64, 96], "stages_ms": {}, "late": 0}
    row |= dict.fromkeys(("median_ms", "p95_ms", "p99_ms"), 1.0)
    graphs = fields_with(manifest_fields, metrics=METRICS)["graphs"]
    bundle = Bundle.open(make_bundle(tmp_path / "part.segrd", records=graphs))
    (alone,) = timed({"a": bundle}, [row | {"precision": "int8"}])
    assert (alone.images, alone.image_auroc, alone.basis is None) == (None, 0.95, False)
    assert alone.is_accepted
    unsafe = fields_with(manifest_fields, metrics=METRICS, is_safe=False)["graphs"]
    refused = Bundle.open(make_bundle(tmp_path / "unsafe.segrd", records=unsafe))
    assert not timed({"a": refused}, [row | {"precision": "int8"}])[0].is_accepted
    (tmp_path / RESULT_FILE).write_text(json.dumps(record(missed=1)))
    (known,) = timed({"a": bundle}, [row | {"precision": "int8"}])
    assert known.images is not None
    assert known.images.scores.size == 40
    (tmp_path / RESULT_FILE).write_text(json.dumps(record(missed=2)))  # of another export
    assert timed({"a": bundle}, [row | {"precision": "int8"}])[0].images is None


def bench(*arguments: Any) -> Result:
    app = build_app(command, name="segrd-bench", example="segrd-bench --budget 30ms")
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


def test_bundles_against_a_budget(
    tiled_bundle: Callable[..., Path],
    make_bundle: Callable[..., Path],
    manifest_fields: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    """One bundle with metrics, and one without that sees frames in tiles."""
    graphs = fields_with(manifest_fields, metrics=METRICS)["graphs"]
    evaluated = make_bundle(tmp_path / "evaluated.segrd", records=graphs)
    both = (evaluated, tiled_bundle(), "--frame", "300x200", "--threads", 1, "--engine", "openvino")
    done = bench(*both, "--budget", "1000s", "--json")
    assert done.exit_code == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["mode"], found["budget_ms"], found["samples"], found["fitting"]) == ("budget", 1e6, 100, 3)
    assert all(row["fits"] and row["median_ms"] <= row["p99_ms"] <= row["max_ms"] for row in found["bundles"])
    (taken,) = found["best"]
    assert taken["bundle"] == str(evaluated)
    assert taken["python"] in done.stderr
    assert found["headline"] in " ".join(done.stderr.split())
    assert "3 to measure, in turn, at least 100 samples of each" in done.stderr
    impossible = bench(*both[1:], "--budget", "0.0001", "--precision", "fp32")
    assert impossible.exit_code == 1
    assert "Nothing keeps 0.0001 ms" in impossible.stderr
    assert "segrd-bench --budget 0.0001ms --frame 300x200" in " ".join(impossible.stderr.split())
    assert {"fp32", "openvino"} <= set(impossible.stdout.split())  # in one column, in two lines where paths are long


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a.segrd", "--budget", "soon"], "--budget soon"),
        (["a.segrd", "--budget", "30ms", "--period", "5"], "--budget with --period"),
        (["a.segrd", "--budget", "30ms", "--rounds", "5"], "--rounds 5 with --budget"),
        (["a.segrd", "--budget", "30ms", "--seconds", "nan"], "seconds=nan"),
        (["--budget", "30ms", "--seconds", "0"], "seconds=0"),
        (["a.segrd", "--budget", "30ms", "--model", "rd"], "--model or --size with bundles"),
        (["a.segrd", "--model", "rd"], "--model or --size with no --budget"),
        (["a.segrd", "b.segrd"], "2 bundles to measure"),
        (["a.segrd", "a.segrd", "--budget", "30"], "a bundle is named twice"),
    ],
)
def test_options_that_cannot_work(options: list[str], message: str) -> None:
    done = bench(*options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_bundles_are_judged_without_torch() -> None:
    script = "import sys, segrd_edge.benchmarks.budget_cli; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_without_the_export_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "segrd_edge.benchmarks.untrained", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    done = bench("--budget", "30ms")
    assert done.exit_code == 2
    assert "pip install 'segrd-edge[export]'" in done.stderr
