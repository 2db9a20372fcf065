"""What `measure` found: plain records, ready for a table, JSON or a page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from .distribution import Distribution

QUIET_OTHER_CPU = 0.05  # a round in which other programs took more of the machine than this is a noisy one


@dataclass(frozen=True)
class Overhead:
    """What the Detector costs beside the engine, in ms per frame."""

    over_bare: float  # whole inspection minus bare engine call of the same turn
    without_resize: float  # the same minus the resize from frame to network size
    share_of_bare: float  # `without_resize` / bare engine call
    outside_engine: float  # median of whole inspection minus its own engine stage


@dataclass(frozen=True)
class ScoreDifference:
    """How far the anomaly scores are from the reference's on the same frames."""

    mean: float
    max: float
    verdicts_changed: int  # frames that the reference judged otherwise, each at its own threshold
    frames: int


@dataclass(frozen=True)
class ContenderLatency:
    """Figures of one contender."""

    engine: str
    precision: str
    version: str
    load_ms: float  # from the opened bundle to a Detector that is ready
    first_ms: float  # the first inspection after that
    rss_mib: float | None  # memory that loading it and its first inspection added to the process
    cpu_ms: float  # processor time per inspection, all cores together
    total: Distribution
    stages: dict[str, Distribution]  # preprocess, engine, postprocess, other; their means add up to the total's
    bare: Distribution  # the engine alone, right behind the resize of its frame
    resize: Distribution  # the resize from frame to network size alone, in the same turns
    overhead: Overhead
    speedup: float | None  # how many times as fast as the reference, by medians
    score_difference: ScoreDifference | None  # None where no fp32 contender was measured

    @property
    def name(self) -> str:
        return f"{self.engine} {self.precision}"

    @property
    def throughput_fps(self) -> float:
        """Frames per second of one stream that is never idle."""
        return 1e3 / self.total.mean

    def to_dict(self) -> dict[str, Any]:
        difference = self.score_difference
        return {
            "name": self.name,
            "engine": self.engine,
            "precision": self.precision,
            "version": self.version,
            "load_ms": round(self.load_ms, 1),
            "first_ms": round(self.first_ms, 2),
            "rss_mib": None if self.rss_mib is None else round(self.rss_mib, 1),
            "cpu_ms": round(self.cpu_ms, 3),
            "throughput_fps": round(self.throughput_fps, 3),
            "speedup": None if self.speedup is None else round(self.speedup, 3),
            "total_ms": self.total.to_dict(),
            "stages_ms": {stage: distribution.to_dict() for stage, distribution in self.stages.items()},
            "bare_engine_ms": self.bare.to_dict(),
            "resize_ms": self.resize.to_dict(),
            "overhead_ms": {name: round(value, 4) for name, value in asdict(self.overhead).items()},
            "score_difference": None if difference is None else asdict(difference),
        }


@dataclass(frozen=True)
class LatencyReport:
    """One run of `measure`."""

    bundle: str  # file name
    product: str
    model: str
    network_hw: tuple[int, int]
    frames: str  # where the frames come from
    frame_sizes_hw: list[tuple[int, int]]
    frame_count: int
    rounds: int
    threads: int | None  # of an engine; None is the engine's own choice
    reference: str | None  # the contender that speed-ups and score differences refer to
    contenders: list[ContenderLatency]
    skipped: dict[str, str]  # contender → why it could not be measured
    other_cpu: list[float | None]  # per round: share of the machine that other programs took, 0 to 1
    environment: dict[str, Any]
    load_average: dict[str, list[float] | None]  # before and after
    started: datetime
    duration_s: float  # everything, loading and warm-up included

    @property
    def fastest(self) -> ContenderLatency:
        """By the median."""
        return min(self.contenders, key=lambda contender: contender.total.median)

    @property
    def samples(self) -> int:
        """Inspections of each contender."""
        return int(self.contenders[0].total.samples_ms.size)

    @property
    def unknown(self) -> dict[str, str]:
        """The percentiles that so many samples say nothing about, and why."""
        return self.contenders[0].total.unknown

    @property
    def noisy_rounds(self) -> int:
        """Rounds in which other programs took more than 5 % of the machine."""
        return sum(share is not None and share > QUIET_OTHER_CPU for share in self.other_cpu)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; durations in ms."""
        return {
            "mode": "interleaved",
            "bundle": self.bundle,
            "product": self.product,
            "model": self.model,
            "network_hw": list(self.network_hw),
            "frames": {
                "source": self.frames,
                "count": self.frame_count,
                "sizes_hw": [list(size_hw) for size_hw in self.frame_sizes_hw],
            },
            "rounds": self.rounds,
            "samples": self.samples,
            "unknown": self.unknown,
            "threads": self.threads,
            "reference": self.reference,
            "fastest": self.fastest.name,
            "contenders": [contender.to_dict() for contender in self.contenders],
            "skipped": self.skipped,
            "noisy_rounds": self.noisy_rounds,
            "other_cpu": [None if share is None else round(share, 3) for share in self.other_cpu],
            "environment": {**self.environment, "load_average": self.load_average},
            "started": self.started.isoformat(timespec="seconds"),
            "duration_s": round(self.duration_s, 2),
        }
