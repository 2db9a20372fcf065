"""`segrd-inspect`: the Detector over a folder, a video or a camera."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .console import ERROR, FOUND, OK, console, emit_json, json_option, new_table, parse_ints, print_table, track
from .errors import FrameError, OptionError, SegrdError

if TYPE_CHECKING:
    from .detector import Detector
    from .inspection import Inspection
    from .results import ResultsFolder

_SHOWN_ERRORS = 10


def command(
    bundle: Annotated[Path, typer.Argument(help="The .segrd file.", show_default=False)],
    source: Annotated[str, typer.Argument(help="Folder, image, video, camera index (0) or URL.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.jsonl and overlays. Nothing is written without it.")
    ] = None,
    overlays: Annotated[str, typer.Option(help="Which frames get an overlay: all, defects or none.")] = "all",
    csv: Annotated[bool, typer.Option("--csv", help="Write results.csv too.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace the results of an earlier run in --out, at the end of this one. Without it, a folder "
            "that holds results is refused.",
        ),
    ] = False,
    engine: Annotated[str, typer.Option(help="auto, or one that segrd-doctor lists.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, or one that the bundle holds.")] = "auto",
    threshold: Annotated[
        float | None, typer.Option(help="Scores at or above it are defects; default is the bundle's own.")
    ] = None,
    min_area_px: Annotated[
        float, typer.Option("--min-area-px", "--min-area", help="Smallest defect region, in frame pixels.")
    ] = 0,
    roi_xywh: Annotated[
        str | None, typer.Option("--roi-xywh", "--roi", help="Region of interest in frame pixels: x,y,w,h.")
    ] = None,
    ignore_mask: Annotated[
        Path | None, typer.Option(help="Image of the frame's size (PNG); not black where the frame does not count.")
    ] = None,
    mm_per_px: Annotated[float | None, typer.Option(help="Size of a frame pixel in mm, for areas in mm².")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads; default is the engine's choice.")] = None,
    pixel_order: Annotated[str, typer.Option(help="Channel order as OpenCV reads it: bgr or rgb.")] = "bgr",
    value_range: Annotated[
        str | None, typer.Option("--value-range", "--range", help="black:white of 16-bit images, such as 0:4095.")
    ] = None,
    device: Annotated[int, typer.Option(help="Index of the GPU.")] = 0,
    memory: Annotated[str, typer.Option(help="How frames reach a GPU: auto, pinned or mapped.")] = "auto",
    keep_warm_ms: Annotated[
        float | None, typer.Option(help="Triggered lines: run the engine whenever no frame came for this long.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    json: Annotated[bool, json_option] = False,
) -> int:
    """Inspect frames with a bundle. Exit code 0: all good; 1: defects found; 2: an error or an unreadable frame."""
    from . import sources
    from .detector import Detector

    if out is None and (csv or force):
        raise OptionError("--csv and --force need a folder", fix="add --out results/")
    results = None if out is None else _results_folder(out, overlays, csv, force)
    detector = Detector(
        bundle,
        engine=engine,
        precision=precision,
        threshold=threshold,
        min_area_px=min_area_px,
        roi_xywh=None if roi_xywh is None else cast(Any, parse_ints("--roi", roi_xywh, 4, ",", "10,20,300,200")),
        ignore_mask=None if ignore_mask is None else _read_mask(ignore_mask),
        mm_per_px=mm_per_px,
        threads=threads,
        device=device,
        memory=cast(Any, memory),
        keep_warm_ms=keep_warm_ms,
        pixel_order=cast(Any, pixel_order),
        value_range=None if value_range is None else cast(Any, parse_ints("--range", value_range, 2, ":", "0:4095")),
    )
    summary = Summary()
    with detector:
        detector.self_test()
        frames = itertools.islice(sources.frames(source, value_range=detector.value_range), limit)
        total = sources.count_images(source)
        shown = track(frames, "inspecting", total if limit is None else min(total or limit, limit))
        # A camera's frame never waits for the next one.
        groups = _groups(shown, 1 if sources.is_live(source) else detector.batch)
        with results or nullcontext():  # not before the source is known to be one
            try:
                _inspect_all(detector, groups, summary, results)
            except KeyboardInterrupt:
                if not sources.is_live(source):  # a camera has no end: there Ctrl-C is the ordinary way to stop
                    raise
    _report(summary, detector, out, as_json=json)
    return summary.exit_code


@dataclass
class Summary:
    """What a run found."""

    scores: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    defects: int = 0
    errors: int = 0

    def add(self, name: str, result: Inspection | SegrdError) -> None:
        if isinstance(result, SegrdError):
            self.errors += 1
            if self.errors <= _SHOWN_ERRORS:
                console.print(f"{name}: {result.what}", style="red", markup=False, soft_wrap=True)
            return
        self.scores.append(result.score)
        self.total_ms.append(result.timings_ms["total"])
        self.defects += result.is_defect

    @property
    def exit_code(self) -> int:
        if self.errors or not self.scores:
            return ERROR
        return FOUND if self.defects else OK

    def to_dict(self) -> dict[str, Any]:
        return {
            "frames": len(self.scores) + self.errors,
            "good": len(self.scores) - self.defects,
            "defects": self.defects,
            "errors": self.errors,
            "score": _percentiles(self.scores, min=0, median=50, max=100),
            "total_ms": _percentiles(self.total_ms, p50=50, p95=95, max=100),
        }


def _inspect_all(
    detector: Detector,
    groups: Iterable[list[tuple[str, Any]]],
    summary: Summary,
    results: ResultsFolder | None,
) -> None:
    for group in groups:
        found = _inspect(detector, [content for _, content in group])
        for (name, content), result in zip(group, found, strict=True):
            summary.add(name, result)
            if results is not None:
                results.add(name, result, _overlay(detector, results, content, result))


def _groups(frames: Iterable[tuple[str, Any]], size: int) -> Iterator[list[tuple[str, Any]]]:
    rest = iter(frames)
    while group := list(itertools.islice(rest, size)):
        yield group


def _inspect(detector: Detector, contents: list[Any]) -> list[Inspection | SegrdError]:
    """A result for each frame of a group; among them may be errors of reading."""
    try:
        inspections = iter(detector.inspect_batch([c for c in contents if not isinstance(c, SegrdError)]))
        return [content if isinstance(content, SegrdError) else next(inspections) for content in contents]
    except (FrameError, OptionError) as error:  # a frame that does not fit; a failing engine ends the run
        return [error] if len(contents) == 1 else [_inspect(detector, [content])[0] for content in contents]


def _overlay(detector: Detector, results: ResultsFolder, content: Any, result: Inspection | SegrdError) -> Any:
    from .overlay import draw_overlay

    if isinstance(result, SegrdError) or not results.wants_overlay(result):
        return None
    return draw_overlay(content, result, pixel_order=detector.pixel_order)


def _report(summary: Summary, detector: Detector, out: Path | None, *, as_json: bool) -> None:
    figures = summary.to_dict()
    table = new_table(f"{detector.bundle.manifest.product}: {figures['frames']} frames", "", "")
    table.show_header = False
    table.add_row("good", str(figures["good"]))
    table.add_row("defects", str(figures["defects"]), style="bold red" if figures["defects"] else None)
    table.add_row("unreadable", str(figures["errors"]), style="bold red" if figures["errors"] else None)
    table.add_row("threshold", f"{detector.threshold:.4f}")
    for label, key, digits in (("score", "score", 4), ("frame to verdict, ms", "total_ms", 1)):
        for name, value in (figures[key] or {}).items():
            table.add_row(f"{label}, {name}", f"{value:.{digits}f}")
    table.add_row("engine", f"{detector.engine} {detector.precision}")
    if out is not None:
        table.add_row("results", str(out / "results.jsonl"))
    print_table(table, as_json=as_json)
    if as_json:
        about = {"engine": detector.engine, "precision": detector.precision, "threshold": detector.threshold}
        emit_json({**figures, **about, "out": None if out is None else str(out)})


def _percentiles(values: list[float], **percentiles: float) -> dict[str, float] | None:
    import numpy as np

    if not values:
        return None
    return {name: float(np.percentile(values, percent)) for name, percent in percentiles.items()}


def _results_folder(out: Path, overlays: str, csv: bool, force: bool) -> ResultsFolder:
    from .results import ResultsFolder

    return ResultsFolder(out, overlays=overlays, with_csv=csv, force=force)


def _read_mask(path: Path) -> Any:
    """Bool H×W, True where any colour channel is not zero."""
    from .frames import read_pixels

    pixels = read_pixels(path)
    return pixels[:, :, :3].any(axis=2) if pixels.ndim == 3 else pixels != 0
