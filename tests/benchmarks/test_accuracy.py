"""The accuracy table: what it says of its cells, and that an interrupted one continues."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from segrd_edge.benchmarks import accuracy, accuracy_table, side_by_side
from segrd_edge.errors import OptionError
from segrd_edge.training.models import MODELS

from .made_up import summary


def cell(
    label: str = "imagenet", category: str = "bottle", image_auroc: float = 0.99, int8: dict[str, Any] | None = None
) -> dict[str, Any]:
    fp32 = dict.fromkeys(accuracy_table.COLUMNS, 0.5) | {"image_auroc": image_auroc}
    return {
        "cell": f"{label}-{category}-seed0",
        "category": category,
        "label": label,
        "seed": 0,
        "minutes": 8.0,
        "threads": 1,
        "options": {},
        "size_hw": [256, 256],
        "tile_hw": None,
        "teacher": {"name": label, "sha256": "0" * 64},
        "steps": 100,
        "date": "2026-01-01",
        "machine": "a processor, 2 cores",
        "precisions": {"fp32": fp32, "int8": fp32 | (int8 or {})},
        "default_precision": "fp32",
        "int8": {"scope": "head", "score_mean": 0.03},
    }


def table(folder: Path, *cells: dict[str, Any]) -> str:
    for one in cells:
        (folder / f"{one['cell']}.json").write_text(json.dumps(one))
    accuracy_table.write_table(folder)
    return (folder / "table.md").read_text()


def test_rows_and_what_int8_costs(tmp_path: Path) -> None:
    text = table(tmp_path, cell(image_auroc=0.99, int8={"image_auroc": 0.985, "pixel_ap": None}))
    assert "| bottle | 0 | 100 | fp32 (default) | 0.9900 | 0.5000 | 0.5000 |" in text
    assert "| bottle | 0 | 100 | int8, head | 0.9850 | 0.5000 | – |" in text
    assert "| bottle | 0 | 100 | int8 − fp32 | -0.0050 | +0.0000 | – |" in text
    assert "8 minutes of training on 1 thread(s) of: a processor, 2 cores" in text


def test_verdicts_at_the_threshold(tmp_path: Path) -> None:
    known = cell("rd")
    known["precisions"]["fp32"]["wrong"] = {"false_rejects": [1, 20], "escapes": [3, 63]}
    text = table(tmp_path, known, cell("stfpm"))
    assert "| rd | bottle | 0 | 1 of 20 | 3 of 63 |" in text
    assert "| stfpm | bottle | 0 | – " not in text.partition("## Verdicts")[2].partition("\n## ")[0]
    assert "Exported 2026-01-01." in text


def test_settings_are_compared_where_both_have_a_cell(tmp_path: Path) -> None:
    cells = [cell(), cell(category="fabric01"), cell("edge", image_auroc=0.95)]
    text = table(tmp_path, *cells)
    assert "## edge − imagenet, fp32" in text
    comparison = text.partition("## edge − imagenet, fp32")[2]
    assert "| bottle | 0 | 100 | fp32 | -0.0400 |" in comparison
    assert "fabric01" not in comparison


def test_size_and_latency_of_each_model(tmp_path: Path) -> None:
    models = {"model": {"name": "rd", "parameters": 18_226_593, "gmacs": 4.328}}
    latency = summary({}, {"rd": 60.0})["latency"]
    latency |= {"threads": 1, "started": "2026-01-02T03:04:05+00:00"}
    few = {**latency, "bundles": latency["bundles"][:1]}
    (tmp_path / accuracy_table.LATENCY_FILE).write_text(json.dumps({"bottle": latency, "fabric01": few}))
    text = table(tmp_path, cell("rd") | models, cell("old"), cell("stfpm") | models)
    assert "| rd | 18.2 | 4.3 | 60.0 (66.0) | 30.0 (33.0) |" in text
    assert "| stfpm | 18.2 | 4.3 | – | – |" in text
    assert "| old | 18" not in text  # a file from before sizes were written down
    assert "frames of 700×700, openvino 2026.4, threads: 1, 30 samples each in 15 interleaved rounds, a proc" in text
    assert "2026-01-02. Bundles of bottle." in text


def test_int8_is_held_to_its_aims(tmp_path: Path) -> None:
    latency = summary({}, {"rd": 60.0, "slow": 50.0})["latency"]
    latency |= {"threads": 1, "started": "2026-01-02T03:04:05+00:00"}
    latency["bundles"][1]["median_ms"] = 20.0  # of rd, int8
    latency["cells"] = {"rd": "rd-bottle-seed0", "slow": "slow-bottle-seed0"}
    (tmp_path / accuracy_table.LATENCY_FILE).write_text(json.dumps({"bottle": latency}))
    changes = {"held_out": 0, "held_out_frames": 40, "test": 1, "test_frames": 100}
    kept = {"scope": "all", "share": 0.98, "verdict_changes": changes}
    cells = [
        cell("rd", int8={"image_auroc": 0.988}) | {"int8": kept, "default_precision": "int8"},
        cell("slow", int8={"image_auroc": 0.98, "pixel_ap": 0.48})
        | {"int8": {**kept, "scope": "head", "verdict_changes": {**changes, "test": 2}}},
        cell("old"),
        cell("rd") | {"cell": "rd-bottle-seed1", "seed": 1, "int8": kept, "default_precision": "int8"},
    ]
    text = table(tmp_path, *cells)
    assert "| rd | bottle | 0 | all | 98% | -0.0020 | +0.0000 | 1 of 100 | 3.00 | none |" in text
    assert "| rd | bottle | 1 | all | 98% | +0.0000 | +0.0000 | 1 of 100 | – | speed: not measured |" in text
    row = next(line for line in text.splitlines() if line.startswith("| slow | bottle | 0 | head (fp32 stays the"))
    assert row.endswith("| -0.0100 | -0.0200 | 2 of 100 | 2.00 | image AUROC, pixel AP, verdicts, speed |")
    assert "| old | bottle | " not in text
    for is_taken, said in (
        (True, "1 of 100 (by a second try; the first turned 3)"),
        (False, "1 of 100 (a second try 2, not taken)"),
    ):
        second = {"turned": 1 if is_taken else 2, "turned_before": 3, "is_taken": is_taken}
        assert f"| {said} |" in table(tmp_path, cell("rd") | {"int8": {**kept, "second_try": second}})


def test_latency_is_measured_category_by_category(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "measure_bundles", partial(side_by_side.measure_bundles, rounds=2))
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    with pytest.raises(OptionError, match="has no bundle of a cell"):
        accuracy.measure_latency(out, work, threads=1)
    cells = [cell("a"), cell("b"), cell("b", "fabric01")]
    for one in cells:
        (work / one["cell"]).mkdir(parents=True)
        shutil.copy(bundle_path, work / one["cell"] / "part.segrd")
    table(out, *cells)
    accuracy.measure_latency(out, work, threads=1)
    measured = json.loads((out / accuracy_table.LATENCY_FILE).read_text())
    assert measured["bottle"]["cells"] == {"a": "a-bottle-seed0", "b": "b-bottle-seed0"}
    timed = {name: [(b["bundle"], b["precision"]) for b in found["bundles"]] for name, found in measured.items()}
    b = [("b", "fp32"), ("b", "int8")]
    assert timed == {"bottle": [("a", "fp32"), ("a", "int8"), *b], "fabric01": b}
    assert [latency["p95_ms"] for latency in measured["bottle"]["bundles"]] == [None] * 4  # of 4 samples
    accuracy_table.write_table(out)  # which takes latency.json for no cell
    monkeypatch.setattr(accuracy, "run_cell", lambda *_: pytest.fail("trained"))
    accuracy.main(tmp_path, category=["fabric01"], seed=[1], threads=1, out=out, work=work, latency=True)
    again = json.loads((out / accuracy_table.LATENCY_FILE).read_text())
    assert again["bottle"] == measured["bottle"]
    assert again["fabric01"] != measured["fabric01"]
    with pytest.raises(OptionError, match="no bundle of a cell of ball_screw or tile"):
        accuracy.measure_latency(out, work, threads=1, categories=["ball_screw", "tile"])


def test_finished_cells_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bottle", "fabric01"):
        (tmp_path / "data/set" / name / "train").mkdir(parents=True)
    ran: list[str] = []

    def run_cell(one: accuracy.Cell, *_: object) -> None:
        ran.append(one.name)
        (tmp_path / "out" / f"{one.name}.json").write_text(json.dumps(cell("x", one.category)))

    monkeypatch.setattr(accuracy, "run_cell", run_cell)
    (tmp_path / "out").mkdir()
    for _ in range(2):
        accuracy.main(
            tmp_path / "data",
            model=["adps"],
            teacher="folder/x",
            label="x",
            category=["bottle", "fabric01"],
            seed=[0],
            out=tmp_path / "out",
            minutes=8,
            threads=1,
        )
    assert ran == ["x-bottle-seed0", "x-fabric01-seed0"]
    again = partial(
        accuracy.main,
        tmp_path / "data",
        teacher="x",
        model=["adps"],
        label="x",
        category=["bottle"],
        out=tmp_path / "out",
    )
    for options, what in (
        ({"minutes": 5}, "minutes 8.0 and not 5"),
        ({"size": "320"}, r"size_hw \[256, 256\] and not"),
        ({"teacher": "edge"}, "teacher x and not edge"),
        ({"int8": False}, "int8 True and not False"),
    ):
        with pytest.raises(OptionError, match=rf"x-bottle-seed0.json was made with .*{what}"):
            again(**{"minutes": 8} | options)
    assert len(ran) == 2


def test_one_command_is_the_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data/bottle/train").mkdir(parents=True)
    ran: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(accuracy, "run_cell", lambda one, settings, *_: ran.update({one.name: settings.options}))
    (tmp_path / "out").mkdir()
    options = ["destseg.head_width=64", "destseg.head_fusion_kernel=1"]
    accuracy.main(tmp_path / "data", category=["bottle"], option=options, seed=[0], out=tmp_path / "out")
    assert set(ran) == {f"{name}-bottle-seed0" for name in MODELS}
    assert ran["destseg-bottle-seed0"] == {"head_width": 64, "head_fusion_kernel": 1}
    assert ran["adps-bottle-seed0"] == {}
    with pytest.raises(OptionError, match="--label x with 8 models"):
        accuracy.main(tmp_path / "data", label="x")


def test_an_unknown_category(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no category 'bottle'"):
        accuracy.find_category(tmp_path, "bottle")
