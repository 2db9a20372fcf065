"""Heads side by side: one student, each head trained as it would be alone."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from segrd_edge.benchmarks import heads
from segrd_edge.training.phases import Batch
from segrd_edge.training.run import RunConfig
from segrd_edge.training.train import create_trainable

from .made_up import summary


def models(*options: dict[str, Any]) -> dict[str, Any]:
    return {str(i): model({"head_width": 8, **each}) for i, each in enumerate(options)}


def model(options: dict[str, Any]) -> Any:
    return create_trainable(RunConfig(data="", model="destseg", seed=3, options=options))[0]


def test_heads_share_a_student_and_learn_as_if_alone() -> None:
    both = heads.SideBySide(models({}, {"head_fusion_kernel": 1}))
    alone = heads.SideBySide(models({"head_fusion_kernel": 1}))
    first, second = both.models.values()
    assert first.student is second.student
    assert first.teacher is second.teacher
    alone.models["0"].load_state_dict({**second.state_dict()})
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    batch: Batch = {"clean": images, "corrupted": images, "mask": (torch.rand(2, 1, 64, 64) > 0.9).float()}
    for together in (both, alone):
        student, head = together.phases(0.25)
        assert (student.share_of_time, head.share_of_time) == (0.25, 0.75)
        head.objective.train()
        head.objective(batch).backward()
    gradients = [[p.grad for p in member.head.parameters()] for member in (second, alone.models["0"])]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    groups = both.phases(0.25)[1].short.groups
    trained = [p for group in groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for m in (first, second) for p in m.head.parameters()}


def test_a_category_from_photographs_to_the_table(photos: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "data": photos.parent,
        "category": [photos.name],
        "head": ["width128-levels64-stride8"],
        "student_minutes": 0.002,
        "heads_minutes": 0.002,
        "threads": torch.get_num_threads(),
        "size": 64,
        "int8": False,
        "out": tmp_path / "out",
        "work": tmp_path / "work",
    }
    heads.main(**arguments)
    (file,) = (tmp_path / "out").glob("*.json")
    cell = json.loads(file.read_text())
    assert set(cell["precisions"]) == {"fp32"}
    table = (tmp_path / "out/table.md").read_text()
    assert "## Mean of 1 trainings, fp32" in table
    assert table.count("| width128-levels64-stride8 |") == 2
    before = file.stat().st_mtime_ns
    heads.main(**arguments)  # nothing is done twice
    assert file.stat().st_mtime_ns == before


def test_the_table_compares_with_the_first_head(tmp_path: Path) -> None:
    for category, gain in (("a", 0.02), ("b", 0.04)):
        for head in ("official", "width64"):
            metrics = dict.fromkeys(heads.METRICS, 0.5 + (gain if head == "width64" else 0))
            cell = {
                "category": category,
                "head": head,
                "seed": 0,
                "steps": 3,
                "minutes": 1.0,
                "threads": 1,
                "machine": "a processor",
                "teacher": {"name": "edge"},
                "date": "2026-01-01",
                "model": {"parameters": 1e6, "gmacs": 2.0},
                "precisions": {"fp32": metrics},
            }
            (tmp_path / f"{category}-{head}.json").write_text(json.dumps(cell))
    latency = summary({}, {"official": 60.0, "width64": 12.5})["latency"]
    latency |= {"threads": 1, "started": "2026-01-02T03:04:05+00:00"}
    (tmp_path / heads.LATENCY_FILE).write_text(json.dumps(latency))
    heads.write_table(tmp_path)
    text, _, times = (tmp_path / "table.md").read_text().partition("## Latency")
    assert "| width64 | 12.5" in times
    mean = text.partition("## Mean of 2 trainings, fp32")[2]
    row = next(line for line in mean.splitlines() if line.startswith("| width64 "))
    assert row.endswith("| +0.0300 | +0.0300 |")
    assert "| 0.5300 |" in row


@pytest.mark.parametrize("name", heads.HEADS)
def test_every_head_can_be_built(name: str) -> None:
    assert model(heads.HEADS[name]).head is not None


def test_heads_are_timed_without_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "measure_bundles", partial(heads.measure_bundles, rounds=2))
    heads.main(latency=True, head=["width64-levels32"], size=64, threads=1, out=tmp_path, work=tmp_path / "work")
    timed = json.loads((tmp_path / heads.LATENCY_FILE).read_text())["bundles"]
    assert [(row["bundle"], row["precision"]) for row in timed] == [
        ("width64-levels32", "fp32"), ("width64-levels32", "int8"),
    ]  # fmt: skip
    assert not (tmp_path / "work").exists()
