from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from segrd_edge.probe import Answer, ask


def test_a_value_comes_back() -> None:
    assert ask("segrd_edge.tensorrt.support:parse_version", "10.16.2") == Answer(True, [10, 16, 2])


def test_what_is_printed_meanwhile_is_not_the_answer() -> None:
    assert ask("builtins:print", "[7]") == Answer(True, None)


def test_our_errors_keep_their_fix() -> None:
    answer = ask("segrd_edge.tensorrt.library:flavour_named", "trt")
    assert not answer.works
    assert answer.detail.startswith("unknown TensorRT flavour 'trt' (expected: tensorrt or")
    assert answer.fix == "name one of these"


@pytest.mark.parametrize(
    ("function", "arguments", "detail"),
    [
        ("segrd_edge.absent:anything", (), "No module named 'segrd_edge.absent'"),
        ("segrd_edge.tensorrt.support:parse_version", (7,), "'int' object has no attribute 'split'"),
        ("os:absent", (), "module 'os' has no attribute 'absent'"),
        ("sys:exit", (3,), "failed without a message"),
    ],
)
def test_other_errors_are_reported(function: str, arguments: tuple[Any, ...], detail: str) -> None:
    assert ask(function, *arguments) == Answer(False, None, detail)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_process_that_is_killed_is_reported() -> None:
    assert ask("os:abort") == Answer(False, None, "the process was ended by signal 6")


def test_a_process_that_hangs_is_ended() -> None:
    assert ask("time:sleep", 60, timeout_s=1) == Answer(False, None, "no answer within 1 s")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always imports from the current folder")
def test_the_current_folder_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert ask("segrd_edge.tensorrt.support:parse_version", "10.3").works
