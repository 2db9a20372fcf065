"""`segrd-bench`: how long this machine takes from a frame's bytes to the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segrd_edge.console import (
    OK,
    console,
    emit_json,
    json_option,
    new_table,
    parse_duration_ms,
    parse_frame_size,
    print_table,
)
from segrd_edge.errors import OptionError
from segrd_edge.files import check_can_write

if TYPE_CHECKING:
    from .arrivals import Arrivals
    from .latency_report import LatencyReport


def command(
    bundle: Annotated[
        list[Path] | None, typer.Argument(help="The .segrd file; with --budget any number.", show_default=False)
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option(
            help="Size of the frames, WIDTHxHEIGHT; default is the size of the images in --frames, or 1024x1024."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="A time per frame, 30ms or 0.03s: which of these bundles, engines and precisions keeps it at p99, and "
            "which of those is the most accurate; without a bundle, which models, profiles and sizes keep it.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="With --budget and no bundle: a model; may be repeated. Default is all.")
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(help="With --budget and no bundle: a network size; may be repeated. Default 192, 256 and 320."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Two samples of each contender per round.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Measure for about this long; default 12 s, or all of a --trace.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Processor threads of an engine; default is its own choice.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(help="An engine to measure; may be repeated. Default is all installed.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="A precision to measure; may be repeated. Default is all of the bundle.")
    ] = None,
    frames: Annotated[
        Path | None, typer.Option(help="Folder of frames; default makes them of the bundle's golden images.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="The run that was exported: measure its eager torch model too; needs the train extra."),
    ] = None,
    period: Annotated[
        float | None,
        typer.Option(
            help="Run as a triggered line does: a frame every so many ms, and idle between them. One engine and "
            "precision: what a Detector takes by itself, or those named."
        ),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="The same with arrivals from a text file, a time in ms per line.")
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(help="With --period or --trace: ms from arrival to verdict; default is the (median) period."),
    ] = None,
    keep_warm: Annotated[
        float | None, typer.Option(help="With --period or --trace: Detector's keep_warm_ms.", show_default=False)
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Compare two files that --json wrote: BEFORE AFTER.", show_default=False),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page with charts here.")] = None,
    json: Annotated[bool, json_option] = False,
) -> int:
    """Measure every engine and precision from a frame's bytes to the verdict, in one interleaved run; or one of them at
    the pace of a line; or many against a budget. Exit code 1: nothing keeps the --budget."""
    paced = {"--period": period, "--trace": trace, "--deadline": deadline, "--keep-warm": keep_warm}
    common: dict[str, Any] = {
        "frame_hw": None if frame is None else parse_frame_size(frame),
        "threads": threads,
        "frames": frames,
    }
    measured = {"rounds": rounds, "seconds": seconds, "engines": engine, "precisions": precision}
    if compare is not None:
        others = {"a bundle": bundle, "--budget": budget, "--run": run, "--html": html, **paced}
        others |= {f"--{name.removesuffix('_hw')}": value for name, value in (common | measured).items()}
        _refuse("--compare", others, "two results, and --json at most")
        _compare(*compare, as_json=json)
        return OK
    if html is not None:
        check_can_write(html)  # before minutes of measuring
    if budget is not None:
        _refuse("--budget", {"--run": run, "--html": html, **paced}, "one or the other")
        return _budget(budget, bundle or [], model, size, common | measured, as_json=json)
    _refuse("--model or --size", {"no --budget": model or size}, "--budget and no bundle")
    if not bundle or len(bundle) > 1:
        raise OptionError(
            f"{len(bundle or [])} bundles to measure",
            expected="one .segrd file; any number with --budget; or --compare with two results",
        )
    if period is None and trace is None:
        for_a_line = [value for value in (deadline, keep_warm) if value is not None]
        _refuse("--deadline or --keep-warm", {"no arrivals": for_a_line}, "--period or --trace beside it")
        found, page = _interleaved(bundle[0], common | measured | {"run": run}, as_json=json)
    else:
        _refuse("arrivals", {"--rounds": rounds, "--run": run}, "--seconds: one detector runs at their pace")
        common |= {"engine": _only("--engine", engine), "precision": _only("--precision", precision)}
        common |= {"deadline_ms": deadline, "keep_warm_ms": keep_warm}
        found, page = _at_pace(bundle[0], _arrivals(period, trace, seconds), common, as_json=json)
    if html is not None:
        from .html import write_page

        write_page(html, page())
        console.print(f"page: {html}", markup=False, soft_wrap=True)
    if json:
        emit_json(found)
    return OK


def _refuse(option: str, others: dict[str, Any], expected: str) -> None:
    """OptionError if any of the others is given."""
    if given := [name for name, value in others.items() if value is not None and value != []]:
        raise OptionError(f"{option} with {', '.join(given)}", expected=expected)


def _budget(
    text: str,
    bundles: list[Path],
    models: list[str] | None,
    sizes: list[int] | None,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> int:
    from . import budget_cli
    from .budget_run import Settings

    settings = Settings(parse_duration_ms("--budget", text), **options)
    if bundles:
        _refuse("--model or --size", {"bundles": models or sizes}, "one or the other: bundles have their own")
        return budget_cli.of_bundles(bundles, settings, as_json=as_json)
    return budget_cli.of_untrained(models, sizes, settings, as_json=as_json)


_Found = tuple[dict[str, Any], Callable[[], str]]  # for JSON, and what makes the page


def _interleaved(bundle: Path, options: dict[str, Any], *, as_json: bool) -> _Found:
    from .html import render_page
    from .latency import measure

    console.print("measuring ...")  # no progress bar: its refreshing thread would be measured too
    report = measure(bundle, **options)
    _show(report, as_json=as_json)
    return report.to_dict(), lambda: render_page(report)


def _at_pace(bundle: Path, arrivals: Arrivals, options: dict[str, Any], *, as_json: bool) -> _Found:
    from . import line_page
    from .line import measure_line

    console.print(f"{arrivals.times_ms.size} arrivals in {arrivals.times_ms[-1] / 1e3:.1f} s ...")
    report = measure_line(bundle, arrivals, **options)
    figures = line_page.rows(report)
    table = new_table(f"{report.product}, {report.name}: from arrival to verdict, ms", "", *figures["latency"])
    for name, cells in figures.items():
        table.add_row(name, *cells.values(), style="bold" if name == "latency" else "")
    print_table(table, as_json=as_json)
    console.print(", ".join(line_page.setting(report)), markup=False)
    console.print("; ".join(f"{name}: {value}" for name, value in line_page.resources(report).items()), markup=False)
    console.print(line_page.headline(report), markup=False)
    _warn(line_page.warnings(report))
    return report.to_dict(), lambda: line_page.render_line_page(report)


def _arrivals(period: float | None, trace: Path | None, seconds: float | None) -> Arrivals:
    from .arrivals import Arrivals
    from .latency import DEFAULT_SECONDS

    if trace is None:
        assert period is not None
        return Arrivals.every(period, DEFAULT_SECONDS if seconds is None else seconds)
    if period is not None:
        raise OptionError("--period and --trace", expected="one of the two")
    return Arrivals.read(trace).until(seconds)


def _only(option: str, values: list[str] | None) -> str:
    if values and len(values) > 1:
        raise OptionError(f"{option} {', '.join(values)} with arrivals", expected="one: a single detector runs then")
    return values[0] if values else "auto"


def _compare(before: Path, after: Path, *, as_json: bool) -> None:
    from rich.markup import escape

    from .before_after import compare_files

    comparison = compare_files(before, after)
    table = new_table(escape(f"{after} against {before}"), "", "before", "after", "after / before")
    for change in comparison.changes:
        table.add_row(change.name, style="bold")
        for name, figure in change.figures.items():
            table.add_row(name if figure.unit == "frames" else f"{name}, {figure.unit}", *figure.cells)
        table.add_section()
    print_table(table, as_json=as_json)
    _warn(comparison.cautions)
    if as_json:
        emit_json(comparison.to_dict())


def _warn(found: Iterable[str]) -> None:
    for warning in found:
        console.print(f"note: {warning}", style="yellow", markup=False)


def _show(report: LatencyReport, *, as_json: bool) -> None:
    from . import figures

    names = (f"{contender.engine}\n{contender.precision}" for contender in report.contenders)
    table = new_table("From the frame's bytes to the verdict, ms", "", *names)
    table.columns[0].no_wrap = True
    for column, contender in zip(table.columns[1:], report.contenders, strict=True):
        column.style = "bold" if contender is report.fastest else ""
    for figures_of in (figures.latency, figures.stages, figures.costs):
        columns = [figures_of(contender) for contender in report.contenders]
        for name in columns[0]:
            table.add_row(name, *(column[name] for column in columns))
        table.add_section()
    print_table(table, as_json=as_json)
    console.print(f"{report.product}: {', '.join(figures.setting(report))}", markup=False)
    console.print(figures.headline(report), markup=False)
    _warn(figures.warnings(report))
