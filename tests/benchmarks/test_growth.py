from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segrd_edge import machine
from segrd_edge.benchmarks import growth, untrained
from segrd_edge.bundle import Bundle
from segrd_edge.console import build_app


def test_every_table_has_its_rows(bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "FRAME_SIDES", (96, 192))
    monkeypatch.setattr(growth, "TILED_SIDE", 192)
    three_cores = {**machine.cpu(), "usable_cores": 3}
    monkeypatch.setattr(machine, "cpu", lambda: three_cores)
    out = tmp_path / "growth.json"
    built: list[untrained.Network] = []
    monkeypatch.setattr(untrained, "build", lambda network, path: built.append(network) or Bundle.open(bundle_path))
    sizes = ["--size", "96", "--size", "160"]
    options = [str(bundle_path), *sizes, "--rounds", "2", "--threads", "1", "--out", str(out)]
    result = CliRunner().invoke(build_app(growth.command, name="growth", example=""), options)
    assert result.exit_code == 0, result.output
    tables = json.loads(out.read_text(encoding="utf-8"))["tables"]
    assert {name: len(rows) for name, rows in tables.items()} == {
        "frame size": 2, "tiles": 4, "cameras": 3, "streams": 2, "regions": 4, "network size": 2,
    }  # fmt: skip
    assert [network.size for network in built] == [96, 160]
    assert [row[""] for row in tables["network size"]] == ["96×96", "160×160"]
    assert [row[""] for row in tables["streams"]] == ["1 of 3 threads", "2 of 1 threads"]
    assert [row[""].split()[0] for row in tables["tiles"]] == ["1", "4", "9", "16"]
    assert [row["found"] for row in tables["regions"]] == [0, 1, 10, 100]
    assert min(row["total ms"] for row in tables["frame size"]) > 0
    assert min(row["frames per second, all cameras"] for row in tables["cameras"]) > 0


def test_rows_take_turns_and_the_first_turn_does_not_count() -> None:
    turns: list[str] = []

    def turn(name: str, value: float) -> growth.Turn:
        def take() -> dict[str, float]:
            turns.append(name)
            return {"ms": value + len(turns)}

        return take

    rows = growth.interleaved({"a": turn("a", 0), "b": turn("b", 100)}, rounds=3)
    assert turns == ["a", "b", "b", "a"] * 2  # every other round backwards
    assert rows == [{"": "a", "ms": 5.0}, {"": "b", "ms": 106.0}]
