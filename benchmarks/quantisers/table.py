"""table.md from the JSON files of all parts that are in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .compare import FLOAT
from .latency import AS_READ

TABLE_FILE = "table.md"
_LONGEST = 320  # characters of a compiler's message
_ACCURACY = (
    "tool",
    "INT8 convolutions",
    "image AUROC",
    "pixel AP",
    "AUPRO",
    "mean abs. Δscore",
    "max",
    "map cosine",
    "verdicts flipped",
    "false rejects",
    "escapes",
)
_COST = (
    "tool",
    "OpenVINO",
    "OpenVINO as read",
    "ONNX Runtime",
    "MB",
    "seconds",
    "of processor",
    "TensorRT's rules",
    "TensorRT-RTX",
)


def write_table(folder: Path) -> Path:
    """Write the table of all parts; returns its path."""
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    lines = ["# INT8 of different tools on the same graphs and frames", ""]
    for part in parts:
        lines += _part(part)
    path = folder / TABLE_FILE
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _part(part: Mapping[str, Any]) -> list[str]:
    tools = part["tools"]
    machine = "{model}, {cores} cores".format(**part["environment"]["cpu"])
    run = {tool: record for tool, record in tools.items() if "not_run" not in record}
    carried = ", carried over from float's" if part.get("thresholds") == "carried over" else ""
    return [
        f"## {part['part']}",
        "",
        f"{machine}, {part['date']}; {part['calibration_frames']} calibration frames, thresholds from "
        f"{part['held_out']} held-out images{carried}, {tools[FLOAT]['verdicts']['of']} test photographs, judged in "
        f"{part['judged_in']}.",
        "",
        *_rows(_ACCURACY, [_accuracy(tool, record, tools[FLOAT]) for tool, record in run.items()]),
        "",
        _speeds(part["latency"]),
        "",
        *_rows(_COST, [_cost(tool, record, part["latency"]) for tool, record in run.items()]),
        "",
        *[f"{tool}: {_settings(record)}  " for tool, record in run.items() if tool != FLOAT],
        *[f"{tool}: not run: {record['not_run']}  " for tool, record in tools.items() if "not_run" in record],
        *_reasons(run),
        "",
    ]


def _speeds(latency: Mapping[str, Any] | None) -> str:
    """What the columns of speed are, and how they were measured."""
    if latency is None:
        return "Latency was not measured."
    floats = [
        f"{figure['engine']} {figure['median_ms']:.0f} ms" for figure in latency["figures"] if figure["tool"] == FLOAT
    ]
    others = [share for share in latency["other_cpu"] if share is not None]
    load = f", other programs took {min(others):.0%} to {max(others):.0%} of the processors" if others else ""
    threads = f"{latency['threads']} thread(s)" if latency["threads"] else "the engines' own number of threads"
    return (
        f"Speed against float in the same engine (float: {', '.join(floats)}), {latency['rounds']} interleaved rounds "
        f"on {threads}{load}."
    )


def _accuracy(tool: str, record: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    metrics, drift, verdicts = record["metrics"], record["drift"], record["verdicts"]
    values = [_value(metrics[name], base["metrics"][name], tool) for name in ("image_auroc", "pixel_ap", "aupro")]
    moved = [f"{drift[name]:.4f}" for name in ("score_mean", "score_max", "map_cosine_mean")]
    covered = f"{record['int8_convolutions']} of {record['convolutions']}"
    flipped = f"{verdicts['flipped']} of {verdicts['of']}"
    errors = [str(verdicts[name]) for name in ("false_rejects", "escapes")]
    return [tool, covered, *values, *(["–"] * 4 if tool == FLOAT else [*moved, flipped]), *errors]


def _value(value: float | None, base: float | None, tool: str) -> str:
    if value is None or base is None:
        return "–"
    return f"{value:.4f}" if tool == FLOAT else f"{value:.4f} ({value - base:+.4f})"


def _cost(tool: str, record: Mapping[str, Any], latency: Mapping[str, Any] | None) -> list[str]:
    figures = latency["figures"] if latency else []
    speeds = {figure["engine"]: figure["speedup"] for figure in figures if figure["tool"] == tool}
    times = [f"{speeds[name]:.2f}×" if name in speeds else "–" for name in ("openvino", AS_READ, "onnxruntime")]
    size = f"{record['bytes'] / 1e6:.1f}"
    if tool == FLOAT:
        return [tool, *times, size, *["–"] * 4]
    seconds = [f"{record[name]:.0f}" for name in ("seconds", "processor_seconds")]
    return [tool, *times, size, *seconds, *_verdict(record["tensorrt"])]


def _verdict(tensorrt: Mapping[str, Any]) -> list[str]:
    rules = f"{tensorrt['violations']} broken" if tensorrt["violations"] else "kept"
    if "not_run" in tensorrt:
        return [rules, "not run"]
    if "refused" in tensorrt:
        return [rules, "refused"]
    convolutions = tensorrt["built"]["convolutions"]
    return [rules, "built, convolutions read " + ", ".join(f"{dtype} {n}" for dtype, n in convolutions.items())]


def _reasons(run: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for tool, record in run.items():
        tensorrt = record.get("tensorrt", {})
        lines += [f"{tool} breaks a rule: {reason}  " for reason in tensorrt.get("first", [])]
        lines += [f"{tool}, TensorRT-RTX warns: {line}  " for line in tensorrt.get("built", {}).get("warnings", [])]
        if "refused" in tensorrt:
            lines.append(f"{tool} is refused: {' '.join(tensorrt['refused'].split())[:_LONGEST]}  ")
    return lines


def _settings(record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    readers = ", ".join(f"{kind} {count}" for kind, count in record["int8_readers"].items())
    return f"{record['settings']}; {versions}. What reads INT8: {readers}."


def _rows(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in ([*header], rule, *rows)]
