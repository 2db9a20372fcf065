"""One interleaved run: every contender takes its turn in every round, so that a busy moment hits all of them.

A turn leaves nothing of the turn before: it waits until the other engine's threads have stopped spinning, and runs its
own engine twice untimed, because the weights of two engines do not fit into the caches together (an untouched cache
costs the first call half as much again, the second a fifth). Then it takes two samples in the order

    inspection, (resize, bare engine call), (resize, bare engine call), inspection

so that a slow drift adds to both kinds alike. The bare call comes behind a resize, as it does inside an inspection, so
that the two differ by the Detector's code and by nothing else. From round to round everything is reversed, and every
second round another contender begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter, process_time
from typing import TypeVar

import numpy as np

from segrd_edge.errors import OptionError

from .contenders import STAGES, Contender, Pixels, Sample
from .distribution import Distribution
from .environment import OtherCpu, rss_mib, wait_until_idle
from .latency_report import ContenderLatency, Overhead, ScoreDifference

SAMPLES_PER_ROUND = 2
_UNTIMED_RUNS = 2
_T = TypeVar("_T")


def check_seconds(seconds: float | None) -> None:
    """OptionError for a time that a measurement cannot last; None is none."""
    if seconds is not None and not 0 < seconds < 86_400:
        raise OptionError(f"seconds={seconds}", expected="more than 0, and less than a day")


def turn_order(contenders: int, round_number: int) -> tuple[list[int], bool]:
    """Whose turn it is in a round, and whether the round runs backwards.

    Rounds 0, 1, 2, 3 of three contenders: 012, 210, 120, 021.
    """
    first = round_number // 2 % contenders
    order = [*range(first, contenders), *range(first)]
    backwards = round_number % 2 == 1
    return (order[::-1] if backwards else order), backwards


@dataclass
class ContenderLog:
    """A contender, and everything that was measured of it."""

    contender: Contender
    load_ms: float
    first_ms: float
    rss_mib: float | None
    samples: list[Sample] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)  # of each sample
    bare_ms: list[float] = field(default_factory=list)
    resize_ms: list[float] = field(default_factory=list)
    latest: dict[int, Sample] = field(default_factory=dict)  # frame number → its latest inspection

    @property
    def name(self) -> str:
        return f"{self.contender.engine} {self.contender.precision}"

    def inspect(self, number: int, frame: Pixels) -> None:
        cpu = process_time()
        sample = self.contender.inspect(frame)
        self.cpu_ms.append((process_time() - cpu) * 1e3)
        self.samples.append(sample)
        self.latest[number] = sample

    def run_bare(self, frame: Pixels) -> None:
        """The engine alone, right behind the resize of its frame; both are timed."""
        image, resize_ms = _timed_ms(lambda: self.contender.preprocess.resize(frame))
        _, bare_ms = _timed_ms(lambda: self.contender.run_bare(frame, image))
        self.resize_ms.append(resize_ms)
        self.bare_ms.append(bare_ms)

    def summarise(self, reference: ContenderLog | None) -> ContenderLatency:
        """The figures, relative to `reference`."""
        stages = {stage: [sample.durations_ms[stage] for sample in self.samples] for stage in STAGES}
        total = Distribution.of(self.total_ms)
        return ContenderLatency(
            engine=self.contender.engine,
            precision=self.contender.precision,
            version=self.contender.version,
            load_ms=self.load_ms,
            first_ms=self.first_ms,
            rss_mib=self.rss_mib,
            cpu_ms=float(np.mean(self.cpu_ms)),
            total=total,
            stages={stage: Distribution.of(durations_ms) for stage, durations_ms in stages.items()},
            bare=Distribution.of(self.bare_ms),
            resize=Distribution.of(self.resize_ms),
            overhead=self._overhead(),
            speedup=None if reference is None else Distribution.of(reference.total_ms).median / total.median,
            score_difference=None if reference is None else self._score_difference(reference),
        )

    @property
    def total_ms(self) -> list[float]:
        return [sample.total_ms for sample in self.samples]

    def _overhead(self) -> Overhead:
        # The means of a round, so that a drift within it cancels; then the median, so that outliers do not count.
        per_round = np.subtract(self.total_ms, self.bare_ms).reshape(-1, SAMPLES_PER_ROUND).mean(axis=1)
        over_bare = float(np.median(per_round))
        without_resize = over_bare - float(np.median(self.resize_ms))
        outside_engine = float(np.median([sample.total_ms - sample.stages_ms["engine"] for sample in self.samples]))
        return Overhead(over_bare, without_resize, without_resize / float(np.median(self.bare_ms)), outside_engine)

    def _score_difference(self, reference: ContenderLog) -> ScoreDifference:
        pairs = [(sample, reference.latest[number]) for number, sample in self.latest.items()]
        differences = [abs(own.score - other.score) for own, other in pairs]
        changed = sum(own.is_defect != other.is_defect for own, other in pairs)
        return ScoreDifference(float(np.mean(differences)), max(differences), changed, len(pairs))


class Session:
    """Loads contenders, then runs rounds over the same frames (uint8 H×W×3 BGR), one frame per round."""

    def __init__(self, frames: Sequence[Pixels]) -> None:
        self.logs: list[ContenderLog] = []
        self.other_cpu: list[float | None] = []  # per round
        self._frames = frames

    def add(self, load: Callable[[], Contender]) -> Contender:
        """Load a contender and let it inspect its first frame.

        Raises:
            EngineError: it cannot be loaded or fails.
        """
        memory, start = rss_mib(), perf_counter()
        contender = load()
        load_ms = (perf_counter() - start) * 1e3
        first_ms = contender.inspect(self._frames[0]).total_ms
        after = rss_mib()
        grown = None if memory is None or after is None else after - memory
        self.logs.append(ContenderLog(contender, load_ms, first_ms, grown))
        return contender

    def run(self, round_numbers: Iterable[int]) -> None:
        """Take the samples of all rounds."""
        other = OtherCpu()
        for round_number in round_numbers:
            order, backwards = turn_order(len(self.logs), round_number)
            for index in order:
                self._turn(self.logs[index], round_number % len(self._frames), backwards)
            self.other_cpu.append(other.since_last())

    def _turn(self, log: ContenderLog, number: int, backwards: bool) -> None:
        frame = self._frames[number]
        image = log.contender.preprocess.resize(frame)
        wait_until_idle()
        for _ in range(_UNTIMED_RUNS):
            log.contender.run_bare(frame, image)
        steps = [partial(log.inspect, number, frame), partial(log.run_bare, frame)]
        if backwards:
            steps.reverse()
        for step in [*steps, *reversed(steps)]:
            step()


def _timed_ms(step: Callable[[], _T]) -> tuple[_T, float]:
    start = perf_counter()
    result = step()
    return result, (perf_counter() - start) * 1e3
