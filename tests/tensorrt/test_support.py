from __future__ import annotations

import re
from pathlib import Path

import pytest

from segrd_edge.tensorrt import support
from segrd_edge.tensorrt.library import FLAVOURS
from segrd_edge.tensorrt.support import TABLE, row_for

from ..contract.releases import RELEASES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "docker/README.md"]


@pytest.mark.parametrize(
    ("asked", "machine"),
    [
        ({"l4t": (36, 4, 3)}, "JetPack 6.1, 6.2 (Orin)"),
        ({"l4t": (36, 4, 3), "tensorrt": "10.7.0.23"}, "JetPack 6.1, 6.2 (Orin)"),
        ({"l4t": (36, 5, 0), "tensorrt": "11.4.0"}, "JetPack 6.1, 6.2 (Orin)"),  # what should not be there
        ({"l4t": (38, 4, 0)}, "JetPack 7.1 (Thor)"),
        ({"l4t": (39, 2, 0), "tensorrt": "10.16.2.10"}, "JetPack 7.2 (Orin, Thor)"),
        ({"l4t": (39, 2, 2), "tensorrt": "10.16.2.10"}, "JetPack 7.2 (Orin, Thor)"),
        ({"l4t": (39, 2, 2), "tensorrt": "11.4.1.2"}, "JetPack 7.2.2 (AGX Orin, Thor), SBSA package"),
        ({"l4t": (36, 3, 0)}, None),  # JetPack 6.0 has TensorRT 8.6
        ({"l4t": (35, 4, 1)}, None),
        ({}, "PC, tensorrt-cu13"),
        ({"tensorrt": "11.4.0.106", "cuda": 12}, "PC, tensorrt-cu12"),
        ({"tensorrt": "10.3.0", "cuda": 12}, "PC, tensorrt-cu12"),
        ({"flavour": "tensorrt-rtx", "tensorrt": "1.7.1.116"}, "PC with an RTX card"),
        ({"flavour": "tensorrt-rtx", "l4t": (39, 2, 0)}, None),
    ],
)
def test_the_row_of_a_machine(asked: dict[str, object], machine: str | None) -> None:
    row = row_for(**asked)  # type: ignore[arg-type]
    assert (row.machine if row else None) == machine


@pytest.mark.parametrize(
    ("version", "belongs"),
    [("10.3", True), ("10.3.0.30", True), ("10.7.0", True), ("10.2.9", False), ("10.8.0", False), ("11.0", False)],
)
def test_releases_of_a_row(version: str, belongs: bool) -> None:
    assert TABLE[0].has_tensorrt(version) is belongs


@pytest.mark.parametrize(("version", "belongs"), [("3.10.12", True), ("3.9.1", False), ("3.14.0rc1", True)])
def test_pythons_of_a_row(version: str, belongs: bool) -> None:
    assert TABLE[4].has_python(version) is belongs


@pytest.mark.parametrize(("l4t", "jetpack"), [((36, 4), "6.1"), ((36, 4, 7), "6.2.1"), ((36, 4, 9), None)])
def test_jetpack_of_an_l4t(l4t: tuple[int, ...], jetpack: str | None) -> None:
    assert support.jetpack_of(l4t) == jetpack


def test_versions_read_as_far_as_they_are_numbers() -> None:
    assert support.parse_version("3.13.0rc1") == (3, 13, 0)
    assert support.parse_version("10.16.2.10") == (10, 16, 2, 10)
    assert support.parse_version("unknown") == ()


def test_rows_agree_with_what_is_known_elsewhere() -> None:
    assert {row.flavour for row in TABLE} <= set(FLAVOURS)
    assert all(len(row.cells()) == len(support.HEADINGS) for row in TABLE)
    for row in TABLE:  # a PC's driver is that of its CUDA
        if row.l4t is None:
            assert support.LEAST_DRIVER[int(row.cuda.partition(".")[0])] in row.driver


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_every_release_of_the_contract_is_in_the_table(release: object) -> None:
    version, module = release.version, release.module  # type: ignore[attr-defined]
    rows = [row for row in TABLE if FLAVOURS[row.flavour].module == module and row.has_tensorrt(version)]
    jetpack = re.match(r"JetPack \S+", release.machines)  # type: ignore[attr-defined]
    if jetpack is None:
        assert rows
    else:
        assert any(row.machine.startswith(jetpack[0]) for row in rows)


def test_pages_show_the_table_as_it_is() -> None:
    first = support.markdown().partition("\n")[0]
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    shown = {page: text for page, text in texts.items() if first in text}
    assert ROOT / "docker/README.md" in shown
    for page, text in shown.items():
        assert support.markdown() in text, f"{page.name}: the table differs from segrd_edge.tensorrt.support"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_versions_on_pages_are_those_of_the_table(page: Path) -> None:
    """Rows of any table that begin with one of the machines, whatever else their table holds."""
    known = {row.machine: row for row in TABLE}
    compared = 0
    for cells in table_rows(page.read_text(encoding="utf-8")):
        row = known.get(next(iter(cells.values())))
        if row is None:
            continue
        whole = dict(zip(support.HEADINGS, row.cells(), strict=True))
        for name in {"CUDA", "Python"} & set(cells):
            assert cells[name] == whole[name], cells
        tensorrt = cells.get("TensorRT", whole["TensorRT"])
        assert tensorrt == whole["TensorRT"] or row.has_tensorrt(tensorrt), cells
        compared += 1
    assert compared >= (len(TABLE) if page.name == "README.md" else 0)


def table_rows(markdown: str) -> list[dict[str, str]]:
    """All rows of all tables, cells by the names of their columns."""
    rows = []
    tables = re.findall(r"^(\|.*\|)\n\|[ :|-]+\|\n((?:\|.*\|\n?)+)", markdown, re.MULTILINE)
    for heading, body in tables:
        names, *lines = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in [heading, *body.splitlines()]
        )
        rows += [dict(zip(names, cells, strict=True)) for cells in lines]
    return rows
