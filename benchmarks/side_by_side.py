"""Latency of several bundles in one interleaved run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from segrd_edge import engines
from segrd_edge.bundle import Bundle

from . import environment
from .contenders import DetectorContender, Wanted, choose
from .frames import FrameSet
from .latency import load_all
from .latency_report import QUIET_OTHER_CPU, ContenderLatency
from .session import Session

ROUNDS = 15  # 30 samples of each; p95 needs 20


def measure_bundles(
    bundles: Mapping[str, Path], frames: FrameSet, *, threads: int | None = None, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Measure every precision of every bundle on the fastest engine of this machine's processor; see `measure_wanted`.

    Args:
        bundles: name → .segrd file.
        frames: what they inspect, in turn.
        threads: processor threads of the engine; None is its own choice.
        rounds: how many turns each has, of two samples.

    Raises:
        BundleError: a bundle is damaged or foreign.
        EngineError: no engine, or it can run none of them.
    """
    opened = {name: Bundle.open(path) for name, path in bundles.items()}
    engine = engines.processor_engine()
    wanted = [(name, each) for name, bundle in opened.items() for each in choose(bundle, [engine], None)]
    measured = measure_wanted(opened, wanted, frames, threads=threads, rounds=range(rounds))
    version = measured["bundles"][0]["engine_version"]
    return {"engine": engine, "engine_version": version, "threads": threads, **measured}


def measure_wanted(
    bundles: Mapping[str, Bundle],
    wanted: Sequence[tuple[str, Wanted]],
    frames: FrameSet,
    *,
    threads: int | None = None,
    rounds: Iterable[int],
    budget_ms: float | None = None,
) -> dict[str, Any]:
    """Measure graphs of bundles from a frame's bytes to the verdict; ready for JSON, durations in ms.

    Args:
        bundles: by name.
        wanted: a bundle's name, with an engine and a precision, of everything to measure.
        frames: what they inspect, in turn.
        threads: processor threads of the engines; None is their own choice.
        rounds: their numbers, from 0; each is a turn of two samples for everything.
        budget_ms: how long an inspection may take; then it is counted how many took longer.

    Raises:
        EngineError: nothing could be loaded.
    """
    started, start = datetime.now(timezone.utc), perf_counter()
    load_before = environment.load_average()
    loaders = {
        f"{name} {precision} in {engine}": partial(DetectorContender, bundles[name], engine, precision, threads)
        for name, (engine, precision) in wanted
    }
    with ExitStack() as stack:
        session = Session(frames.frames)
        skipped = load_all(session, loaders, stack)
        session.run(rounds)
        names = [name for key, (name, _) in zip(loaders, wanted, strict=True) if key not in skipped]
        measured = [log.summarise(None) for log in session.logs]
        network_hw = [log.contender.preprocess.size_hw for log in session.logs]
    return {
        "frames": {
            "source": frames.source,
            "count": len(frames.frames),
            "sizes_hw": [list(size_hw) for size_hw in frames.sizes_hw],
        },
        "rounds": len(session.other_cpu),
        "samples": int(measured[0].total.samples_ms.size),
        "bundles": [_figures(*each, budget_ms) for each in zip(names, network_hw, measured, strict=True)],
        "skipped": skipped,
        "noisy_rounds": sum(share is not None and share > QUIET_OTHER_CPU for share in session.other_cpu),
        "environment": {
            **environment.describe(),
            "load_average": {"before": load_before, "after": environment.load_average()},
        },
        "started": started.isoformat(timespec="seconds"),
        "duration_s": round(perf_counter() - start, 1),
    }


def _figures(
    name: str, network_hw: tuple[int, int], latency: ContenderLatency, budget_ms: float | None
) -> dict[str, Any]:
    total = latency.total
    p95, p99 = (total.quantile(thousandths) for thousandths in (950, 990))
    return {
        "bundle": name,
        "precision": latency.precision,
        "engine": latency.engine,
        "engine_version": latency.version,
        "network_hw": list(network_hw),
        "median_ms": round(total.median, 3),
        "p95_ms": None if p95 is None else round(p95, 3),
        "p99_ms": None if p99 is None else round(p99, 3),
        "min_ms": round(total.min, 3),
        "max_ms": round(total.max, 3),
        "late": None if budget_ms is None else int((total.samples_ms > budget_ms).sum()),
        "cpu_ms": round(latency.cpu_ms, 3),
        "stages_ms": {stage: round(durations.median, 3) for stage, durations in latency.stages.items()},
    }
