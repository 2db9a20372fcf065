"""Latency of several bundles in one interleaved run, on the fastest engine of this machine's processor."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from segrd_edge import engines
from segrd_edge.bundle import Bundle
from segrd_edge.errors import OptionError
from segrd_edge.preprocess import Preprocess

from . import environment
from .contenders import DetectorContender
from .frames import FrameSet
from .latency import load_all
from .latency_report import QUIET_OTHER_CPU, ContenderLatency
from .session import Session

ROUNDS = 15  # 30 samples of each; p95 needs 20


def measure_bundles(
    bundles: Mapping[str, Path], frames: FrameSet, *, threads: int | None = None, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Measure every precision of every bundle from a frame's bytes to the verdict; ready for JSON, durations in ms.

    Args:
        bundles: name → .segrd file; all of one preprocessing.
        frames: what they inspect, in turn.
        threads: processor threads of the engine; None is its own choice.
        rounds: how many turns each has, of two samples.

    Raises:
        BundleError: a bundle is damaged or foreign.
        EngineError: no engine, or it can run none of them.
        OptionError: bundles that want different network images.
    """
    started, start = datetime.now(timezone.utc), perf_counter()
    load_before = environment.load_average()
    opened = {name: Bundle.open(path) for name, path in bundles.items()}
    preprocess = _common_preprocess(opened)
    engine = engines.processor_engine()
    loaders = {
        f"{name} {precision}": (name, partial(DetectorContender, bundle, engine, precision, threads))
        for name, bundle in opened.items()
        for precision in bundle.manifest.graphs
        if precision in engines.engine_class(engine).precisions
    }
    with ExitStack() as stack:
        session = Session(frames.frames, preprocess)
        skipped = load_all(session, {key: load for key, (_, load) in loaders.items()}, stack)
        session.run(range(rounds))
        names = [name for key, (name, _) in loaders.items() if key not in skipped]
        measured = [log.summarise(None) for log in session.logs]
    return {
        "engine": engine,
        "engine_version": measured[0].version,
        "threads": threads,
        "frames": {
            "source": frames.source,
            "count": len(frames.frames),
            "sizes_hw": [list(size_hw) for size_hw in frames.sizes_hw],
        },
        "network_hw": list(preprocess.size_hw),
        "rounds": rounds,
        "samples": int(measured[0].total.samples_ms.size),
        "bundles": [_figures(name, latency) for name, latency in zip(names, measured, strict=True)],
        "skipped": skipped,
        "noisy_rounds": sum(share is not None and share > QUIET_OTHER_CPU for share in session.other_cpu),
        "environment": {
            **environment.describe(),
            "load_average": {"before": load_before, "after": environment.load_average()},
        },
        "started": started.isoformat(timespec="seconds"),
        "duration_s": round(perf_counter() - start, 1),
    }


def _common_preprocess(bundles: Mapping[str, Bundle]) -> Preprocess:
    found = {name: Preprocess.from_dict(bundle.manifest.preprocess) for name, bundle in bundles.items()}
    first, *others = found
    for name in others:
        if found[name] != found[first]:
            raise OptionError(
                f"the bundles {first} and {name} preprocess frames in different ways",
                expected="one network size, crop and fit for all that are measured together",
            )
    return found[first]


def _figures(name: str, latency: ContenderLatency) -> dict[str, Any]:
    p95 = latency.total.quantile(950)
    return {
        "bundle": name,
        "precision": latency.precision,
        "median_ms": round(latency.total.median, 3),
        "p95_ms": None if p95 is None else round(p95, 3),
        "min_ms": round(latency.total.min, 3),
        "cpu_ms": round(latency.cpu_ms, 3),
        "stages_ms": {stage: round(durations.median, 3) for stage, durations in latency.stages.items()},
    }
