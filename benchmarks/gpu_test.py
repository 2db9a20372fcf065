"""What cannot be known without a GPU, found out on yours: `make gpu-test`, or

    python -m segrd_edge.benchmarks.gpu_test [bottle.segrd] --out benchmarks/results

Without TensorRT it checks what pycuda and cuda-bindings do: memory, streams, captured graphs, threads. With it, and a
bundle, engines are built, tested, compared and timed. Every check says what it found, why it was skipped, or what went
wrong; all of it goes into one JSON file with the GPU's name. Exit code 0: nothing failed; 1: something did; 2: there
is no GPU to test.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from segrd_edge import engines
from segrd_edge.bundle import Bundle
from segrd_edge.console import FOUND, OK, console, emit_json, json_option, new_table, print_table, run_command
from segrd_edge.errors import SegrdError
from segrd_edge.files import replacing
from segrd_edge.tensorrt import driver

from . import environment, gpu_checks
from .frames import DEFAULT_FRAME_HW, golden_frames
from .latency import measure

_FLAVOURS = ("tensorrt", "tensorrt-rtx")
_NO_TENSORRT = "neither TensorRT nor TensorRT-RTX works here (segrd-doctor says why)"


@dataclass(frozen=True)
class Outcome:
    """Of one check."""

    name: str
    result: str  # "passed", "failed" or "skipped"
    seconds: float
    detail: str = ""  # why it was skipped, or what failed
    figures: dict[str, Any] | None = None


def command(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle of segrd-export --engine tensorrt.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the JSON file, named after the GPU.")] = None,
    seconds: Annotated[float, typer.Option(help="For the latency table at the end.")] = 30.0,
    json: Annotated[bool, json_option] = False,
) -> int:
    """Check on this machine's GPU what no machine without one can show."""
    gpu = driver.gpu()
    started = datetime.now(timezone.utc)
    outcomes = []
    for outcome in run_checks(None if bundle is None else Bundle.open(bundle), seconds):
        console.print(f"{outcome.result:8}{outcome.name} ({outcome.seconds:.1f} s) {outcome.detail}", markup=False)
        outcomes.append(outcome)
    report = {
        "gpu": gpu.name,
        "started": started.isoformat(timespec="seconds"),
        "bundle": None if bundle is None else bundle.name,
        "environment": environment.describe(),
        "checks": [vars(outcome) for outcome in outcomes],
    }
    if out is not None:
        path = out / f"gpu-{re.sub(r'[^a-z0-9]+', '-', gpu.name.lower()).strip('-')}.json"
        with replacing(path) as file:
            file.write((dumps(report, indent=1, default=str) + "\n").encode())
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    _show(outcomes, as_json=json)
    if json:
        emit_json(report)
    return FOUND if any(outcome.result == "failed" for outcome in outcomes) else OK


def run_checks(bundle: Bundle | None, seconds: float) -> Iterator[Outcome]:
    """Every check, one after the other; a failure ends none but its own.

    Args:
        bundle: for the checks of engines; None skips them.
        seconds: for the latency table.
    """
    for check in gpu_checks.CUDA_CHECKS:
        yield _run(check.__name__, check)
    flavours = [name for name in _FLAVOURS if engines.engine_class(name).is_available()]
    if bundle is None or not flavours:
        reason = _NO_TENSORRT if not flavours else "no bundle was given"
        yield from (Outcome(c.__name__, "skipped", 0.0, reason) for c in gpu_checks.ENGINE_CHECKS)
        return
    frames = golden_frames(bundle, _frame_hw(bundle)).frames
    for flavour in flavours:
        build = partial(gpu_checks.builds_tests_and_chooses, bundle, flavour)
        chosen = _run(f"{flavour}: {build.func.__name__}", build)
        yield chosen
        if chosen.figures is None:
            continue
        subject = gpu_checks.Subject(bundle, flavour, chosen.figures["chosen"], frames)
        for engine_check in gpu_checks.ENGINE_CHECKS:
            yield _run(f"{flavour}: {engine_check.__name__}", partial(engine_check, subject))
    yield _run("latency", lambda: measure(bundle, frame_hw=_frame_hw(bundle), seconds=seconds).to_dict())


def _frame_hw(bundle: Bundle) -> tuple[int, int]:
    """The size that the bundle's graphs take, where some take whole frames."""
    sizes = [graph.frame_hw for graph in bundle.manifest.graphs.values() if graph.frame_hw is not None]
    return sizes[0] if sizes else DEFAULT_FRAME_HW


def _run(name: str, check: Callable[[], dict[str, Any]]) -> Outcome:
    started = time.perf_counter()

    def outcome(result: str, detail: str = "", figures: dict[str, Any] | None = None) -> Outcome:
        return Outcome(name, result, round(time.perf_counter() - started, 2), detail, figures)

    try:
        return outcome("passed", figures=check())
    except gpu_checks.Skip as reason:
        return outcome("skipped", str(reason))
    except SegrdError as error:
        return outcome("failed", str(error))
    except Exception:  # noqa: BLE001  (a bug in one check must not hide what the others find)
        return outcome("failed", traceback.format_exc())


def _show(outcomes: list[Outcome], *, as_json: bool) -> None:
    table = new_table("GPU test", "check", "result", "seconds", "found")
    table.columns[1].justify = table.columns[3].justify = "left"
    colours = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
    for outcome in outcomes:
        found = outcome.detail or ", ".join(
            f"{name} {value}" for name, value in (outcome.figures or {}).items() if not isinstance(value, list | dict)
        )
        table.add_row(
            outcome.name, f"[{colours[outcome.result]}]{outcome.result}[/]", f"{outcome.seconds:.1f}", escape(found)
        )
    print_table(table, as_json=as_json)


if __name__ == "__main__":
    run_command(command, name="gpu_test", example="python -m segrd_edge.benchmarks.gpu_test bottle.segrd")
