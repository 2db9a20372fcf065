"""Who is measured when: with contenders that only write down that they were called."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from segrd_edge.benchmarks import session as session_module
from segrd_edge.benchmarks.contenders import Pixels, Sample
from segrd_edge.benchmarks.session import Session, turn_order
from segrd_edge.preprocess import Preprocess

FRAMES = [np.full((40, 50, 3), level, np.uint8) for level in (10, 20, 30)]


class Scripted:
    """Takes the durations that it is told, and scores a frame by its brightness."""

    version = "1"
    preprocess = Preprocess(size_hw=(32, 32))

    def __init__(
        self, diary: list[str], engine: str, precision: str = "fp32", *, total_ms: float = 10, gain: float = 1
    ) -> None:
        self.engine, self.precision = engine, precision
        self._diary, self._total_ms, self._gain = diary, total_ms, gain

    def inspect(self, frame: Pixels) -> Sample:
        level = int(frame[0, 0, 0])
        self._diary.append(f"{self.engine} inspects {level}")
        stages_ms = {"preprocess": 1.0, "engine": self._total_ms - 4, "postprocess": 2.0}
        score = level / 100 * self._gain
        return Sample(self._total_ms, stages_ms, score, is_defect=score >= 0.25)

    def run_bare(self, frame: Pixels, image: Pixels) -> None:
        assert image.shape == (32, 32, 3)
        self._diary.append(f"{self.engine} bare {int(image[0, 0, 0])}")

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "wait_until_idle", lambda: None)


def run(diary: list[str], *contenders: Scripted, rounds: int) -> Session:
    session = Session(FRAMES)
    for contender in contenders:
        session.add(lambda contender=contender: contender)
    diary.clear()
    session.run(range(rounds))
    return session


def test_the_order_is_reversed_every_round_and_begins_with_another_every_second() -> None:
    orders = ["".join(map(str, turn_order(3, number)[0])) for number in range(6)]
    assert orders == ["012", "210", "120", "021", "201", "102"]
    assert [turn_order(3, number)[1] for number in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("contenders", [1, 2, 3, 4, 5])
def test_every_contender_has_every_place_equally_often(contenders: int) -> None:
    places = Counter(
        (place, index)
        for number in range(2 * contenders)
        for place, index in enumerate(turn_order(contenders, number)[0])
    )
    assert set(places.values()) == {2}
    assert len(places) == contenders**2


def test_a_turn_is_two_untimed_runs_and_two_samples_mirrored() -> None:
    diary: list[str] = []
    run(diary, Scripted(diary, "a"), Scripted(diary, "b"), rounds=2)
    assert diary == [
        *("a bare 10", "a bare 10", "a inspects 10", "a bare 10", "a bare 10", "a inspects 10"),
        *("b bare 10", "b bare 10", "b inspects 10", "b bare 10", "b bare 10", "b inspects 10"),
        *("b bare 20", "b bare 20", "b bare 20", "b inspects 20", "b inspects 20", "b bare 20"),
        *("a bare 20", "a bare 20", "a bare 20", "a inspects 20", "a inspects 20", "a bare 20"),
    ]


def test_untimed_runs_are_not_counted() -> None:
    diary: list[str] = []
    session = run(diary, Scripted(diary, "a"), rounds=5)
    log = session.logs[0]
    assert len(log.samples) == len(log.bare_ms) == len(log.cpu_ms) == len(log.resize_ms) == 10
    assert len(session.other_cpu) == 5


def test_stages_and_what_lies_between_them_add_up_to_the_total() -> None:
    diary: list[str] = []
    figures = run(diary, Scripted(diary, "a"), rounds=2).logs[0].summarise(None)
    assert {stage: d.mean for stage, d in figures.stages.items()} == {
        "preprocess": 1,
        "engine": 6,
        "postprocess": 2,
        "other": 1,
    }
    assert figures.overhead.outside_engine == 4
    assert figures.throughput_fps == 100


def test_overhead_is_total_minus_bare_minus_resize() -> None:
    diary: list[str] = []
    log = run(diary, Scripted(diary, "a"), rounds=3).logs[0]
    log.bare_ms[:] = [6, 8, 7, 7, 1, 3]  # means of the rounds: 7, 7, 2
    log.resize_ms[:] = [2, 1, 50, 1, 2, 50]
    overhead = log.summarise(None).overhead
    assert overhead.over_bare == 3  # of 3, 3, 8: one disturbed round does not count
    assert overhead.without_resize == 1  # 3 less the median of the resizes
    assert overhead.share_of_bare == pytest.approx(1 / 6.5)


def test_scores_and_speed_are_compared_with_the_reference() -> None:
    diary: list[str] = []
    slow, fast = Scripted(diary, "a", total_ms=30), Scripted(diary, "b", "int8", total_ms=10, gain=0.8)
    logs = run(diary, slow, fast, rounds=7).logs
    figures = logs[1].summarise(logs[0])
    assert figures.speedup == 3
    difference = figures.score_difference
    assert difference is not None
    assert difference.max == pytest.approx(0.06)
    assert difference.mean == pytest.approx(0.04)
    assert (difference.verdicts_changed, difference.frames) == (1, 3)  # 0.30 is a defect, 0.24 is none
    assert logs[1].summarise(None).score_difference is None
