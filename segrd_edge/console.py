"""One style for every command line: results on stdout, messages on stderr, three-line errors, exit codes.

A command is a plain typed function that returns its exit code or None:

    def command(run: Path, json: Annotated[bool, json_option] = False) -> int: ...

`run_command` turns it into a program. Exit codes: 0 success, 1 whatever the command says (defects found), 2 error,
130 interrupted.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .errors import MissingExtraError, OptionError, SegrdError

OK, FOUND, ERROR, INTERRUPTED = 0, 1, 2, 130

console = Console(stderr=True, highlight=False)  # messages and progress
results = Console(highlight=False)  # tables that are the command's result

json_option = typer.Option("--json", help="Print one JSON object as the last line of stdout; tables go to stderr.")

Item = TypeVar("Item")


def run_command(command: Callable[..., int | None], *, name: str, example: str, extra: str | None = None) -> NoReturn:
    """Run `command` on the arguments of this process, and exit.

    Args:
        name: of the program, for usage lines.
        example: a command line that works, shown below --help.
        extra: what to install when a package is missing, for example "train".
    """
    _show_log()
    build_app(command, name=name, example=example, extra=extra)(prog_name=name)
    raise SystemExit(OK)  # typer has exited already; this says so to type checkers


def build_app(command: Callable[..., int | None], *, name: str, example: str, extra: str | None = None) -> typer.Typer:
    """The typer application of one command; `run_command` calls it, and so do tests."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    # A blank line, because the epilog's lines are otherwise joined into one paragraph.
    app.command(epilog=f"Example:\n\n    {example}")(_guarded(command, name, extra))
    return app


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else ""
        console.print(record.getMessage(), style=style, markup=False, soft_wrap=True)


def _show_log() -> None:
    """What the runtime logs for whoever embeds it (a build that takes minutes, a fallback) is a message here."""
    log = logging.getLogger("segrd_edge")
    log.addHandler(_ConsoleHandler())
    log.setLevel(logging.INFO)


def fail(error: SegrdError) -> NoReturn:
    """Print an error as what, expected, fix, and exit with code 2."""
    print_error(error)
    raise typer.Exit(ERROR)


def print_error(error: SegrdError) -> None:
    """An error on stderr: one line each for what happened, what was expected and what fixes it."""
    for label, text, style in (
        ("error", error.what, "bold red"),
        ("expected", error.expected, "bold"),
        ("fix", error.fix, "bold green"),
    ):
        if text:  # Text, because a path may hold [brackets]; soft_wrap, so that a fix can be copied
            console.print(Text.assemble((f"{label}: ", style), text), soft_wrap=True)


def emit_json(values: dict[str, Any]) -> None:
    """One JSON object on one line of stdout; NaN and infinity are refused, because JSON has none."""
    sys.stdout.write(json.dumps(values, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


def print_table(table: Table, *, as_json: bool = False) -> None:
    """A result table on stdout, or on stderr where stdout belongs to JSON."""
    (console if as_json else results).print(table)


def new_table(title: str, *columns: str) -> Table:
    """An empty table in the house style: the first column names, the others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    return table


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Pass `items` on, with a progress bar on stderr where that is a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total=total, description=description)


def parse_ints(option: str, text: str, count: int, separator: str, example: str) -> tuple[int, ...]:
    """Whole numbers of an option such as `--roi 10,20,300,200`.

    Raises:
        OptionError: another number of parts, or a part that is no whole number.
    """
    parts = text.split(separator)
    try:
        numbers = tuple(int(part) for part in parts)
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise OptionError(f"{option} {text}", expected=f"{count} whole numbers", fix=f"for example {option} {example}")
    return numbers


def parse_frame_size(text: str, option: str = "--frame") -> tuple[int, int]:
    """`--frame 2448x2048`: WIDTHxHEIGHT, as camera data sheets say. Returns (height, width), pixels.

    Raises:
        OptionError: it is not two whole numbers of at least 1.
    """
    width, height = parse_ints(option, text, 2, "x", "2448x2048")
    if min(width, height) < 1:
        raise OptionError(
            f"{option} {text}",
            expected="a width and a height of at least 1 pixel",
            fix=f"for example {option} 2448x2048",
        )
    return height, width


def parse_duration_ms(option: str, text: str) -> float:
    """`30ms`, `30` (ms) or `0.03s`. Returns milliseconds.

    Raises:
        OptionError: another form, or nothing above 0.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?(ms|s)?", text.strip())
    value = float(match[1]) * (1e3 if match[2] == "s" else 1) if match else 0.0
    if not value > 0:
        raise OptionError(
            f"{option} {text}",
            expected="a time above 0 in milliseconds or seconds",
            fix=f"for example {option} 30ms, {option} 30 or {option} 0.03s",
        )
    return value


def _guarded(command: Callable[..., int | None], name: str, extra: str | None) -> Callable[..., NoReturn]:
    """`command` with its errors turned into messages and exit codes; its signature stays what typer sees."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> NoReturn:
        try:
            raise typer.Exit(command(*args, **kwargs) or OK)
        except SegrdError as error:
            fail(error)
        except ModuleNotFoundError as error:
            if extra is None or (error.name or "").startswith("segrd_edge"):
                _crash()
            fail(MissingExtraError(name, extra, (error.name or str(error)).partition(".")[0]))
        except KeyboardInterrupt:
            console.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            fail(SegrdError(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception:  # noqa: BLE001  (the outermost frame: a bug's exit code must be 2)
            _crash()

    return guarded


def _crash() -> NoReturn:
    """A bug: the traceback, and code 2, because Python's own exit code 1 would read as "defects found"."""
    traceback.print_exc()
    raise typer.Exit(ERROR)
