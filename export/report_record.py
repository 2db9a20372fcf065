"""What the report takes from records rather than images: training log, latency, versions, commands."""

from __future__ import annotations

import csv
import json
import platform
import shlex
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from segrd_edge import machine
from segrd_edge.bundle import Bundle
from segrd_edge.manifest import LatencyRecord
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.run import Run, RunConfig
from segrd_edge.training.train import default_options

from . import charts
from .report_latency import LatencyTable
from .report_text import percent, plural
from .target import Target

if TYPE_CHECKING:
    from .bundle import ExportResult

SLOWER = 1.05  # times fp32's median from which INT8 counts as slower: less is the machine's doing
_PACKAGES = ("segrd-edge", "numpy", "opencv-python-headless", "torch", "onnx", "onnxruntime", "openvino")
_DEFAULTS = {field.name: field.default for field in fields(RunConfig)}


def training_curves(folder: Path) -> list[dict[str, str]]:
    """Per phase its name, steps and two charts: loss and learning rate. Empty where the run kept no log."""
    curves = []
    for phase, rows in _read_log(folder / "log.csv").items():
        steps, losses, rates = (list(values) for values in zip(*rows, strict=True))
        log = min(losses) > 0 and max(losses) > 10 * min(losses)
        title = f"Loss, phase {phase}" + (" (logarithmic)" if log else "")
        loss = charts.curve(steps, losses, title=title, log=log, height=170)
        rate = charts.curve(steps, rates, title="Learning rate", noisy=False, height=104, x_label="step of the run")
        curves.append({"phase": phase, "loss": loss, "rate": rate})
    return curves


def _read_log(path: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Phase → (step, loss, learning rate). A resumed run repeats steps; the later row counts."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    phases: dict[str, list[tuple[int, float, float]]] = {}
    for step, row in sorted(rows.items()):
        phases.setdefault(row["phase"], []).append((step, float(row["loss"]), float(row["rate"])))
    return phases


def latency_chart(table: LatencyTable) -> str:
    """A group of bars per engine, a bar per precision."""
    groups: dict[str, list[charts.Bar]] = {}
    for row in table.rows:
        note = f"{row.median_ms:.1f} ms, p90 {row.p90_ms:.1f} ms"
        bar = charts.Bar(row.precision, row.median_ms, max(row.p90_ms, row.median_ms), note, f"bar-{row.precision}")
        groups.setdefault(row.engine, []).append(bar)
    return charts.grouped_bars(list(groups.items()))


def environment() -> list[tuple[str, str]]:
    """The machine and packages that wrote this report."""
    processor = machine.cpu()["model"]
    return [("system", platform.platform()), ("processor", processor), ("Python", platform.python_version())]


def packages() -> list[tuple[str, str]]:
    return [(package, machine.package_version(package) or "not installed") for package in _PACKAGES]


def training_record(run: Run) -> list[tuple[str, str]]:
    """When and with what the weights came about."""
    return [
        ("trained", f"{run.record['trained_at'].replace('T', ' ').replace('Z', ' UTC')}, torch {run.record['torch']}"),
        ("run", str(run.folder)),
    ]


def checksums(bundle: Bundle, run: Run) -> list[tuple[str, str]]:
    """Name → SHA-256 of the bundle's members and of the teacher."""
    teacher = run.record.get("teacher") or {}
    rows = list(bundle.sha256.items())
    return [*rows, (f"teacher {teacher['name']}", teacher["sha256"])] if teacher else rows


def commands(run: Run, result: ExportResult, *, synthetic: bool) -> list[str]:
    """What was typed, or could have been, to get here and to go on."""
    data, folder, name = (shlex.quote(str(value)) for value in (run.config.data, run.folder, result.path))
    return [
        " ".join(["segrd-train", data, "--out", folder, *_train_options(run)]),
        " ".join(["segrd-export", folder, *_export_options(result), f"--out {name}"]),
        *([f"segrd-build {name}"] if result.target.is_tensorrt else []),
        f"segrd-eval {name} {data}{' --synthetic' if synthetic else ''}",
        f"segrd-bench {name}",
        f"segrd-inspect {name} FRAMES --out results",
    ]


def _export_options(result: ExportResult) -> Iterable[str]:
    yield "--int8" if "int8" in result.manifest.graphs else "--no-int8"
    yield from result.settings.command_options(shlex.quote(str(result.plan_path)))
    if result.manifest.latency is not None:
        yield f"--budget {result.manifest.latency.budget_ms:g}ms"
        yield "--budget-frame {1}x{0}".format(*result.manifest.latency.frame_hw)
        if result.manifest.latency.threads is not None:
            yield f"--budget-threads {result.manifest.latency.threads}"
    yield from _target_options(result.target)


def _target_options(target: Target) -> Iterable[str]:
    yield f"--engine {target.engine}"
    if target.frame_hw is not None:
        yield "--frame {1}x{0}".format(*target.frame_hw)
    if target.batch != 1:
        yield f"--batch {target.batch}"


def _train_options(run: Run) -> Iterable[str]:
    """Options of segrd-train that differ from what it does without them, and those whose default depends on others."""
    config = run.config
    for name in ("model", "backbone", "teacher", "defects", "textures", "rotation", "held_out", "seed"):
        if (value := getattr(config, name)) != _DEFAULTS[name]:
            yield f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
    for name in ("minutes", "steps"):
        if (value := getattr(config, name)) is not None:
            yield f"--{name} {value:g}"
    yield f"--batch {config.batch}"
    yield from _preprocess_options(config.preprocess)
    if not config.foreground:
        yield "--no-foreground"
    if config.false_reject != _DEFAULTS["false_reject"]:
        yield f"--false-reject {percent(config.false_reject).replace(' ', '')}"
    yield from _model_options(config)
    if run.data["problems"]:
        yield "--skip-bad"


def _model_options(config: RunConfig) -> Iterable[str]:
    defaults = default_options(config.model, config.minutes)
    if config.options != defaults:
        if defaults:
            yield "--profile accurate"
        yield from (f"--option {shlex.quote(f'{name}={json.dumps(value)}')}" for name, value in config.options.items())


def _preprocess_options(preprocess: Preprocess) -> Iterable[str]:
    height, width = preprocess.size_hw
    yield f"--size {height}" if height == width else f"--size {height}x{width}"
    if preprocess.fit != "stretch":
        yield f"--fit {preprocess.fit}"
    if preprocess.crop_xywh:
        yield f"--crop {','.join(map(str, preprocess.crop_xywh))}"
    if preprocess.tile_hw:
        height, width = preprocess.tile_hw
        yield f"--tile {height}" if height == width else f"--tile {height}x{width}"
        yield f"--overlap {preprocess.overlap:g}"
    if preprocess.value_range:
        yield "--range {}:{}".format(*preprocess.value_range)


def budget_sentence(latency: LatencyRecord) -> str:
    """What was measured against a budget."""
    figures = ", ".join(
        f"{name} {ms:.1f} ms (median {latency.p50_ms[name]:.1f}) in {latency.engines[name]}"
        for name, ms in latency.p99_ms.items()
    )
    height, width = latency.frame_hw
    threads = "" if latency.threads is None else f", {plural(latency.threads, 'thread')}"
    return (
        f"Against a budget of {latency.budget_ms:g} ms at p99, frames of {width}×{height}{threads}, {latency.samples} "
        f"samples each: {figures}."
    )


def latency_sentences(table: LatencyTable) -> list[str]:
    """The fastest, and where its time goes."""
    if not table.rows:
        return ["No engine could run the bundle on this machine, so the latency is unknown."]
    best = min(table.rows, key=lambda row: row.median_ms)
    stages = ", ".join(f"{stage} {value:.2f} ms" for stage, value in best.stages_ms.items())
    return [
        f"Fastest here: {best.engine} at {best.precision}, {best.median_ms:.1f} ms from frame to inspection "
        f"({stages}).",
        *_slow_int8(table),
        f"An impression from {plural(table.rounds, 'interleaved round')} while this report was written, with whatever "
        "else the machine was doing. The measurement is segrd-bench.",
    ]


def _slow_int8(table: LatencyTable) -> Iterable[str]:
    """A sentence for each engine that takes longer with INT8 than with fp32, and what it runs by itself."""
    for engine, automatic in table.automatic.items():
        int8, fp32 = (table.median_ms(engine, precision) for precision in ("int8", "fp32"))
        if int8 is None or fp32 is None or int8 <= SLOWER * fp32:
            continue
        measured = f"In {engine}, INT8 takes {int8:.1f} ms here and fp32 {fp32:.1f} ms"
        if automatic == "fp32":
            yield f'{measured}; precision="auto" takes fp32 there.'
        else:
            yield (
                f'{measured}. precision="auto" takes {automatic} there all the same: it goes by the processor, not by '
                'this impression. If segrd-bench finds the same, open the bundle with precision="fp32".'
            )
