"""`segrd-bench`: how long this machine takes from a frame's bytes to the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segrd_edge.console import console, emit_json, json_option, new_table, parse_frame_size, print_table

if TYPE_CHECKING:
    from .latency_report import LatencyReport


def command(
    bundle: Annotated[Path, typer.Argument(help="The .segrd file.", show_default=False)],
    frame: Annotated[
        str | None,
        typer.Option(
            help="Size of the frames, WIDTHxHEIGHT; default is the size of the images in --frames, or 1024x1024."
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Two samples of each contender per round.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Measure for about this long; default 12 s.")] = None,
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
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page with charts here.")] = None,
    json: Annotated[bool, json_option] = False,
) -> None:
    """Measure every engine and precision from a frame's bytes to the verdict, in one interleaved run."""
    from .latency import measure

    # No progress bar: its refreshing thread would be measured too.
    console.print("measuring ...")
    report = measure(
        bundle,
        frame_hw=None if frame is None else parse_frame_size(frame),
        rounds=rounds,
        seconds=seconds,
        threads=threads,
        engines=engine,
        precisions=precision,
        frames=frames,
        run=run,
    )
    _show(report, as_json=json)
    if html is not None:
        from .html import write_page

        write_page(html, report)
        console.print(f"page: {html}", markup=False, soft_wrap=True)
    if json:
        emit_json(report.to_dict())


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
    for warning in figures.warnings(report):
        console.print(f"note: {warning}", style="yellow", markup=False)
