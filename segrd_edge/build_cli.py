"""`segrd-build`: a bundle's TensorRT engines, built, tested and timed on this machine before the line needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import console, emit_json, json_option, new_table, print_table, results
from .errors import EngineError, OptionError

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from .bundle import Bundle
    from .tensorrt.build import BuildOptions
    from .tensorrt.cache import EngineCache, Entry
    from .tensorrt.choose import Candidate, Choice

_FLAVOURS = ("tensorrt", "tensorrt-rtx")  # those that build; "auto" is the first that works here


def command(
    bundle: Annotated[Path | None, typer.Argument(help="The .segrd file.", show_default=False)] = None,
    engine: Annotated[str, typer.Option(help="tensorrt, tensorrt-rtx, or auto: the one that works here.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="One that the bundle holds, or auto: build float and INT8, and keep the faster.")
    ] = "auto",
    lean: Annotated[
        bool,
        typer.Option("--lean", help="Put the engine into the bundle, for machines with TensorRT's lean runtime alone."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --lean: the bundle to write; default is the bundle itself.")
    ] = None,
    workspace_mb: Annotated[
        int | None, typer.Option(help="Scratch memory of kernels in MiB; default is all that the GPU has.")
    ] = None,
    level: Annotated[int, typer.Option(help="0 builds fast, 5 searches longest.")] = 3,
    fallback: Annotated[
        bool, typer.Option("--fallback/--no-fallback", help="Whether auto goes on without an engine that fails.")
    ] = True,
    device: Annotated[int, typer.Option(help="Index of the GPU.")] = 0,
    show_cache: Annotated[
        bool, typer.Option("--list", help="Show the engines in the cache, and build nothing.")
    ] = False,
    clear_cache: Annotated[bool, typer.Option("--clear", help="Empty the cache, and build nothing.")] = False,
    json: Annotated[bool, json_option] = False,
) -> None:
    """Build, test and time a bundle's TensorRT engines on this machine. Programs then start without a build."""
    from .tensorrt.cache import EngineCache

    cache = EngineCache()
    if show_cache or clear_cache:
        _keep_house(cache, clear=clear_cache, as_json=json)
        return
    if bundle is None:
        raise OptionError("no bundle", expected="a .segrd file", fix="segrd-build part.segrd, or --list, or --clear")
    if out is not None and not lean:
        raise OptionError("--out without --lean", fix="add --lean: only then a bundle is written")
    from .bundle import Bundle, check_suffix

    if out is not None:
        check_suffix(out)  # before a build of minutes
    opened = Bundle.open(bundle)
    # TensorRT-RTX has no lean runtime: what keeps TensorRT itself from working is what a user of --lean must know.
    flavour = "tensorrt" if lean and engine == "auto" else choose_flavour(engine, device)
    options = _options(flavour, lean=lean, workspace_mb=workspace_mb, level=level)
    choice = _prepare(opened, flavour, precision, options, fallback=fallback, device=device, cache=cache)
    written = None
    if lean:
        from .tensorrt.lean import add_to_bundle

        written = bundle if out is None else out
        add_to_bundle(opened, choice, written)
    _report(opened, flavour, choice, options, written, as_json=json)


def choose_flavour(engine: str, device: int = 0) -> str:
    """The flavour of TensorRT to build with.

    Raises:
        OptionError: not one that builds.
        EngineError: "auto", and none works here; each reason is given.
    """
    from .tensorrt import requirements

    if engine in _FLAVOURS:
        return engine
    if engine != "auto":
        raise OptionError(f"--engine {engine}", expected="auto, " + " or ".join(_FLAVOURS))
    lacks = {}
    for flavour in _FLAVOURS:
        lack = requirements.lack(flavour, device)
        if lack is None:
            return flavour
        lacks[flavour] = lack
    nearest = next((lack for lack in lacks.values() if lack.can_be_installed), next(iter(lacks.values())))
    if len({lack.what for lack in lacks.values()}) == 1:
        raise EngineError(f"no TensorRT works here: {nearest.what}", fix=nearest.fix)
    reasons = [f"{name}: {lack.what}" for name, lack in lacks.items()]
    raise EngineError("\n  ".join(["no TensorRT works here", *reasons]), fix=nearest.fix)


def _options(flavour: str, *, lean: bool, workspace_mb: int | None, level: int) -> BuildOptions:
    from .tensorrt.build import BuildOptions

    options = BuildOptions(
        workspace_bytes=None if workspace_mb is None else workspace_mb << 20, optimisation_level=level
    )
    if not lean:
        return options
    from .tensorrt.lean import build_options

    return build_options(flavour, options)


def _prepare(
    bundle: Bundle,
    flavour: str,
    precision: str,
    options: BuildOptions,
    *,
    fallback: bool,
    device: int,
    cache: EngineCache,
) -> Choice:
    from .engines import EngineOptions
    from .tensorrt.choose import prepare

    with show_progress() as progress:
        choice = prepare(
            bundle,
            precision,
            flavour=flavour,
            options=EngineOptions(device=device),
            build_options=options,
            fallback=fallback,
            cache=cache,
            progress=progress,
        )
    choice.engine.close()
    return choice


@contextmanager
def show_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars for a build's phases on stderr, where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield report_to(bars)


def report_to(bars: Progress) -> Callable[[str, int, int], None]:
    """A progress callback that shows each phase while it lasts; phases are nested."""
    from rich.markup import escape

    tasks: dict[str, Any] = {}

    def report(phase: str, done: int, steps: int) -> None:
        if phase not in tasks:
            tasks[phase] = bars.add_task(escape(phase), total=steps)
        bars.update(tasks[phase], completed=done, total=steps)
        if done >= steps:
            bars.remove_task(tasks.pop(phase))

    return report


def _report(
    bundle: Bundle, flavour: str, choice: Choice, options: BuildOptions, written: Path | None, *, as_json: bool
) -> None:
    from .tensorrt.by_hand import command_lines

    member = bundle.manifest.graphs[choice.precision].file
    lines = command_lines(bundle.path, member, options, flavour=flavour)
    print_table(_table(bundle, flavour, choice), as_json=as_json)
    target = console if as_json else results
    target.print(choice.reason, markup=False, soft_wrap=True)
    if not choice.was_decided:
        target.print("decided by an earlier run; the milliseconds are of then", soft_wrap=True)
    if written is not None:
        target.print(f"the engine is in {written}, for machines like this one", markup=False, soft_wrap=True)
    target.print("\nThe same by NVIDIA's tools:")
    for line in lines:
        target.print(f"  # {line.tool}" + ("" if line.is_for_here else ", not the one here"), markup=False)
        target.print(f"  {line.line}", markup=False, soft_wrap=True)
    if as_json:
        emit_json(
            {
                "engine": flavour,
                "version": choice.cached.key.version,
                "gpu": choice.cached.key.gpu,
                "precision": choice.precision,
                "reason": choice.reason,
                "was_decided": choice.was_decided,
                "candidates": [vars(candidate) for candidate in choice.candidates],
                "bundle": None if written is None else str(written),
                "commands": [line._asdict() for line in lines],
            }
        )


def _table(bundle: Bundle, flavour: str, choice: Choice) -> Table:
    key = choice.cached.key
    title = f"{bundle.manifest.product} on {key.gpu}: {flavour} {key.version}"
    columns = ("precision", "built in, s", "plan, MB", "Δ score", "Δ map", "INT8 nodes", "run, ms", "")
    table = new_table(title, *columns)
    table.columns[-1].justify = "left"
    for candidate in choice.candidates:
        table.add_row(*_row(candidate, is_chosen=candidate.precision == choice.precision))
    return table


def _row(candidate: Candidate, *, is_chosen: bool) -> list[str]:
    if candidate.error:
        return [candidate.precision, *("–",) * 6, "[red]discarded[/]"]
    test = candidate.test or {}
    seconds = "–" if candidate.build_seconds is None else f"{candidate.build_seconds:.1f}"
    return [
        candidate.precision,
        seconds if candidate.was_built else f"{seconds} (cached)",
        "–" if candidate.plan_bytes is None else f"{candidate.plan_bytes / 1e6:.1f}",
        *(f"{test[name]:.4f}" if name in test else "–" for name in ("max_score_difference", "max_map_difference")),
        "–" if candidate.int8_planned is None else f"{candidate.int8_running} of {candidate.int8_planned}",
        "–" if candidate.run_ms is None else f"{candidate.run_ms:.2f}",
        "[green]chosen[/]" if is_chosen else "",
    ]


def _keep_house(cache: EngineCache, *, clear: bool, as_json: bool) -> None:
    entries = cache.clear() if clear else cache.entries()
    what = "Removed from" if clear else "In"
    table = new_table(f"{what} {cache.folder}", "engine", "MB", "last used, UTC", "GPU", "TensorRT", "usable here")
    for entry in entries:
        table.add_row(*_entry_row(entry))
    total = sum(entry.size_bytes for entry in entries)
    table.caption = f"{total / 1e6:.0f} MB; the limit is {cache.limit_bytes / 1e6:.0f} MB (SEGRD_CACHE_LIMIT_GB)"
    print_table(table, as_json=as_json)
    if as_json:
        listed = [
            {
                "name": entry.name,
                "bytes": entry.size_bytes,
                "last_used": entry.last_used.isoformat(timespec="seconds"),
                "fits": entry.fits,
                "record": entry.record,
            }
            for entry in entries
        ]
        emit_json({"folder": str(cache.folder), "removed" if clear else "engines": listed})


def _entry_row(entry: Entry) -> list[str]:
    key = {} if entry.record is None else entry.record["key"]
    return [
        entry.name,
        f"{entry.size_bytes / 1e6:.1f}",
        f"{entry.last_used:%Y-%m-%d %H:%M}",
        key.get("gpu") or "–",
        key.get("version", "damaged"),
        "yes" if entry.fits else "no",
    ]
