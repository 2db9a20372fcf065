"""A detector at the pace of a line: arrivals, waiting, deadlines, and what is said of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segrd_edge.benchmarks import charts, line, line_page
from segrd_edge.benchmarks.arrivals import Arrivals
from segrd_edge.benchmarks.distribution import Distribution
from segrd_edge.benchmarks.line import LineReport, measure_line
from segrd_edge.errors import OptionError

from .test_cli import bench
from .test_html import Outline

FRAME_HW = (64, 96)


@pytest.fixture(scope="module")
def measured(bundle_path: Path) -> LineReport:
    arrivals = Arrivals(np.array([0.0, 40.0, 80.0, 300.0]), "four")
    return measure_line(bundle_path, arrivals, frame_hw=FRAME_HW, threads=1, deadline_ms=1e4)


def test_a_period_gives_times_and_a_trace_is_read(tmp_path: Path) -> None:
    arrivals = Arrivals.every(12.5, 0.1)
    assert arrivals.times_ms.tolist() == [0.0, 12.5, 25.0, 37.5, 50.0, 62.5, 75.0, 87.5]
    assert arrivals.period_ms == 12.5
    path = tmp_path / "trace.txt"
    path.write_text("# trigger log\n100\n\n130.5  # late\n161\n400\n")
    read = Arrivals.read(path)
    assert (read.times_ms.tolist(), read.period_ms, read.source) == ([0.0, 30.5, 61.0, 300.0], 30.5, "trace.txt")
    assert read.until(0.05).times_ms.tolist() == [0.0, 30.5]
    assert read.until(0.001).times_ms.tolist() == [0.0, 30.5]  # a pause needs two ends
    assert read.until(None) is read
    with pytest.raises(OptionError, match="the arrivals of 0 s"):
        read.until(0)


def test_bursts_have_no_period_to_be_in_time_for(bundle_path: Path) -> None:
    arrivals = Arrivals(np.array([0.0, 0.0, 0.0, 100.0, 100.0, 100.0]), "three cameras")
    with pytest.raises(OptionError, match="a deadline of 0 ms"):
        measure_line(bundle_path, arrivals, frame_hw=FRAME_HW)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\nx\n", "line 3: 'x'"),
        ("1\nnan\n", "line 2: 'nan'"),
        ("5\n4\n", "line 2: 4 ms comes after 5 ms"),
        ("5\n# 6\n", "1 arrival times"),
        (None, "cannot be read"),
    ],
)
def test_a_trace_that_is_none_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "trace.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OptionError, match=message):
        Arrivals.read(path)


@pytest.mark.parametrize(("period_ms", "seconds"), [(0, 1), (-5, 1), (100, 0), (float("nan"), 1), (2000, 1.5)])
def test_a_period_that_cannot_be_is_refused(period_ms: float, seconds: float) -> None:
    with pytest.raises(OptionError, match="frame"):
        Arrivals.every(period_ms, seconds)


def test_every_frame_is_inspected_when_it_arrives(measured: LineReport) -> None:
    assert measured.latency.samples_ms.size == 4
    assert (measured.misses, measured.misses_in_a_row) == (0, 0)
    assert measured.duration_s >= 0.3  # in real time
    assert min(measured.waiting.samples_ms) >= 0
    assert measured.frame_sizes_hw == [FRAME_HW]


def test_a_frame_that_arrives_during_an_inspection_waits_and_none_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5 frames at once, each of 20 ms, the k-th waits for k inspections."""
    stages = {"preprocess": 1.0, "engine": 18.0, "postprocess": 0.5}

    def inspect(frame: Any) -> Any:
        sleep(0.02)
        return SimpleNamespace(timings_ms=stages, score=0.0, is_defect=False)

    seen = line._inspect_all(SimpleNamespace(inspect=inspect), [np.zeros((2, 2, 3), np.uint8)], np.zeros(5))  # type: ignore[arg-type]
    waits = [one.start_ms - one.arrival_ms for one in seen]
    assert all(wait >= 20 * k for k, wait in enumerate(waits))
    assert all(later.start_ms >= earlier.end_ms for earlier, later in pairwise(seen))
    assert all(one.sample.durations_ms["other"] >= 0.4 for one in seen)  # 20 ms less the stages


def test_misses_are_counted_and_said(measured: LineReport) -> None:
    late = replace(measured, latency=Distribution.of([5.0, 12.0, 13.0, 10.0]), deadline_ms=10.0)
    assert (late.misses, late.misses_in_a_row) == (2, 2)
    assert (
        line_page.headline(late)
        == "2 of 4 verdicts came later than 10 ms, 2 of them in a row; the slowest took 13.0 ms."
    )
    assert line_page.headline(replace(late, deadline_ms=13.0)).startswith("Every one of 4 verdicts came within 13 ms")
    assert "Not known: p90 needs 10 samples" in line_page.warnings(late)[-1]
    assert line_page.warnings(replace(late, other_cpu=0.4))[0].startswith("Other programs took 40%")


def test_the_page_is_whole(measured: LineReport) -> None:
    page = line_page.render_line_page(replace(measured, product="<b>$part</b>"))
    outline = Outline(page)
    assert "&lt;b&gt;$part&lt;/b&gt;" in page
    assert "://" not in page
    assert outline.tags.count("svg") == 2
    assert len(re.findall('<circle class="in-time"', page)) == 4


def test_frames_behind_the_deadline_are_drawn_apart() -> None:
    svg = charts.timeline([0, 500, 1000], [5, 20, 8], 10)
    assert re.findall(r'circle class="([\w-]+)"', svg) == ["in-time", "late", "in-time"]
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    limit = float(re.findall(r'class="deadline"[^/]*y1="([\d.]+)"', svg)[0])
    assert [y < limit for y in heights] == [False, True, False]


def test_segrd_bench_runs_at_the_pace_of_a_line(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text("0\n30\n60\n")
    options = ["--frame", "96x64", "--precision", "int8", "--json", "--deadline", "5000"]
    done = bench(bundle_path, *options, "--period", 25, "--seconds", 0.1, "--html", tmp_path / "line.html")
    assert done.exit_code == 0, done.stderr
    periodic = json.loads(done.stdout.splitlines()[-1])
    assert (periodic["mode"], periodic["samples"], periodic["precision"]) == ("line", 4, "int8")
    assert (periodic["misses"], periodic["arrivals"]["median_period_ms"]) == (0, 25.0)
    assert "Every one of 4 verdicts came within 5000 ms" in done.stderr
    said = " ".join(done.stderr.split())  # lines are broken at the terminal's width
    assert re.search(r"CPU per frame: [\d.]+ ms; memory: before \d+ MiB, after \d+ MiB; other programs: ", said)
    assert (tmp_path / "line.html").is_file()
    traced = bench(bundle_path, *options, "--trace", tmp_path / "trace.txt", "--keep-warm", 10)
    assert traced.exit_code == 0, traced.stderr
    (tmp_path / "before.json").write_text(done.stdout)
    (tmp_path / "after.json").write_text(traced.stdout)
    compared = bench("--compare", tmp_path / "before.json", tmp_path / "after.json", "--json")
    assert compared.exit_code == 0, compared.stderr
    (change,) = json.loads(compared.stdout.splitlines()[-1])["contenders"]
    before, after = (json.loads(out.splitlines()[-1])["latency_ms"]["p50"] for out in (done.stdout, traced.stdout))
    assert change["figures"]["p50"]["ratio"] == pytest.approx(after / before, abs=1e-4)
    assert "keep_warm_ms: not set before, 10.0 after" in compared.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--deadline", "5"], "--deadline or --keep-warm with no arrivals"),
        (["--deadline", "0"], "--deadline or --keep-warm with no arrivals"),
        (["--period", "0.0001", "--seconds", "100"], "at most 10,000,000 frames"),
        (["--frame", "1000000x1000000"], "8 frames of 1000000×1000000 pixels would take"),
        (["--html", "."], "it is a folder"),
        (["--period", "5", "--rounds", "3"], "arrivals with --rounds"),
        (["--period", "5", "--trace", "x.txt"], "--period and --trace"),
        (["--period", "5", "--engine", "openvino", "--engine", "onnxruntime"], "--engine openvino, onnxruntime with"),
        (["--period", "5", "--seconds", "1", "--deadline", "0"], "a deadline of 0 ms"),
        (["--period", "0"], "a frame every 0 ms"),
        (["--compare", "a.json", "b.json"], "--compare with a bundle"),
        (["--trace", "absent.txt"], "absent.txt cannot be read"),
    ],
)
def test_options_that_cannot_work(bundle_path: Path, options: list[str], message: str) -> None:
    done = bench(bundle_path, *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_without_a_bundle_there_is_nothing_to_measure() -> None:
    done = bench()
    assert (done.exit_code, "0 bundles to measure" in done.stderr) == (2, True)
