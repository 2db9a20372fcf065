"""`segrd-bench --budget`: what keeps a time per frame on this machine, of bundles or before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segrd_edge.console import FOUND, OK, console, emit_json, new_table, print_table
from segrd_edge.errors import MissingExtraError

from .budget import Answer, Timed
from .budget_run import Settings, frame_text, measure_budget
from .budget_text import best_of, untrained_headline, untrained_sentences
from .figures import ms, size
from .latency_report import QUIET_OTHER_CPU


def of_bundles(paths: Sequence[Path], settings: Settings, *, as_json: bool) -> int:
    """Measure, show, and give the exit code: 1 where nothing keeps the budget."""
    answer, found = measure_budget(paths, settings, _say)
    show(answer, found, as_json=as_json)
    console.print(found["headline"], style="bold", markup=False, soft_wrap=True)
    for best in found["best"]:
        console.print(best["python"], style="green", markup=False, soft_wrap=True)
    for sentence in found["sentences"]:
        console.print(sentence, markup=False, soft_wrap=True)
    if as_json:
        emit_json(found)
    return OK if answer.fitting else FOUND


def of_untrained(models: list[str] | None, sizes: list[int] | None, settings: Settings, *, as_json: bool) -> int:
    """The same before anything is trained, for registered models at network sizes."""
    try:
        from .untrained import search
    except ModuleNotFoundError as error:
        missing = (error.name or "torch").partition(".")[0]
        raise MissingExtraError("--budget without a bundle", "export", missing) from error
    found = search(models, sizes, settings, _say)
    _show_untrained(found, as_json=as_json)
    console.print(untrained_headline(found), style="bold", markup=False, soft_wrap=True)
    for line in dict.fromkeys(row["train"] for row in found["networks"] if row["fits"]):
        console.print(line, style="green", markup=False, soft_wrap=True)
    for sentence in untrained_sentences(found):
        console.print(sentence, markup=False, soft_wrap=True)
    for run in found["runs"]:
        _caution(run)
    if as_json:
        emit_json(found)
    return OK if found["fitting"] else FOUND


def _show_untrained(found: Mapping[str, Any], *, as_json: bool) -> None:
    title = f"Untrained networks, from the frame's bytes to the verdict, ms; budget {found['budget_ms']:g} ms"
    table = new_table(title, "model", "profile", "network", "graph", "p50", "p99", "to\nspare")
    for row in found["networks"]:
        names = (row["model"], row["profile"] or "", size((row["network_hw"][0], row["network_hw"][1])))
        figures = (ms(row[key]) for key in ("median_ms", "p99_ms", "room_ms"))
        graph = f"{row['precision']} {row['engine']}"
        table.add_row(*names, graph, *figures, style="" if row["fits"] else "dim")
    if found["networks"]:
        print_table(table, as_json=as_json)


def _say(line: str) -> None:
    console.print(line, markup=False)


def show(answer: Answer, found: Mapping[str, Any], *, as_json: bool) -> None:
    """The table of what was measured, and what makes it doubtful."""
    title = f"From the frame's bytes to the verdict, ms; frames of {frame_text(found)}, budget {answer.budget_ms:g} ms"
    columns = ("graph", "network", "p50", "p99", "to\nspare", "image\nAUROC", "pixel\nAP")
    table = new_table(title, "bundle", *columns)
    best = best_of(answer).values()
    for each in answer.timed:
        style = "bold" if each in best else "" if answer.fits(each) else "dim"
        table.add_row(*_cells(answer, each), style=style)
    print_table(table, as_json=as_json)
    console.print(f"{found['samples']} samples of each in {found['rounds']} interleaved rounds", markup=False)
    _caution(found)


def _cells(answer: Answer, each: Timed) -> Iterator[str]:
    yield from (each.model, f"{each.precision} {each.engine}", size(each.network_hw))
    yield from (ms(each.median_ms), ms(each.p99_ms), ms(answer.budget_ms - each.p99_ms))
    for value in (each.image_auroc, each.pixel_ap):
        yield "–" if value is None else f"{value:.4f}"


def _caution(found: Mapping[str, Any]) -> None:
    notes = [f"{name} was not measured: {reason}" for name, reason in found["skipped"].items()]
    if found["noisy_rounds"]:
        notes.append(
            f"Other programs took more than {QUIET_OTHER_CPU:.0%} of the processor in {found['noisy_rounds']} of "
            f"{found['rounds']} rounds: p99 is theirs as well. Measure again on a quiet machine."
        )
    for note in notes:
        console.print(f"note: {note}", style="yellow", markup=False)
