from __future__ import annotations

import json
from pathlib import Path

import pytest

from segrd_edge.errors import OptionError
from segrd_edge.files import check_can_write, replacing, write_json


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.bin"
    for content in (b"first", b"second"):
        with replacing(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_json(path, {"name": "Prüfteil", "value": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"value": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Prüfteil", "value": 1.5}


def test_a_file_that_cannot_be_written_is_refused_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    check_can_write(tmp_path / "new" / "page.html")
    assert list((tmp_path / "new").iterdir()) == []
    for path, why in ((tmp_path, "it is a folder"), (tmp_path / "file" / "page.html", "page.html cannot be written")):
        with pytest.raises(OptionError, match=why):
            check_can_write(path)
