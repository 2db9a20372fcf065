"""The page: one file, well formed, and true to the report."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from segrd_edge.benchmarks.html import render_page, write_page
from segrd_edge.benchmarks.latency_report import LatencyReport

_VOID = {"meta", "br", "hr", "img", "link", "input"}


class Outline(HTMLParser):
    """Counts elements, collects texts, and insists that every element is closed in its own place."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def page(report: LatencyReport) -> str:
    return render_page(report)


def test_the_page_is_self_contained(page: str) -> None:
    outline = Outline(page)
    assert "://" not in page
    assert not {"script", "link", "img", "iframe", "image", "use"} & set(outline.tags)
    assert not [name for name, _ in outline.attributes if name in ("src", "href", "xlink:href")]
    assert not re.search(r"@import|url\(", page)
    assert "$" not in page  # every placeholder of the template is filled


def test_a_histogram_and_a_sequence_for_each_contender_and_one_chart_of_stages(
    page: str, report: LatencyReport
) -> None:
    outline = Outline(page)
    assert outline.tags.count("svg") == 1 + 2 * len(report.contenders)
    assert outline.tags.count("circle") == sum(contender.total.samples_ms.size for contender in report.contenders)
    assert outline.tags.count("figure") == len(report.contenders)


def test_figures_stand_in_the_tables(page: str, report: LatencyReport) -> None:
    texts = Outline(page).texts
    for contender in report.contenders:
        assert texts.count(contender.name) >= 5  # three tables and two charts
    assert "12 samples each in 6 interleaved rounds" in texts
    assert any("p99 needs 100 samples, 12 were taken" in text for text in texts)


def test_no_coordinate_is_nan_or_infinite(page: str) -> None:
    numbers = [value for name, value in Outline(page).attributes if name in ("x", "y", "x1", "x2", "width", "height")]
    assert numbers
    assert all(value is not None and re.fullmatch(r"-?\d+(\.\d+)?", value) for value in numbers)


def test_names_are_escaped(report: LatencyReport) -> None:
    page = render_page(replace(report, product="<b>$part</b>", skipped={"tensorrt fp32": "no <driver>"}))
    assert "<h1>&lt;b&gt;$part&lt;/b&gt;</h1>" in page
    assert "tensorrt fp32 was not measured: no &lt;driver&gt;" in page
    Outline(page)


def test_light_dark_and_paper(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_the_page_replaces_an_older_one_and_leaves_nothing_else(report: LatencyReport, tmp_path: Path) -> None:
    path = tmp_path / "new" / "latency.html"
    for _ in range(2):
        write_page(path, render_page(report))
    assert [found.name for found in path.parent.iterdir()] == ["latency.html"]
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
