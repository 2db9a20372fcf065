"""The programs that installation puts on the path. Each loads its own command line and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, NoReturn

from .console import ERROR, print_error, run_command
from .errors import MissingExtraError


class Entry(NamedTuple):
    """One program."""

    function: str  # "module:function" below segrd_edge
    example: str  # shown below --help
    extra: str | None  # what `pip install 'segrd-edge[...]'` adds for it


ENTRIES: dict[str, Entry] = {
    "segrd-train": Entry("training.cli:train", "segrd-train photos/bottle --out runs/bottle --minutes 10", "train"),
    "segrd-eval": Entry("training.cli:evaluate", "segrd-eval runs/bottle photos/bottle --json", "train"),
    "segrd-export": Entry("export.cli:command", "segrd-export runs/bottle --int8 --out bottle.segrd", "export"),
    "segrd-build": Entry("build_cli:command", "segrd-build bottle.segrd --precision auto", None),
    "segrd-inspect": Entry("inspect_cli:command", "segrd-inspect bottle.segrd frames/ --out results/", None),
    "segrd-bench": Entry("benchmarks.cli:command", "segrd-bench bottle.segrd --frame 1224x1024", None),
    "segrd-compare": Entry(
        "benchmarks.compare_cli:command",
        "segrd-compare photos/bottle --out compare/bottle --minutes 8 --latency-ms 60",
        "export",
    ),
    "segrd-doctor": Entry("doctor:command", "segrd-doctor --json", None),
}


def train() -> NoReturn:
    _run("segrd-train")


def evaluate() -> NoReturn:
    _run("segrd-eval")


def export() -> NoReturn:
    _run("segrd-export")


def build() -> NoReturn:
    _run("segrd-build")


def inspect() -> NoReturn:
    _run("segrd-inspect")


def bench() -> NoReturn:
    _run("segrd-bench")


def compare() -> NoReturn:
    _run("segrd-compare")


def doctor() -> NoReturn:
    _run("segrd-doctor")


def _run(program: str) -> NoReturn:
    entry = ENTRIES[program]
    module, _, function = entry.function.partition(":")
    try:
        command = getattr(import_module(f"segrd_edge.{module}"), function)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if entry.extra is None or missing == "segrd_edge":
            raise
        print_error(MissingExtraError(program, entry.extra, missing))
        raise SystemExit(ERROR) from None
    run_command(command, name=program, example=entry.example, extra=entry.extra)
