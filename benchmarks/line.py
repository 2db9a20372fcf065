"""Latency as a line sees it: frames arrive when they arrive, wait while one is inspected, and have a deadline.

    arrival ──► waiting ──► inspection ──► verdict
       └──────────── latency, held against the deadline ──────────┘

Between frames the processor is idle and lowers its clock, as it does on the line; a run that goes as fast as it can
(`latency.measure`) never shows that. One thread waits for the next arrival and inspects; frames that arrive meanwhile
wait in memory, and none is dropped. Waiting includes the time that the system takes to wake the thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segrd_edge.bundle import Bundle
from segrd_edge.detector import Detector
from segrd_edge.errors import OptionError
from segrd_edge.preprocess import Preprocess

from . import environment
from .arrivals import Arrivals
from .contenders import STAGES, Sample, inspect
from .distribution import Distribution
from .frames import choose_frames
from .latency_report import QUIET_OTHER_CPU

WARM_UP = 5  # frames before the first arrival


@dataclass(frozen=True, eq=False)
class LineReport:
    """One detector on one line; durations in ms, a value per frame in order of arrival."""

    bundle: str  # file name
    product: str
    engine: str
    engine_version: str | None
    precision: str
    threads: int | None
    keep_warm_ms: float | None
    network_hw: tuple[int, int]
    frames: str  # where the frames come from
    frame_sizes_hw: list[tuple[int, int]]
    arrivals: Arrivals
    deadline_ms: float
    waiting: Distribution  # from arrival to the start of the inspection
    stages: dict[str, Distribution]  # of the inspection: preprocess, engine, postprocess, other
    latency: Distribution  # from arrival to verdict
    cpu_ms: float  # processor time per frame from the first arrival to the last verdict, idle threads included
    rss_mib: dict[str, float | None]  # of the process, before the first and after the last frame
    other_cpu: float | None  # share of the machine that other programs took, 0 to 1
    environment: dict[str, Any]
    started: datetime
    duration_s: float  # from the first arrival to the last verdict

    @property
    def misses(self) -> int:
        """Frames whose verdict came after the deadline."""
        return int((self.latency.samples_ms > self.deadline_ms).sum())

    @property
    def misses_in_a_row(self) -> int:
        """The longest run of such frames."""
        longest = run = 0
        for missed in self.latency.samples_ms > self.deadline_ms:
            run = run + 1 if missed else 0
            longest = max(longest, run)
        return longest

    @property
    def name(self) -> str:
        return f"{self.engine} {self.precision}"

    @property
    def is_noisy(self) -> bool:
        return self.other_cpu is not None and self.other_cpu > QUIET_OTHER_CPU

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "mode": "line",
            "bundle": self.bundle,
            "product": self.product,
            "name": self.name,
            "engine": self.engine,
            "engine_version": self.engine_version,
            "precision": self.precision,
            "threads": self.threads,
            "keep_warm_ms": self.keep_warm_ms,
            "network_hw": list(self.network_hw),
            "frames": {"source": self.frames, "sizes_hw": [list(size_hw) for size_hw in self.frame_sizes_hw]},
            "arrivals": {"source": self.arrivals.source, "median_period_ms": round(self.arrivals.period_ms, 4)},
            "samples": int(self.latency.samples_ms.size),
            "unknown": self.latency.unknown,
            "deadline_ms": self.deadline_ms,
            "misses": self.misses,
            "misses_in_a_row": self.misses_in_a_row,
            "latency_ms": self.latency.to_dict(),
            "waiting_ms": self.waiting.to_dict(),
            "stages_ms": {stage: durations.to_dict() for stage, durations in self.stages.items()},
            "cpu_ms": round(self.cpu_ms, 3),
            "rss_mib": {when: None if mib is None else round(mib, 1) for when, mib in self.rss_mib.items()},
            "other_cpu": None if self.other_cpu is None else round(self.other_cpu, 3),
            "is_noisy": self.is_noisy,
            "environment": self.environment,
            "started": self.started.isoformat(timespec="seconds"),
            "duration_s": round(self.duration_s, 2),
        }


def measure_line(
    bundle: str | Path | Bundle,
    arrivals: Arrivals,
    *,
    deadline_ms: float | None = None,
    frame_hw: tuple[int, int] | None = None,
    frames: str | Path | None = None,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    keep_warm_ms: float | None = None,
) -> LineReport:
    """Inspect a frame at each arrival, in real time, as one camera on a line would have it.

    Args:
        deadline_ms: from a frame's arrival to its verdict; None is the arrivals' median period.
        frame_hw, frames: as `latency.measure` takes them.
        engine, precision, threads, keep_warm_ms: as `Detector` takes them.

    Raises:
        OptionError: a deadline that cannot be.
        As `Detector`, and as `latency.measure` for the frames.
    """
    deadline_ms = arrivals.period_ms if deadline_ms is None else deadline_ms
    if not deadline_ms > 0:
        raise OptionError(
            f"a deadline of {deadline_ms:g} ms",
            expected="more than 0",
            fix="--deadline; arrivals in bursts have no period",
        )
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    preprocess = Preprocess.from_dict(bundle.manifest.preprocess)
    supply = choose_frames(bundle, frames, frame_hw)
    load_before = environment.load_average()
    settings: dict[str, Any] = {"threads": threads, "keep_warm_ms": keep_warm_ms}
    with Detector(bundle, engine=engine, precision=precision, **settings) as detector:
        for number in range(WARM_UP):
            detector.inspect(supply.frames[number % len(supply.frames)])
        environment.wait_until_idle()
        other, rss = environment.OtherCpu(), environment.rss_mib()
        started, cpu = datetime.now(timezone.utc), process_time()
        seen = _inspect_all(detector, supply.frames, arrivals.times_ms)
        cpu, after = process_time() - cpu, environment.rss_mib()
        return LineReport(
            bundle=bundle.path.name,
            product=bundle.manifest.product,
            engine=detector.engine,
            engine_version=detector.engine_version,
            precision=detector.precision,
            network_hw=preprocess.size_hw,
            frames=supply.source,
            frame_sizes_hw=supply.sizes_hw,
            arrivals=arrivals,
            deadline_ms=deadline_ms,
            waiting=Distribution.of(one.start_ms - one.arrival_ms for one in seen),
            stages={stage: Distribution.of(one.sample.durations_ms[stage] for one in seen) for stage in STAGES},
            latency=Distribution.of(one.end_ms - one.arrival_ms for one in seen),
            cpu_ms=cpu * 1e3 / len(seen),
            rss_mib={"before": rss, "after": after},
            other_cpu=other.since_last(),
            environment={
                **environment.describe(),
                "load_average": {"before": load_before, "after": environment.load_average()},
            },
            started=started,
            duration_s=seen[-1].end_ms / 1e3,
            **settings,
        )


class _Seen(NamedTuple):
    """When a frame arrived, and when its inspection began and ended, in ms from the first arrival."""

    arrival_ms: float
    start_ms: float
    end_ms: float
    sample: Sample


def _inspect_all(
    detector: Detector, frames: Sequence[npt.NDArray[np.uint8]], times_ms: npt.NDArray[np.float64]
) -> list[_Seen]:
    seen = []
    origin = perf_counter()
    for number, arrival_ms in enumerate(times_ms.tolist()):
        # No spinning: it would keep the processor awake that a line lets fall asleep.
        if (early := arrival_ms / 1e3 - (perf_counter() - origin)) > 0:
            sleep(early)
        start_ms = (perf_counter() - origin) * 1e3
        sample = inspect(detector, frames[number % len(frames)])
        seen.append(_Seen(arrival_ms, start_ms, (perf_counter() - origin) * 1e3, sample))
    return seen
