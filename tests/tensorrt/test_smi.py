"""What nvidia-smi says, from programs that stand for it.

Their lines are written after the tool's documentation and lines that users published, not recorded by us.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from segrd_edge.tensorrt import smi
from segrd_edge.tensorrt.smi import Card

_UNKNOWN = 'echo "Field \\"clocks_event_reasons.active\\" is not a valid field to query."; exit 2'
Tool = Callable[[str, str], None]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Puts an nvidia-smi on the path: what it prints for its facts, and its commands for a field of reasons."""
    shell = shutil.which("sh", path="/bin:/usr/bin")
    if shell is None:
        pytest.skip("the programs of these tests are shell scripts")
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(facts: str, reasons: str) -> None:
        script = f'#!{shell}\ncase "$1" in\n--query-gpu=name,*) echo "{facts}";;\n{reasons}\n*) exit 6;;\nesac\n'
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)

    return write


def test_a_card_at_rest(tool: Tool) -> None:
    tool(
        "NVIDIA GeForce RTX 4060, 580.95.05, 210, 3105, 115.00, Disabled, Default",
        "*clocks_event_reasons.active) echo 0x0000000000000001;;",
    )
    (card,) = smi.cards()
    assert card == Card("NVIDIA GeForce RTX 4060", "580.95.05", 210, 3105, 115.0, "Disabled", "Default")
    persistence, clock = card.warnings(is_windows=False)
    assert persistence.fix == "sudo nvidia-smi -pm 1"
    assert "210 of 3105 MHz" in clock.what
    assert "-lgc 3105" in clock.fix
    assert [warning.what for warning in card.warnings(is_windows=True)] == [clock.what]


def test_a_card_that_is_ready(tool: Tool) -> None:
    tool(
        "NVIDIA L4, 580.82.07, 2040, 2040, 72.00, Enabled, Default",
        "*clocks_event_reasons.active) echo 0x0000000000000002;;",
    )
    (card,) = smi.cards()
    assert card.warnings(is_windows=False) == []


def test_a_card_that_is_slowed_down_under_an_older_driver(tool: Tool) -> None:
    tool(
        "NVIDIA L4, 535.183.01, 600, 2040, 72.00, Enabled, Prohibited",
        f"*clocks_event_reasons.active) {_UNKNOWN};;\n*clocks_throttle_reasons.active) echo 0x0000000000000024;;",
    )
    (card,) = smi.cards()
    assert card.slowed_by == ("its power limit", "heat")
    assert [warning.what for warning in card.warnings(is_windows=False)] == [
        "NVIDIA L4 lets no program compute",
        "NVIDIA L4 is slowed down by its power limit and heat",
    ]


def test_what_the_driver_does_not_know_is_none(tool: Tool) -> None:
    row = "NVIDIA RTX A500 Laptop GPU, 580.95.05, [N/A], [Not Supported], [N/A], [N/A], Default"
    tool(f"{row}\nWARNING: infoROM is corrupted at gpu 0000:01:00.0", "")
    (card,) = smi.cards()
    assert (card.sm_mhz, card.most_sm_mhz, card.power_limit_w, card.persistence) == (None, None, None, None)
    assert card.warnings(is_windows=False) == []


def test_several_cards_keep_their_order(tool: Tool) -> None:
    row = "580.95.05, 2040, 2040, 72.00, Enabled, Default"
    tool(f"first, {row}\nsecond, {row}", "*clocks_event_reasons.active) echo 0x0; echo 0x8;;")
    assert [(card.name, len(card.slowed_by)) for card in smi.cards()] == [("first", 0), ("second", 1)]


def test_without_the_tool_there_are_no_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert smi.cards() == []


def test_a_tool_that_fails_shows_no_cards(tool: Tool) -> None:
    tool("$(exit 9)", "")
    assert smi.cards() == []
