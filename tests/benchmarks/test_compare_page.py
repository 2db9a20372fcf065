"""What the page says of comparisons that nobody ran."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segrd_edge.benchmarks.compare import contestants
from segrd_edge.benchmarks.compare_page import write_page

from .made_up import record, summary
from .test_html import Outline

MEDIAN_MS = {"rd": 60.0, "stfpm": 20.0}  # at fp32; int8 takes half
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(models, budget_ms, …)`: the page's source, well formed."""

    def write_one(models: dict[str, Any], budget_ms: float | None = None, **more: Any) -> str:
        made = summary(models, {name: MEDIAN_MS[name] for name in models}, budget_ms)
        made["latency"] |= more.pop("latency", {})
        made |= more
        write_page(tmp_path / "compare.html", made, contestants(models, made["latency"]))
        return (tmp_path / "compare.html").read_text(encoding="utf-8")

    return write_one


def words(html: str) -> str:
    """The text of a page, in one line."""
    return " ".join(" ".join(Outline(html).texts).split())


def test_one_sentence_recommends_and_others_say_why(write: Write) -> None:
    text = words(write({"rd": record(0, 0.78), "stfpm": record(9, 0.5)}))
    assert "Take rd at int8: the best of these for this part. Image AUROC 1.000, pixel AP 0.780, 33.0 ms (p95)." in text
    assert "Of the 4 candidates (a model at a precision each), 2 reach the highest image AUROC" in text
    assert "The test images cannot tell it from rd at fp32 (66.0 ms): of equals, the fastest is taken." in text
    assert "At its threshold 0 of 20 defective test images escape, and 1 of 20 good images is rejected." in text
    assert "One seed and few minutes rank models only roughly." in text


def test_the_budget_excludes_the_most_accurate_and_the_page_says_which_that_is(write: Write) -> None:
    html = write({"rd": record(0, 0.78), "stfpm": record(9, 0.5)}, 25)
    text = words(html)
    assert "Take stfpm at int8: the best of these for this part within 25 ms." in text
    assert "Without a budget it would be rd at int8: Image AUROC 1.000, pixel AP 0.780, 33.0 ms (p95)." in text
    assert text.count("budget 25 ms") == 2  # in both charts


def test_no_model_keeps_the_budget(write: Write) -> None:
    text = words(write({"rd": record(), "stfpm": record()}, 5))
    assert "No model keeps 5 ms. The fastest, stfpm at int8, takes 11.0 ms (p95)." in text
    assert "A smaller --size makes every model faster" in text
    assert "segrd-inspect" not in text


def test_refused_int8_is_shown_and_not_chosen(write: Write) -> None:
    html = write({"rd": record(refused=True)})
    text = words(html)
    assert "Take rd at fp32" in text
    assert "INT8 of rd could not be chosen" in text
    assert html.count('<tr class="refused">') == 1
    assert html.count('class="mark-int8 refused"') == 2


def test_a_model_alone(write: Write) -> None:
    assert "It is the only candidate within the budget." in words(write({"rd": record()}, 40))


def test_without_masks_there_is_one_chart_and_image_auroc_decides(write: Write) -> None:
    html = write({"rd": record(0, None), "stfpm": record(9, None)})
    assert "Without masks there is no pixel AP to tell them apart." in words(html)
    assert Outline(html).tags.count("svg") == 1


def test_without_an_evaluation_nothing_is_recommended(write: Write) -> None:
    html = write({"rd": record(evaluated=False)})
    assert "Not known: nothing was evaluated. The fastest is rd at int8, 33.0 ms (p95)." in words(html)
    assert "svg" not in Outline(html).tags


def test_metrics_of_synthetic_defects_are_called_so(write: Write) -> None:
    synthetic = record(caution="The metrics come from synthetic defects on 42 held-out good images.")
    for reached in synthetic["precisions"].values():
        reached["wrong"] = None
    text = words(write({"rd": synthetic}))
    assert "The metrics come from synthetic defects on 42 held-out good images." in text
    assert "escape, and" not in text


def test_what_is_missing_or_noisy_is_said(write: Write) -> None:
    latency = {"skipped": {"rd int8": "no such instruction"}, "noisy_rounds": 4}
    text = words(write({"rd": record()}, failed={"adps": "no <threshold>"}, latency=latency))
    assert "adps is missing: no <threshold>" in text
    assert "The latency of rd int8 is missing: no such instruction" in text
    assert "Other programs took more than 5% of the processor in 4 of 15 rounds" in text


def test_figures_reports_and_origin(write: Write) -> None:
    html = write({"rd": record(1, 0.7654), "stfpm": record(9, 0.5)})
    text = words(html)
    for figure in ("0.9500", "0.7654", "9 of 20", "18.2", "4.33", "93.8 MB", "836", "accepted", "head", "30.0", "33.0"):
        assert figure in text
    assert text.count("dent") == 2  # its table, and the photographs
    assert "167 good photographs to train on, 42 held out for the threshold; to test on: 20 good, 20 dent." in text
    assert "segrd-compare photos/bottle --out compare" in text
    assert "a processor, x86_64" in text
    links = [value for name, value in Outline(html).attributes if name == "href"]
    assert links == ["rd/part.html", "stfpm/part.html"]


def test_one_file_that_needs_no_other(write: Write) -> None:
    html = write({"rd": record(), "stfpm": record(3)}, 40)
    assert not {"script", "link", "img", "iframe"} & set(Outline(html).tags)
    assert not re.search(r"https?:|@import|url\(", html)
    assert "&lt;bottle&gt;" in html  # the folder's name
    for name, value in Outline(html).attributes:
        if name in ("cx", "cy", "x", "y", "x1", "x2"):
            assert re.fullmatch(r"-?\d+(\.\d+)?", str(value))
