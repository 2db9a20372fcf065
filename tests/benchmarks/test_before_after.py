"""`segrd-bench --compare`: every figure of two results side by side, what else differs, and files that are none."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrd_edge.benchmarks.arrivals import Arrivals
from segrd_edge.benchmarks.before_after import Comparison, Figure, compare_files
from segrd_edge.benchmarks.latency_report import LatencyReport
from segrd_edge.benchmarks.line import measure_line
from segrd_edge.console import ERROR
from segrd_edge.errors import OptionError

from .test_cli import bench

Place = tuple[str | int, ...]  # keys and numbers, from the outside in

INTERLEAVED = {
    "p50": ("total_ms", "p50"),
    "p99.9": ("total_ms", "p99.9"),
    "jitter": ("total_ms", "jitter"),
    "preprocess p50": ("stages_ms", "preprocess", "p50"),
    "engine p50": ("stages_ms", "engine", "p50"),
    "postprocess p50": ("stages_ms", "postprocess", "p50"),
    "other p50": ("stages_ms", "other", "p50"),
    "CPU per frame": ("cpu_ms",),
    "memory added by loading": ("rss_mib",),
}
LINE = {
    "p99": ("latency_ms", "p99"),
    "jitter": ("latency_ms", "jitter"),
    "waiting p50": ("waiting_ms", "p50"),
    "engine p50": ("stages_ms", "engine", "p50"),
    "CPU per frame": ("cpu_ms",),
    "memory of the process": ("rss_mib", "after"),
}
COUNTS = {"frames": ("samples",), "misses": ("misses",), "misses in a row": ("misses_in_a_row",)}
CARD = {"name": "NVIDIA L4", "driver": "580.65", "sm_mhz": 2040, "power_limit_w": 72.0}


@pytest.fixture(scope="module")
def interleaved(report: LatencyReport) -> dict[str, Any]:
    """What --json prints, of a quiet machine."""
    return json.loads(json.dumps(report.to_dict() | {"noisy_rounds": 0}))


@pytest.fixture(scope="module")
def line(bundle_path: Path) -> dict[str, Any]:
    arrivals = Arrivals(np.array([0.0, 10.0, 20.0]), "three")
    found = measure_line(bundle_path, arrivals, frame_hw=(64, 96), threads=1, deadline_ms=1e4)
    return json.loads(json.dumps(found.to_dict() | {"is_noisy": False}))


def put(result: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """A copy with another value there."""
    found: Any = deepcopy(result)
    reduce(getitem, place[:-1], found)[place[-1]] = value
    return found


def compared(folder: Path, before: dict[str, Any], after: dict[str, Any]) -> Comparison:
    one, other = folder / "before.json", folder / "after.json"
    one.write_text(json.dumps(before, indent=1))  # a file of its own
    other.write_text("a table\n" + json.dumps(after))  # or the last line of a log
    return compare_files(one, other)


@pytest.mark.parametrize(("name", "path"), INTERLEAVED.items())
def test_a_figure_of_a_contender(tmp_path: Path, interleaved: dict[str, Any], name: str, path: Place) -> None:
    place = ("contenders", 1, *path)
    found = compared(tmp_path, put(interleaved, place, 4.0), put(interleaved, place, 6.0))
    figure = found.changes[1].figures[name]
    assert (figure.before, figure.after, figure.ratio) == (4.0, 6.0, 1.5)
    assert figure.cells == ("4.00", "6.00", "1.500")
    assert [change.name for change in found.changes] == [each["name"] for each in interleaved["contenders"]]


@pytest.mark.parametrize(("name", "path"), LINE.items())
def test_a_figure_of_a_line(tmp_path: Path, line: dict[str, Any], name: str, path: Place) -> None:
    (change,) = compared(tmp_path, put(line, path, 4.0), put(line, path, 6.0)).changes
    assert (change.name, change.figures[name].ratio) == (line["name"], 1.5)


@pytest.mark.parametrize(("name", "path"), COUNTS.items())
def test_a_count_is_two_numbers_without_a_ratio(tmp_path: Path, line: dict[str, Any], name: str, path: Place) -> None:
    (change,) = compared(tmp_path, put(line, path, 2), put(line, path, 1234)).changes
    assert change.figures[name].cells == ("2", "1234", "–")


@pytest.mark.parametrize(("before", "after"), [(None, 1.0), (1.0, None), (0.0, 1.0), (-2.0, 1.0), (2.0, -1.0)])
def test_no_ratio_of_what_is_not_known_or_not_above_zero(before: float | None, after: float | None) -> None:
    assert Figure("MiB", before, after).ratio is None


def test_memory_that_loading_gave_back_is_no_damage(tmp_path: Path, interleaved: dict[str, Any]) -> None:
    found = compared(tmp_path, interleaved, put(interleaved, ("contenders", 1, "rss_mib"), -1.5))
    assert found.changes[1].figures["memory added by loading"].cells[1:] == ("−1.50", "–")


def test_equal_results_leave_one_caution(tmp_path: Path, interleaved: dict[str, Any], line: dict[str, Any]) -> None:
    for result in (interleaved, line):
        (caution,) = compared(tmp_path, result, result).cautions
        assert caution.startswith("These are two runs")


@pytest.mark.parametrize(
    ("place", "before", "after", "caution"),
    [
        (("threads",), None, 1, "threads: not set before, 1 after"),
        (("frames", "source"), "a", "b", 'frames.source: "a" before, "b" after'),
        (("frames", "count"), 8, 16, "frames.count: 8 before, 16 after"),
        (("environment", "cpu", "usable_cores"), 8, 4, "environment.cpu.usable_cores: 8 before, 4 after"),
        (("environment", "cpu", "governor"), "powersave", None, 'governor: "powersave" before, not set after'),
        (("environment", "cpu", "mhz"), 2400.0, 2700.0, "environment.cpu.mhz: 2400.0 before, 2700.0 after"),
        (("environment", "memory_gib"), 31.2, 62.5, "environment.memory_gib: 31.2 before, 62.5 after"),
        (("environment", "segrd_edge"), "0.1.0", "0.2.0", 'environment.segrd_edge: "0.1.0" before, "0.2.0" after'),
        (("environment", "power"), {"turbo": "on"}, {"turbo": "off"}, 'power.turbo: "on" before, "off" after'),
        (("environment", "power"), {}, {"supply": "battery"}, 'power.supply: not set before, "battery" after'),
        (("environment", "gpus"), [CARD], [CARD | {"driver": "590"}], 'gpus.0.driver: "580.65" before, "590" after'),
        (("environment", "gpus"), [CARD], [CARD | {"sm_mhz": 210}], "gpus.0.sm_mhz: 2040 before, 210 after"),
        (("environment", "gpus"), [], [CARD], 'environment.gpus.0: not set before, {"name": "NVIDIA L4"'),
        (("environment", "packages", "openvino"), "1", "2", 'environment.packages.openvino: "1" before, "2" after'),
        (("environment", "variables"), {}, {"OMP_NUM_THREADS": "1"}, 'OMP_NUM_THREADS: not set before, "1" after'),
        (("contenders", 0, "version"), "1", "2", 'engine of openvino fp32: "1" before, "2" after'),
        (("contenders", 0, "name"), "torch fp32", "openvino fp32", "torch fp32 is only in the result before"),
        (("noisy_rounds",), 0, 2, "other programs were busy during the run after"),
    ],
)  # fmt: skip
def test_what_else_differs_is_named(
    tmp_path: Path, interleaved: dict[str, Any], place: Place, before: Any, after: Any, caution: str
) -> None:
    found = compared(tmp_path, put(interleaved, place, before), put(interleaved, place, after)).cautions
    assert any(caution in each for each in found), found
    assert len(found) == (3 if "only in" in caution else 2)  # that, and that these are two runs


@pytest.mark.parametrize(
    ("place", "before", "after"),
    [
        (("environment", "cpu", "mhz"), 3000.0, 3200.0),
        (("environment", "gpus"), [CARD], [CARD | {"sm_mhz": 1980}]),
        (("environment", "load_average"), {"before": [0.1, 0.1, 0.1]}, {"before": [0.4, 0.2, 0.1]}),
    ],
)
def test_what_changes_by_the_moment_is_not(
    tmp_path: Path, interleaved: dict[str, Any], place: Place, before: Any, after: Any
) -> None:
    assert len(compared(tmp_path, put(interleaved, place, before), put(interleaved, place, after)).cautions) == 1


def test_a_noisy_line_is_named(tmp_path: Path, line: dict[str, Any]) -> None:
    found = compared(tmp_path, put(line, ("is_noisy",), True), line).cautions
    assert found[0] == "other programs were busy during the run before"


def test_a_line_beside_another_run_shares_what_both_have(
    tmp_path: Path, interleaved: dict[str, Any], line: dict[str, Any]
) -> None:
    found = compared(tmp_path, line, interleaved)
    (change,) = found.changes
    assert {"p50", "engine p50", "CPU per frame"} <= change.figures.keys()
    assert not {"misses", "memory of the process", "memory added by loading"} & change.figures.keys()
    assert 'mode: "line" before, "interleaved" after' in found.cautions


def test_nothing_in_common_is_refused(tmp_path: Path, line: dict[str, Any]) -> None:
    with pytest.raises(
        OptionError, match=r"nothing to compare: .*before\.json has torch fp32, .*after\.json has openv"
    ):
        compared(tmp_path, put(line, ("name",), "torch fp32"), line)


@pytest.mark.parametrize("mode", ["budget", "budget, untrained"])
def test_a_budget_is_refused_by_name(tmp_path: Path, line: dict[str, Any], mode: str) -> None:
    with pytest.raises(OptionError, match=r"after\.json is a result of segrd-bench --budget") as error:
        compared(tmp_path, line, {"mode": mode, "bundles": []})
    assert "segrd-bench part.segrd --json" in error.value.fix


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("total_ms",), {"p50": 1}, "contenders.0.total_ms.p90 is missing"),
        (("total_ms", "p50"), "fast", 'contenders.0.total_ms.p50 is "fast"'),
        (("total_ms", "p50"), True, "contenders.0.total_ms.p50 is true"),
        (("total_ms", "p99"), float("nan"), "contenders.0.total_ms.p99 is NaN"),
        (("total_ms", "max"), 10**400, "contenders.0.total_ms.max is 1000"),
        (("total_ms",), 3, "contenders.0.total_ms is 3"),
        (("stages_ms", "engine", "p50"), [1], r"contenders.0.stages_ms.engine.p50 is \[1\]"),
        (("stages_ms",), [1], r"contenders.0.stages_ms is \[1\]"),
        (("cpu_ms",), {}, "contenders.0.cpu_ms is {}"),
        (("rss_mib",), "much", 'contenders.0.rss_mib is "much"'),
        (("name",), None, "contenders.0.name is null"),
    ],
)
def test_a_damaged_result_is_named_with_its_field(
    tmp_path: Path, interleaved: dict[str, Any], place: Place, value: Any, message: str
) -> None:
    with pytest.raises(OptionError, match=rf"after\.json is no result of segrd-bench: {message}"):
        compared(tmp_path, interleaved, put(interleaved, ("contenders", 0, *place), value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither all of it nor its last line is JSON"),
        ("no json", "neither all of it nor its last line is JSON"),
        (None, "No such file"),
        ("{}", "mode is missing"),
        ("[1]", r"the whole is \[1\]"),
        ('{"mode": "compare"}', 'mode is "compare"'),
        ('{"mode": "interleaved", "contenders": 3}', "contenders is 3"),
        ('{"mode": "line", "name": "openvino int8"}', "latency_ms is missing"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "one.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OptionError, match=rf"one\.json is no result of segrd-bench: .*{message}"):
        compare_files(path, path)


def test_the_command_shows_it_all_and_prints_it_as_json(tmp_path: Path, line: dict[str, Any]) -> None:
    after = put(put(line, ("misses",), 3), ("environment", "power"), {"turbo": "off"})
    expected = compared(tmp_path, line, after)
    bracketed = (tmp_path / "after.json").rename(tmp_path / "[after].json")
    done = bench("--compare", tmp_path / "before.json", bracketed, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == expected.to_dict()
    assert done.stdout.count("\n") == 1
    shown = [[cell.strip() for cell in row.strip("│").split("│")] for row in done.stderr.splitlines()]
    assert ["misses", "0", "3", "–"] in shown
    assert "[after].json" in done.stderr.replace("\n", "")  # no markup; the title is folded
    assert [row[0] for row in shown if len(row) == 4 and row[1]] == [
        name if figure.unit == "frames" else f"{name}, {figure.unit}"
        for name, figure in expected.changes[0].figures.items()
    ]
    assert 'environment.power.turbo: not set before, "off" after' in done.stderr


def test_the_command_has_no_traceback_for_a_damaged_result(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"mode": "interleaved", "contenders": [{"name": "a", "total_ms": {"p50": 1}}]}')
    done = bench("--compare", tmp_path / "one.json", tmp_path / "one.json")
    assert (done.exit_code, "Traceback" in done.stderr) == (ERROR, False)
    assert "contenders.0.total_ms.p90 is missing" in " ".join(done.stderr.split())
