"""The JSON file as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SIZES = {"frame": "from the frame, ms", "image": "from an image of network size, ms"}
_RATIOS = {"ratio": "× ours", "speedup": "× as fast as torch"}
_EXPLAINED = """\
"processor" is the processor time of a frame, the median too, in which other programs do not count. The ratios are of
processor times, medians over the rounds of the ratio within a round; × ours: how many times as long as {reference}
takes. Ours ends with an Inspection, the floor with score and map, behind our resize where there is one to do. Peers run
through anomalib's `OpenVINOInferencer.predict`, each in a process of its own and timed there; their networks are
untrained, so their accuracy was not measured."""
_KINDS = {"own": "ours", "torch": "eager", "floor": "the floor", "peer": "peers"}


def write_table(record: Path) -> Path:
    """Write the table beside a JSON file of `measure`; returns its path."""
    path = record.with_suffix(".md")
    path.write_text(render(json.loads(record.read_text(encoding="utf-8"))), encoding="utf-8")
    return path


def render(record: Mapping[str, Any]) -> str:
    """The table as Markdown, with what it was measured on."""
    ratios = [name for name in _RATIOS if record["contenders"][0]["frame"][name] is not None]
    header = ["", "precision"]
    for size in _SIZES.values():
        header += [size, "p90", "processor", *(_RATIOS[name] for name in ratios)]
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    rows = [_row(each, ratios) for kind in _KINDS for each in record["contenders"] if each["kind"] == kind]
    return "\n".join(
        [
            "# Beside others",
            "",
            _setting(record),
            "",
            *(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)),
            "",
            _EXPLAINED.format(reference=record["reference"]),
            "",
            *(f"{name} was left out: {reason}  " for name, reason in record["failed"].items()),
        ]
    )


def _setting(record: Mapping[str, Any]) -> str:
    (height, width), network = record["frames"]["size_hw"], record["network_hw"]
    packages = record["environment"]["packages"]
    ours = ", ".join(f"{name} {packages[name]}" for name in ("openvino", "onnxruntime", "torch") if name in packages)
    theirs = ", ".join(f"{name} {version}" for name, version in record["peers_have"].items())
    samples = record["contenders"][0]["samples"]
    machine = "{model}, {cores} cores".format(**record["environment"]["cpu"])
    return (
        f"{machine}, {record['date']}; {record['threads']} thread(s) each; frames of {width}×{height}, network "
        f"{network[1]}×{network[0]}; {samples} samples of each in {record['rounds']} interleaved rounds. Ours: {ours}."
        + (f" Peers: {theirs}." if theirs else "")
        + _load(record["load_average"])
    )


def _load(average: Mapping[str, Any]) -> str:
    """How busy the machine was, by the last minute's average before and the last five minutes' after."""
    if average["before"] is None:
        return ""
    return f" Processes that ran or waited, before and on average: {average['before'][0]}, {average['after'][1]}."


def _row(each: Mapping[str, Any], ratios: Sequence[str]) -> list[str]:
    cells = [f"{each['name']} ({_KINDS[each['kind']]})", each["precision"]]
    for size in _SIZES:
        figures = each[size]
        p90 = "–" if figures["p90_ms"] is None else f"{figures['p90_ms']:.1f}"
        cells += [f"{figures['median_ms']:.1f}", p90, f"{figures['processor_ms']:.1f}"]
        cells += [f"{figures[name]:.2f}" for name in ratios]
    return cells
