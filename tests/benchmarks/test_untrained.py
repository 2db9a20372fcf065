"""Networks against a budget before anything is trained: what is tried and what is left out, on figures that nobody
measured; and the command with one small network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segrd_edge import engines
from segrd_edge.benchmarks import budget_run, untrained
from segrd_edge.benchmarks.budget_run import Settings
from segrd_edge.benchmarks.budget_text import untrained_headline, untrained_sentences
from segrd_edge.benchmarks.cli import command
from segrd_edge.benchmarks.contenders import Wanted
from segrd_edge.benchmarks.untrained import Network, networks, search
from segrd_edge.bundle import Bundle
from segrd_edge.console import build_app
from segrd_edge.errors import OptionError
from segrd_edge.training.models import MODELS

Measure = Callable[..., dict[str, Any]]


def test_every_model_profile_and_size_is_tried_the_smallest_first() -> None:
    found = networks(None, None)
    assert {network.model for network in found} == set(MODELS)
    assert [network.size for network in found] == sorted(network.size for network in found)
    assert [network.name for network in networks(["destseg", "rd"], [64])] == [
        *("destseg accurate 64", "destseg balanced 64", "destseg fast 64"),
        "rd 64",
    ]
    assert networks(["destseg"], [64])[2].train_command == (
        "segrd-train PHOTOS --out runs/destseg-fast-64 --model destseg --profile fast --size 64 --minutes 10"
    )
    with pytest.raises(OptionError, match="unknown model 'yolo'"):
        networks(["yolo"], None)
    with pytest.raises(OptionError, match="network size 65x65"):
        networks(None, [65])


@pytest.fixture
def tried(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what `search` times, in order. fp32 takes a tenth of the size squared in µs, INT8 half of it,
    DeSTSeg twice as long, ONNX Runtime a ms more; p99 is a fifth above the fastest inspection."""
    order: list[str] = []

    def build(network: Network, path: Path) -> Bundle:
        shutil.copy(bundle_path, path)
        return Bundle.open(path)

    def measure(
        bundles: dict[str, Bundle], wanted: Sequence[tuple[str, Wanted]], frames: Any, **_: Any
    ) -> dict[str, Any]:
        order.append(" + ".join(dict.fromkeys(name for name, _ in wanted)))
        rows = []
        for name, (engine, precision) in wanted:
            size = int(name.split()[-1])
            ms = size**2 / 1e4 * (0.5 if precision == "int8" else 1) * (2 if "destseg" in name else 1)
            ms += engine == "onnxruntime"
            names = {"bundle": name, "engine": engine, "precision": precision, "network_hw": [size, size]}
            rows.append(names | {"min_ms": ms, "median_ms": 1.1 * ms, "p99_ms": 1.2 * ms})
        return {"bundles": rows, "rounds": 50, "noisy_rounds": 0, "skipped": {}}

    monkeypatch.setattr(untrained, "build", build)
    monkeypatch.setattr(untrained, "measure_wanted", measure)
    monkeypatch.setattr(budget_run, "measure_wanted", measure)
    monkeypatch.setattr(engines, "processor_engines", lambda: ["openvino", "onnxruntime"])
    return order


def rows(found: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [(row["bundle"], row["precision"], row["fits"]) for row in found["networks"]]


def test_only_what_may_keep_the_budget_is_measured_and_in_its_faster_engine(tried: list[str]) -> None:
    said: list[str] = []
    found = search(["rd", "stfpm"], [256, 192], Settings(4), said.append)
    assert tried == ["rd 192", "stfpm 192", "rd 256", "stfpm 256", "rd 192 + stfpm 192 + rd 256 + stfpm 256"]
    assert rows(found) == [
        *(("rd 192", "int8", True), ("stfpm 192", "int8", True)),
        *(("rd 256", "int8", True), ("stfpm 256", "int8", True)),
        *(("rd 192", "fp32", False), ("stfpm 192", "fp32", False)),  # p99 is over what the fastest one was under
    ]
    assert {row["engine"] for row in found["networks"]} == {"openvino"}
    assert [(row["bundle"], row["min_ms"]) for row in found["over_at_best"]] == [
        ("rd 256", 6.5536),
        ("stfpm 256", 6.5536),
    ]
    assert (found["fitting"], found["not_built"]) == (4, [])
    assert untrained_headline(found).startswith("4 networks keep 4 ms at p99. How accurate")
    asked = "segrd-compare PHOTOS --out compare-256 --size 256 --latency-ms 4 --model rd --model stfpm"
    assert found["compare"] == [asked]  # the same two at 192 are smaller without need
    assert found["networks"][0]["train"].endswith("--model rd --size 192 --minutes 10")
    assert "    at best int8 1.8 ms in openvino, fp32 3.7 ms in openvino" in said


def test_what_is_over_at_a_small_size_is_not_built_larger(tried: list[str]) -> None:
    found = search(["destseg", "rd"], [192, 256], Settings(3.5), lambda line: None)
    small = [f"destseg {profile} 192" for profile in ("accurate", "balanced", "fast")]
    assert tried[:5] == [*small, "rd 192", "rd 256"]
    assert found["not_built"] == [name.replace("192", "256") for name in small]
    assert rows(found) == [("rd 192", "int8", True), ("rd 256", "int8", False)]
    assert any(sentence.startswith("Not tried") for sentence in untrained_sentences(found))


def test_the_comparison_is_of_the_largest_size_with_the_largest_heads(tried: list[str]) -> None:
    found = search(["destseg", "rd"], [64, 96], Settings(1e3), lambda line: None)
    asked = "segrd-compare PHOTOS --out compare-96 --size 96 --latency-ms 1000 "
    assert found["compare"] == [asked + "--model destseg:accurate --model rd"]


def test_a_smaller_size_is_compared_where_it_leaves_time_for_another_model_or_a_larger_head() -> None:
    fitting = [Network("destseg", "fast", 64), Network("destseg", "accurate", 32), Network("destseg", "fast", 32)]
    commands = untrained._compare_commands([*fitting, Network("rd", None, 32)], 9)
    assert commands == [
        "segrd-compare PHOTOS --out compare-64 --size 64 --latency-ms 9 --model destseg:fast",
        "segrd-compare PHOTOS --out compare-32 --size 32 --latency-ms 9 --model destseg:accurate --model rd",
    ]
    found = {"compare": commands, "over_at_best": [], "not_built": []}
    assert untrained_sentences(found)[:2] == [
        f"To train those of the largest size on your photographs and learn which is the most accurate: {commands[0]}",
        f"Other models or larger heads, which keep it at a smaller size: {commands[1]}",
    ]


def test_many_are_measured_in_several_runs(tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrained, "_AT_ONCE", 3)
    found = search(["rd", "stfpm", "rbd"], [64], Settings(1e3), lambda line: None)
    assert [run for run in tried if "+" in run] == ["rd 64 + stfpm 64"]
    assert tried[-1] == "rbd 64"
    assert len(found["runs"]) == 2
    assert len(found["networks"]) == 6


def test_nothing_fits(tried: list[str]) -> None:
    found = search(["rd"], [64], Settings(0.1), lambda line: None)
    assert (found["networks"], found["runs"], found["compare"]) == ([], [], [])
    assert untrained_headline(found) == (
        "Nothing keeps 0.1 ms. The nearest is rd 64 at int8 in openvino, 0.205 ms at its best."
    )
    assert untrained_sentences(found)[0].startswith("Smaller networks")


def test_the_command_with_a_real_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_run, "SCREENING_ROUNDS", 1)
    app = build_app(command, name="segrd-bench", example="segrd-bench --budget 30ms")
    options = ["--model", "stfpm", "--size", "64", "--frame", "64x64", "--threads", "1", "--engine", "openvino"]
    done = CliRunner().invoke(app, ["--budget", "100s", *options, "--json"], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert sorted(row["precision"] for row in found["networks"]) == ["fp32", "int8"]
    assert {tuple(row["network_hw"]) for row in found["networks"]} == {(64, 64)}
    assert found["runs"][0]["samples"] == 100
    assert "segrd-train PHOTOS --out runs/stfpm-64 --model stfpm --size 64 --minutes 10" in done.stderr
