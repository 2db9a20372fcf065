"""`DetectorPool` around a detector that runs when the test lets it, and around a real one."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from queue import SimpleQueue
from threading import Semaphore, Thread
from threading import enumerate as threads_alive
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

from segrd_edge import Detector, DetectorPool, Inspection, Outcome
from segrd_edge import pool as pool_module
from segrd_edge.errors import EngineError, FrameError, OptionError, PoolError, QueueFullError
from segrd_edge.preprocess import Preprocess

LONG_S = 30  # a limit for what takes milliseconds
POLICIES = ["wait", "drop_oldest", "drop_newest", "fail"]
BROKEN = 999  # a frame that the engine fails on
BAD = 888  # a frame that the detector refuses
NO_MILLISECONDS = [-1, float("nan"), float("inf"), 1e13, "5", True, 5j, [5]]  # a thread waits 9e12 at most


def frame(number: int) -> np.ndarray:
    """A frame that carries a number, which becomes the score."""
    return np.full((2, 2), number, np.uint16)


class SteppedDetector:
    """Stands in for a Detector; each run waits for a `step`, unless it is `free`."""

    def __init__(self, batch: int = 1, *, free: bool = False, tile_hw: tuple[int, int] | None = None) -> None:
        self.batch = batch
        self.preprocess = Preprocess(tile_hw=tile_hw)
        self.runs: list[list[int]] = []
        self.begun: SimpleQueue[list[int]] = SimpleQueue()
        self._free, self._steps = free, Semaphore(0)

    def inspect_batch(self, frames: list[np.ndarray]) -> list[Inspection]:
        for item in frames:
            self.check_frame(item)
        numbers = [int(item[0, 0]) for item in frames]
        self.runs.append(numbers)
        self.begun.put(numbers)
        if not self._free:
            assert self._steps.acquire(timeout=LONG_S)
        if BROKEN in numbers:
            raise EngineError("the GPU fell off the bus")
        placement = Preprocess(size_hw=(32, 32)).placement((2, 2))
        return [Inspection("good", n, 0.5, np.zeros((1, 1), np.float32), placement, (), {}) for n in numbers]

    def check_frame(self, item: np.ndarray) -> None:
        if item[0, 0] == BAD:
            raise FrameError("a frame that is none")

    def step(self, runs: int = 1) -> None:
        self._steps.release(runs)


@contextmanager
def busy_pool(detector: SteppedDetector, *cameras: str, **options: Any) -> Iterator[tuple[DetectorPool, Any]]:
    """A pool whose detector is in a run, of frame 0 of the first camera, and the future of that frame."""
    with DetectorPool(detector, cameras or ["left"], **options) as pool:  # type: ignore[arg-type]
        try:
            first = pool.submit(cameras[0] if cameras else "left", frame(0), deadline_ms=1e6)
            assert detector.begun.get(timeout=LONG_S) == [0]
            yield pool, first
        finally:
            detector.step(1000)


def told(*futures: Future[Outcome]) -> list[tuple[str, int, str]]:
    outcomes = [future.result(LONG_S) for future in futures]
    return [(outcome.camera, outcome.number, outcome.status) for outcome in outcomes]


def until(condition: Callable[[], object]) -> None:
    """Give other threads time to get somewhere."""
    end = monotonic() + LONG_S
    while not condition():
        assert monotonic() < end
        sleep(0.001)


def blocked(pool: DetectorPool) -> bool:
    """Whether a thread waits in `submit`; the pool's own is in the detector."""
    return bool(pool._condition._waiters)  # type: ignore[attr-defined]


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(pool_module, "perf_counter", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("batch", [1, 2])
def test_every_frame_gets_the_inspection_that_inspect_gives(
    make_bundle: Callable[..., Path],
    deploy_graph: Callable[..., bytes],
    tmp_path: Path,
    painter: Callable[..., np.ndarray],
    policy: Any,
    batch: int,
) -> None:
    path = make_bundle(tmp_path / "part.segrd", graphs={"fp32": deploy_graph(batch=batch)}, default_precision="fp32")
    frames = [painter((90 + i, 140), (3 * i, 2 * i, 10 + i, 12)) for i in range(10)]
    with Detector(path) as detector:
        alone = [detector.inspect(item) for item in frames]
        with DetectorPool(detector, ["left", "right"], when_full=policy, max_waiting=5) as pool:
            futures = []
            for number, item in enumerate(frames):
                ours = item.copy()
                futures.append(pool.submit(("left", "right")[number % 2], ours))
                ours[:] = 0  # the camera's driver fills its buffer again
            outcomes = [future.result(LONG_S) for future in futures]
        assert detector.inspect(frames[0]).score == alone[0].score  # closing the pool leaves the detector open
    for number, (outcome, expected) in enumerate(zip(outcomes, alone, strict=True)):
        found = outcome.inspection
        assert found is not None
        assert (outcome.camera, outcome.number, outcome.status) == (
            ("left", "right")[number % 2],
            number // 2,
            "inspected",
        )
        assert (found.score, found.verdict, found.regions) == (expected.score, expected.verdict, expected.regions)
        assert (outcome.error, outcome.deadline_ms, outcome.in_time) == (None, None, True)
        assert outcome.latency_ms >= found.timings_ms["total"]


def test_wait_blocks_until_there_is_room() -> None:
    detector = SteppedDetector()
    with busy_pool(detector, when_full="wait", max_waiting=1) as (pool, first), ThreadPoolExecutor(1) as threads:
        second = pool.submit("left", frame(1))
        submitting = threads.submit(pool.submit, "left", frame(2))
        until(lambda: blocked(pool))
        assert not submitting.done()
        assert pool.counters()["left"].submitted == 2
        detector.step()
        third = submitting.result(LONG_S)
        detector.step(2)
        assert told(first, second, third) == [("left", i, "inspected") for i in range(3)]


def test_wait_has_a_limit() -> None:
    with busy_pool(SteppedDetector(), when_full="wait", wait_ms=5, max_waiting=1) as (pool, _):
        pool.submit("left", frame(1))
        with pytest.raises(QueueFullError, match="1 frames wait already"):
            pool.submit("left", frame(2))
        assert pool.counters()["left"].refused == 1
        assert pool.counters()["left"].submitted == 2


def test_wait_ends_at_the_deadline() -> None:
    detector = SteppedDetector()
    with busy_pool(detector, when_full="wait", max_waiting=1) as (pool, first):
        second = pool.submit("left", frame(1))
        third = pool.submit("left", frame(2), deadline_ms=5)
        detector.step(2)
        assert told(first, second, third) == [("left", 0, "inspected"), ("left", 1, "inspected"), ("left", 2, "late")]
    assert detector.runs == [[0], [1]]


def test_a_blocked_submit_takes_the_place_of_a_frame_that_gets_late() -> None:
    detector = SteppedDetector()
    with busy_pool(detector, when_full="wait", max_waiting=1) as (pool, first):
        second = pool.submit("left", frame(1), deadline_ms=5)
        third = pool.submit("left", frame(2))  # returns although the engine is busy
        detector.step(2)
        assert told(first, second, third) == [("left", 0, "inspected"), ("left", 1, "late"), ("left", 2, "inspected")]


def test_drop_oldest_keeps_the_newest_and_the_order() -> None:
    detector, delivered = SteppedDetector(), []
    with busy_pool(detector, "left", "right", when_full="drop_oldest") as (pool, first):
        futures = [first, *(pool.submit("left", frame(i)) for i in range(1, 5))]
        other = pool.submit("right", frame(9))
        for future in futures:
            future.add_done_callback(lambda done: delivered.append(done.result().number))
        assert not any(future.done() for future in futures)  # frame 0 comes first, and is in the engine
        detector.step(4)
        statuses = ["inspected", "dropped", "dropped", "inspected", "inspected"]
        assert told(*futures) == [("left", i, status) for i, status in enumerate(statuses)]
        assert told(other) == [("right", 0, "inspected")]
    assert delivered == [0, 1, 2, 3, 4]
    assert sorted(run[0] for run in detector.runs) == [0, 3, 4, 9]


def test_drop_newest_keeps_what_waits() -> None:
    detector = SteppedDetector()
    with busy_pool(detector, when_full="drop_newest") as (pool, first):
        futures = [first, *(pool.submit("left", frame(i)) for i in range(1, 4))]
        detector.step()
        until(lambda: detector.runs == [[0], [1]])  # there is room again
        futures.append(pool.submit("left", frame(4)))
        detector.step(3)
        statuses = ["inspected", "inspected", "inspected", "dropped", "inspected"]
        assert told(*futures) == [("left", i, status) for i, status in enumerate(statuses)]
    assert detector.runs == [[0], [1], [2], [4]]


def test_fail_raises_for_the_frame_and_takes_the_next() -> None:
    detector = SteppedDetector()
    with busy_pool(detector, "left", "right", when_full="fail", max_waiting=1) as (pool, first):
        second = pool.submit("left", frame(1))
        with pytest.raises(QueueFullError, match="camera 'left'") as caught:
            pool.submit("left", frame(2))
        other = pool.submit("right", frame(7))  # a queue of its own
        detector.step()
        until(lambda: len(detector.runs) == 2)
        detector.step(3)
        assert told(first, second, other) == [
            ("left", 0, "inspected"),
            ("left", 1, "inspected"),
            ("right", 0, "inspected"),
        ]
        third = pool.submit("left", frame(3))
        assert told(third) == [("left", 2, "inspected")]
        counters = pool.counters()["left"]
    assert caught.value.fix
    assert (counters.submitted, counters.inspected, counters.refused, counters.pending) == (3, 3, 1, 0)


def test_a_frame_past_its_deadline_is_not_computed(clock: Clock) -> None:
    detector = SteppedDetector()
    with busy_pool(detector, when_full="fail", deadline_ms=30) as (pool, first):
        second, third = pool.submit("left", frame(1)), pool.submit("left", frame(2), deadline_ms=60)
        clock.now_s += 0.030
        detector.step(2)
        assert told(first, second, third) == [("left", 0, "inspected"), ("left", 1, "late"), ("left", 2, "inspected")]
    late = second.result()
    assert (late.inspection, late.error, late.deadline_ms, late.in_time) == (None, None, 30, False)
    assert late.latency_ms == pytest.approx(30)
    assert detector.runs == [[0], [2]]


def test_a_run_that_ends_after_the_deadline_is_kept_and_counted(clock: Clock) -> None:
    detector = SteppedDetector()
    with busy_pool(detector, when_full="fail", deadline_ms=30) as (pool, _):
        second = pool.submit("left", frame(1))
        detector.step()
        assert detector.begun.get(timeout=LONG_S) == [1]
        clock.now_s += 0.040
        detector.step()
        outcome = second.result(LONG_S)
        counters = pool.counters()["left"]
    assert (outcome.status, outcome.in_time, outcome.latency_ms) == ("inspected", False, pytest.approx(40))
    assert (counters.inspected, counters.overran, counters.late) == (2, 1, 0)
    assert counters.latest_latency_ms == pytest.approx(40)


@pytest.mark.parametrize("policy", POLICIES)
def test_late_frames_make_room_first(clock: Clock, policy: Any) -> None:
    detector = SteppedDetector()
    with busy_pool(detector, when_full=policy) as (pool, first):
        futures = [first, pool.submit("left", frame(1)), pool.submit("left", frame(2), deadline_ms=10)]
        clock.now_s += 0.010
        futures.append(pool.submit("left", frame(3)))
        detector.step(3)
        statuses = ["inspected", "inspected", "late", "inspected"]
        assert told(*futures) == [("left", i, status) for i, status in enumerate(statuses)]


def test_cameras_take_turns() -> None:
    detector = SteppedDetector()
    with busy_pool(detector, "fast", "slow", "slower", when_full="fail", max_waiting=4) as (pool, _):
        for number in (1, 2, 3):
            pool.submit("fast", frame(number))
        pool.submit("slower", frame(20))
        pool.submit("slow", frame(10))
        pool.submit("slow", frame(11))
        detector.step(7)
    assert [run[0] for run in detector.runs] == [0, 10, 20, 1, 11, 2, 3]


def test_frames_that_wait_share_a_run() -> None:
    detector = SteppedDetector(batch=4)
    with busy_pool(detector, "left", "right", when_full="fail", max_waiting=3) as (pool, _):
        futures = [pool.submit("left", frame(i)) for i in (1, 2, 3)] + [pool.submit("right", frame(i)) for i in (5, 6)]
        detector.step(3)
        assert [status for *_, status in told(*futures)] == ["inspected"] * 5
        assert [future.result().inspection.score for future in futures] == [1, 2, 3, 5, 6]
    assert detector.runs == [[0], [5, 1, 6, 2], [3]]


def test_an_incomplete_batch_waits_for_companions(clock: Clock) -> None:
    detector = SteppedDetector(batch=2, free=True)
    with DetectorPool(detector, ["left", "right"], when_full="fail", companions_ms=50) as pool:  # type: ignore[arg-type]
        first = pool.submit("left", frame(1), deadline_ms=51)
        until(lambda: blocked(pool))  # the pool's thread
        assert not detector.runs
        second = pool.submit("right", frame(2))
        assert told(first, second) == [("left", 0, "inspected"), ("right", 0, "inspected")]
        # A frame whose deadline ends sooner is not held: the clock stands still, so holding it would take for ever.
        assert told(pool.submit("left", frame(3), deadline_ms=50)) == [("left", 1, "inspected")]
        pool.submit("left", frame(4))
        until(lambda: blocked(pool))
    assert detector.runs == [[1, 2], [3], [4]]  # closing does not wait either


def test_the_wait_for_companions_ends() -> None:
    detector = SteppedDetector(batch=2, free=True)
    with DetectorPool(detector, ["left"], when_full="fail", companions_ms=5) as pool:  # type: ignore[arg-type]
        assert told(pool.submit("left", frame(1))) == [("left", 0, "inspected")]


def test_an_error_reaches_its_frame_and_the_pool_goes_on() -> None:
    detector = SteppedDetector(free=True)
    with DetectorPool(detector, ["left"], when_full="wait") as pool:  # type: ignore[arg-type]
        futures = [pool.submit("left", frame(number)) for number in (1, BROKEN, 3)]
        assert told(*futures) == [("left", 0, "inspected"), ("left", 1, "failed"), ("left", 2, "inspected")]
        counters = pool.counters()["left"]
    failed = futures[1].result()
    assert isinstance(failed.error, EngineError)
    assert (failed.inspection, failed.in_time) == (None, False)
    assert (counters.inspected, counters.failed) == (2, 1)


def test_in_a_shared_run_only_the_bad_frame_fails() -> None:
    detector = SteppedDetector(batch=3)
    with busy_pool(detector, when_full="fail", max_waiting=3) as (pool, _):
        futures = [pool.submit("left", frame(number)) for number in (1, BROKEN, 3)]
        detector.step(5)
        assert [status for *_, status in told(*futures)] == ["inspected", "failed", "inspected"]
    assert detector.runs == [[0], [1, BROKEN, 3], [1], [BROKEN], [3]]


def test_a_frame_that_the_detector_refuses_costs_the_others_no_run_of_their_own() -> None:
    detector = SteppedDetector(batch=4)
    with busy_pool(detector, "left", "right", when_full="fail", max_waiting=2) as (pool, _):
        futures = [pool.submit("left", frame(number)) for number in (1, BAD)]
        futures += [pool.submit("right", frame(number)) for number in (BAD, 4)]
        detector.step(2)
        assert [status for *_, status in told(*futures)] == ["inspected", "failed", "failed", "inspected"]
    assert isinstance(futures[1].result().error, FrameError)
    assert detector.runs == [[0], [1, 4]]


def test_where_all_are_refused_nothing_runs() -> None:
    detector = SteppedDetector(batch=2)
    with busy_pool(detector, when_full="fail") as (pool, _):
        futures = [pool.submit("left", frame(BAD)) for _ in range(2)]
        detector.step()
        assert [status for *_, status in told(*futures)] == ["failed", "failed"]
    assert detector.runs == [[0]]


def test_a_frame_that_is_late_after_a_failed_run_is_not_run_again(clock: Clock) -> None:
    detector = SteppedDetector(batch=2)
    with busy_pool(detector, when_full="fail") as (pool, _):
        futures = [pool.submit("left", frame(BROKEN)), pool.submit("left", frame(2), deadline_ms=30)]
        detector.step()
        assert detector.begun.get(timeout=LONG_S) == [BROKEN, 2]
        clock.now_s += 0.040
        detector.step(2)
        assert [status for *_, status in told(*futures)] == ["failed", "late"]
    assert detector.runs == [[0], [BROKEN, 2], [BROKEN]]


def test_with_tiles_frames_take_turns_one_by_one() -> None:
    detector = SteppedDetector(batch=4, tile_hw=(32, 32))
    with busy_pool(detector, when_full="fail", max_waiting=3) as (pool, _):
        futures = [pool.submit("left", frame(number)) for number in (1, 2, 3)]
        detector.step(4)
        assert [status for *_, status in told(*futures)] == ["inspected"] * 3
    assert detector.runs == [[0], [1], [2], [3]]


def test_a_frame_that_the_detector_refuses_fails(bundle_path: Path, good_frame: np.ndarray) -> None:
    with Detector(bundle_path) as detector, DetectorPool(detector, ["left"], when_full="wait") as pool:
        futures = [pool.submit("left", item) for item in (good_frame, good_frame.astype(float), good_frame)]
        assert [status for *_, status in told(*futures)] == ["inspected", "failed", "inspected"]
        assert isinstance(futures[1].result().error, FrameError)
        detector.close()
        closed = pool.submit("left", good_frame).result(LONG_S)
        assert (closed.status, type(closed.error)) == ("failed", EngineError)


def test_outcomes_do_not_keep_their_frames() -> None:
    detector = SteppedDetector(batch=2)
    frames = [frame(number) for number in (1, BROKEN, 3, 4)]
    kept = [weakref.ref(item) for item in frames]
    with busy_pool(detector, when_full="drop_oldest", copy_frames=False) as (pool, _):
        limits_ms = (None, None, 0, None)
        futures = [pool.submit("left", frames.pop(0), deadline_ms=limit_ms) for limit_ms in limits_ms]
        detector.step(4)
        assert [status for *_, status in told(*futures)] == ["dropped", "failed", "late", "inspected"]
    assert [reference() is None for reference in kept] == [True] * 4


@pytest.mark.parametrize("drain", [True, False])
def test_closing_while_full(drain: bool) -> None:
    detector = SteppedDetector()
    with busy_pool(detector, when_full="wait") as (pool, first), ThreadPoolExecutor(2) as threads:
        futures = [first, pool.submit("left", frame(1)), pool.submit("left", frame(2))]
        submitting = threads.submit(pool.submit, "left", frame(3))
        until(lambda: blocked(pool))
        closing = threads.submit(pool.close, drain=drain)
        with pytest.raises(PoolError, match="closed"):
            submitting.result(LONG_S)
        assert not closing.done()  # frame 0 is in the engine
        with pytest.raises(PoolError, match="closed") as caught:
            pool.submit("left", frame(4))
        detector.step(3)
        closing.result(LONG_S)
        assert all(future.done() for future in futures)
        assert not pool._thread.is_alive()
        rest = "inspected" if drain else "dropped"
        assert told(*futures) == [("left", 0, "inspected"), ("left", 1, rest), ("left", 2, rest)]
        pool.close()
    assert caught.value.fix


def test_an_exception_that_leaves_the_with_block_drops_what_waits() -> None:
    detector = SteppedDetector()
    futures: list[Future[Outcome]] = []

    def leave(pool: DetectorPool) -> None:
        with pool:
            futures.append(pool.submit("left", frame(1)))
            raise KeyError

    def step_when_closed(pool: DetectorPool) -> None:
        until(lambda: pool._closed)
        detector.step()

    with busy_pool(detector, when_full="wait") as (pool, first), ThreadPoolExecutor(1) as threads:
        futures.append(first)
        threads.submit(step_when_closed, pool)
        with pytest.raises(KeyError):
            leave(pool)
    assert told(*futures) == [("left", 0, "inspected"), ("left", 1, "dropped")]


def test_callbacks_may_submit_and_close_but_not_break_the_pool(caplog: pytest.LogCaptureFixture) -> None:
    detector, seen = SteppedDetector(), []
    with busy_pool(detector, "left", "right", when_full="wait", max_waiting=1) as (pool, first):
        pool.submit("left", frame(1))

        def submit_more(_: object) -> None:
            seen.append(pool.submit("right", frame(2)))
            with pytest.raises(QueueFullError):  # to wait for itself would take for ever
                pool.submit("right", frame(3))
            raise RuntimeError("a bug in a callback")

        first.add_done_callback(submit_more)
        detector.step(3)
        until(lambda: seen)
        seen[0].add_done_callback(lambda _: pool.close())
        assert told(seen[0]) == [("right", 0, "inspected")]
        until(lambda: not pool._thread.is_alive())
    assert "a bug in a callback" in caplog.text


def _raising(error: BaseException) -> Callable[[object], None]:
    def callback(_: object) -> None:
        raise error

    return callback


@pytest.mark.parametrize("error", [SystemExit("enough"), asyncio.CancelledError(), KeyboardInterrupt()])
def test_a_callback_cannot_end_the_thread_of_the_pool(caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    detector = SteppedDetector()
    with busy_pool(detector, when_full="wait") as (pool, first):
        first.add_done_callback(_raising(error))
        second = pool.submit("left", frame(1))
        detector.step(2)
        assert told(second) == [("left", 1, "inspected")]
    assert "camera 'left' tried to end the pool's thread" in caplog.text


def test_a_future_cannot_be_cancelled() -> None:
    detector = SteppedDetector()
    with busy_pool(detector, when_full="wait") as (pool, first):
        second = pool.submit("left", frame(1))
        assert not second.cancel()
        detector.step(2)
        assert told(first, second) == [("left", 0, "inspected"), ("left", 1, "inspected")]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_frame_has_one_outcome_whatever_happens(policy: Any, batch: int) -> None:
    """Six threads for four cameras, failing frames, deadlines that some frames miss, and a close in the middle."""
    detector = SteppedDetector(batch, free=True)
    cameras = ["a", "b", "c", "d"]
    delivered: SimpleQueue[Outcome] = SimpleQueue()
    taken: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    pool = DetectorPool(detector, cameras, when_full=policy, companions_ms=0.1)  # type: ignore[arg-type]

    def feed(seed: int) -> tuple[Counter[str], Counter[str]]:
        chance, took, missed = random.Random(seed), Counter[str](), Counter[str]()
        for number in range(300):
            camera = cameras[chance.randrange(4)]
            content = BROKEN if chance.random() < 0.1 else number
            try:
                future = pool.submit(camera, frame(content), deadline_ms=chance.choice([None, 0, 0.05, 1, 1000]))
            except QueueFullError:
                missed[camera] += 1
                continue
            except PoolError:
                break
            took[camera] += 1
            future.add_done_callback(lambda done: delivered.put(done.result()))
            if chance.random() < 0.02:
                future.result(LONG_S)
        return took, missed

    with ThreadPoolExecutor(6) as threads:
        feeding = [threads.submit(feed, seed) for seed in range(6)]
        until(lambda: sum(c.submitted for c in pool.counters().values()) > 900 or all(f.done() for f in feeding))
        pool.close(drain=False)
        for future in feeding:
            took, missed = future.result(LONG_S)
            taken += took
            refused += missed
    outcomes = [delivered.get_nowait() for _ in range(delivered.qsize())]
    for camera, counters in pool.counters().items():
        own = [outcome for outcome in outcomes if outcome.camera == camera]
        statuses = Counter(outcome.status for outcome in own)
        assert sorted(outcome.number for outcome in own) == list(range(taken[camera]))
        assert (counters.submitted, counters.pending, counters.refused) == (taken[camera], 0, refused[camera])
        found = (counters.inspected, counters.dropped, counters.late, counters.failed)
        assert found == tuple(statuses[status] for status in ("inspected", "dropped", "late", "failed"))
        assert statuses["inspected"] > 0
        for outcome in own:
            assert (outcome.inspection is not None) == (outcome.status == "inspected")
            assert (outcome.error is not None) == (outcome.status == "failed")


@pytest.mark.parametrize("policy", POLICIES)
def test_futures_of_a_camera_are_fulfilled_in_order(policy: Any) -> None:
    """Callbacks are attached before anything can be fulfilled: by the thread that fulfils, in a callback of its own."""
    detector, delivered = SteppedDetector(batch=2), []
    chance = random.Random(3)
    with busy_pool(detector, "a", "b", when_full=policy, max_waiting=5, wait_ms=0 if policy == "wait" else None) as (
        pool,
        first,
    ):
        futures = [first]
        for number in range(40):
            camera, content = chance.choice("ab"), BROKEN if chance.random() < 0.3 else number
            with suppress(QueueFullError):
                futures.append(pool.submit(camera, frame(content), deadline_ms=chance.choice([0, 1e6, 1e6])))
        for future in futures:
            future.add_done_callback(lambda done: delivered.append(done.result()))
    for camera in "ab":
        numbers = [outcome.number for outcome in delivered if outcome.camera == camera]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > 5
    assert len(delivered) == len(futures)


def test_counters_are_plain_and_start_at_zero() -> None:
    with DetectorPool(SteppedDetector(), ["left", "right"], when_full="wait") as pool:  # type: ignore[arg-type]
        assert [astuple(counters) for counters in pool.counters().values()] == [(0,) * 8 + (None,)] * 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_should_the_thread_end_every_frame_has_an_outcome() -> None:
    """By what is no Exception: an exit inside the engine, say."""
    detector = SteppedDetector(free=True)
    release = Semaphore(0)

    def leave(frames: list[np.ndarray]) -> list[Inspection]:
        release.acquire(timeout=LONG_S)
        raise SystemExit("inside the engine")

    detector.inspect_batch = leave  # type: ignore[method-assign]
    with DetectorPool(detector, ["left", "right"], when_full="wait", max_waiting=1) as pool:  # type: ignore[arg-type]
        futures = [pool.submit("left", frame(0))]
        until(lambda: pool.counters()["left"].pending == 1 and not pool._cameras["left"].waiting)
        futures += [pool.submit("left", frame(1)), pool.submit("right", frame(2))]
        with ThreadPoolExecutor() as threads:
            blocked = threads.submit(pool.submit, "left", frame(3))  # finds no room
            release.release()
            with pytest.raises(PoolError, match="closed"):
                blocked.result(LONG_S)
        outcomes = [future.result(LONG_S) for future in futures]
        assert [(o.camera, o.number, o.status) for o in outcomes] == [
            ("left", 0, "failed"),
            ("left", 1, "failed"),
            ("right", 0, "failed"),
        ]
        assert "inside the engine" in str(outcomes[0].error)
        with pytest.raises(PoolError, match="closed"):
            pool.submit("right", frame(4))


def test_asyncio_takes_frames_without_blocking_the_loop() -> None:
    async def use(pool: DetectorPool, detector: SteppedDetector) -> list[Outcome]:
        taken = [await pool.submit_async("left", frame(number)) for number in range(2)]  # one runs, one waits
        third = asyncio.ensure_future(pool.submit_async("left", frame(2)))
        await asyncio.sleep(0.05)  # goes on although the third finds no room
        assert not third.done()
        detector.step(3)
        taken.append(await asyncio.wait_for(third, LONG_S))
        return [await asyncio.wait_for(outcome, LONG_S) for outcome in taken]

    detector = SteppedDetector()
    with DetectorPool(detector, ["left"], when_full="wait", max_waiting=1) as pool:  # type: ignore[arg-type]
        outcomes = asyncio.run(use(pool, detector))
    assert [(outcome.number, outcome.status) for outcome in outcomes] == [(n, "inspected") for n in range(3)]


def test_in_asyncio_cameras_do_not_wait_for_each_other() -> None:
    """Whether more of them are blocked than the event loop has threads (32 at most)."""

    async def use(pool: DetectorPool, detector: SteppedDetector) -> None:
        for name in full:
            pool.submit(name, frame(2))
        submitting = [asyncio.ensure_future(pool.submit_async(name, frame(3))) for name in full]
        await asyncio.sleep(0)  # they run, in this order
        try:
            taken = await asyncio.wait_for(pool.submit_async("free", frame(1)), LONG_S)
            await asyncio.wait_for(asyncio.to_thread(int), LONG_S)  # the threads of the loop are the program's
            detector.step()
            assert detector.begun.get(timeout=LONG_S) == [1]
            assert not any(task.done() for task in submitting)
            detector.step()
            assert (await asyncio.wait_for(taken, LONG_S)).status == "inspected"
            assert sum(task.done() for task in submitting) <= 1
        finally:
            detector.step(1000)
            await asyncio.gather(*submitting)

    detector = SteppedDetector()
    full = [f"full {i}" for i in range(33)]
    with busy_pool(detector, full[0], "free", *full[1:], when_full="wait", max_waiting=1) as (pool, _):
        asyncio.run(use(pool, detector))


def test_in_asyncio_a_cancelled_submit_holds_up_no_other_camera() -> None:
    async def use(pool: DetectorPool) -> list[Outcome]:
        pool.submit("left", frame(1))
        for number in (2, 3, 4):  # the first is blocked, and stays so
            cancelled = asyncio.ensure_future(pool.submit_async("left", frame(number)))
            while not blocked(pool):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        last = asyncio.ensure_future(pool.submit_async("left", frame(5)))
        taken = [await asyncio.wait_for(pool.submit_async("right", frame(6)), LONG_S)]
        detector.step(1000)
        taken.append(await asyncio.wait_for(last, LONG_S))
        return [await asyncio.wait_for(outcome, LONG_S) for outcome in taken]

    detector = SteppedDetector()
    with busy_pool(detector, "left", "right", when_full="wait", max_waiting=1) as (pool, _):
        outcomes = asyncio.run(use(pool))
    assert [(outcome.camera, outcome.number, outcome.status) for outcome in outcomes] == [
        ("right", 0, "inspected"),
        ("left", 3, "inspected"),
    ]
    assert [run[0] for run in detector.runs if run != [6]] == [0, 1, 2, 5]


def test_in_asyncio_frames_keep_the_order_and_the_time_of_their_calls(clock: Clock) -> None:
    async def use(pool: DetectorPool) -> list[Outcome]:
        pool.submit("left", frame(1))
        limits_ms = (None, 30, None)
        submitting = [
            asyncio.ensure_future(pool.submit_async("left", frame(2 + i), deadline_ms=limit_ms))
            for i, limit_ms in enumerate(limits_ms)
        ]
        while not blocked(pool):
            await asyncio.sleep(0.001)
        clock.now_s += 0.040
        detector.step(1000)
        taken = await asyncio.wait_for(asyncio.gather(*submitting), LONG_S)
        return [await asyncio.wait_for(outcome, LONG_S) for outcome in taken]

    detector = SteppedDetector()
    with busy_pool(detector, when_full="wait", max_waiting=1) as (pool, _):
        outcomes = asyncio.run(use(pool))
    assert [outcome.number for outcome in outcomes] == [2, 3, 4]
    assert [outcome.status for outcome in outcomes] == ["inspected", "late", "inspected"]
    assert [outcome.latency_ms for outcome in outcomes] == [pytest.approx(40)] * 3


@pytest.mark.parametrize("by", ["another thread", "a callback"])
def test_closing_ends_a_blocked_submit_async(by: str) -> None:
    async def use(pool: DetectorPool, first: Future[Outcome]) -> None:
        pool.submit("left", frame(1))
        submitting = [asyncio.ensure_future(pool.submit_async("left", frame(number))) for number in (2, 3)]
        while not blocked(pool):
            await asyncio.sleep(0.001)
        if by == "a callback":
            first.add_done_callback(lambda _: pool.close())
            detector.step()
        else:
            closing = asyncio.ensure_future(asyncio.to_thread(pool.close))
        for task in submitting:
            with pytest.raises(PoolError, match="closed"):
                await asyncio.wait_for(task, LONG_S)
        detector.step(1000)
        if by == "another thread":
            await asyncio.wait_for(closing, LONG_S)

    before, detector = set(threads_alive()), SteppedDetector()
    with busy_pool(detector, when_full="wait", max_waiting=1) as (pool, first):
        asyncio.run(use(pool, first))
    assert detector.runs == [[0], [1]]
    assert set(threads_alive()) <= before


def test_without_asyncio_there_is_one_thread() -> None:
    before = set(threads_alive())
    with DetectorPool(SteppedDetector(free=True), ["left", "right"], when_full="wait") as pool:  # type: ignore[arg-type]
        told(pool.submit("left", frame(1)), pool.submit("right", frame(2)))
        assert set(threads_alive()) - before == {pool._thread}


def test_asyncio_raises_what_submit_raises() -> None:
    pool = DetectorPool(SteppedDetector(free=True), ["left"], when_full="fail")  # type: ignore[arg-type]
    with pool, pytest.raises(OptionError, match="camera 'middle'"):
        asyncio.run(pool.submit_async("middle", frame(0)))
    with pytest.raises(PoolError, match="closed"):
        asyncio.run(pool.submit_async("left", frame(0)))


def test_a_program_that_closes_nothing_ends() -> None:
    program = """
import time
import numpy as np
from threading import Event
from segrd_edge import DetectorPool, Preprocess
started = Event()
class Slow:
    batch = 1
    preprocess = Preprocess()
    def inspect_batch(self, frames):
        started.set()
        time.sleep(0.3)
        print("ends", flush=True)
        raise RuntimeError
pool = DetectorPool(Slow(), ["left"], when_full="fail")
for _ in range(2):
    pool.submit("left", np.zeros((2, 2), np.uint8))
started.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ends"]


def test_threads_end_with_the_pool() -> None:
    pools = [DetectorPool(SteppedDetector(), ["left"], when_full="wait") for _ in range(3)]  # type: ignore[arg-type]
    closing = [Thread(target=pools[0].close) for _ in range(4)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(LONG_S)
    for pool in pools:
        pool.close()
    assert not any(pool._thread.is_alive() for pool in pools)


@pytest.mark.parametrize(
    "options",
    [
        {"cameras": []},
        {"cameras": "left"},
        {"cameras": ["left", "left"]},
        {"cameras": [["left"]]},
        {"cameras": [0, 1]},
        {"cameras": (name for name in "ab")},
        {"cameras": None},
        {"when_full": "drop"},
        {"when_full": ["wait"]},
        {"wait_ms": 5, "when_full": "fail"},
        *({"max_waiting": value} for value in (0, -1, 2.5, float("nan"), "2", None, True)),
        *({"wait_ms": value} for value in NO_MILLISECONDS),
        *({"deadline_ms": value} for value in NO_MILLISECONDS),
        *({"companions_ms": value} for value in (None, *NO_MILLISECONDS)),
    ],
)
def test_impossible_options_are_refused_at_once(options: dict[str, Any]) -> None:
    arguments = {"cameras": ["left"], "when_full": "wait", **options}
    with pytest.raises(OptionError) as caught:
        DetectorPool(SteppedDetector(), **arguments)  # type: ignore[arg-type]
    assert caught.value.what.startswith(next(iter(options)))
    assert caught.value.expected


@pytest.mark.parametrize("options", [{"max_waiting": np.int64(2), "wait_ms": np.float32(5)}, {"cameras": {"left": 0}}])
def test_numbers_of_numpy_and_the_keys_of_a_dict_pass(options: dict[str, Any]) -> None:
    arguments = {"cameras": ["left"], "when_full": "wait", **options}
    with DetectorPool(SteppedDetector(free=True), **arguments) as pool:  # type: ignore[arg-type]
        assert told(pool.submit("left", frame(1), deadline_ms=np.int64(10**9))) == [("left", 0, "inspected")]


@pytest.mark.parametrize("camera", ["centre", ["left"], None, float("nan")])
def test_unknown_cameras_are_refused_at_once(camera: Any) -> None:
    with DetectorPool(SteppedDetector(), ["left"], when_full="wait") as pool:  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="camera ") as caught:
            pool.submit(camera, frame(1))
        assert repr(camera) in caught.value.what
        assert "'left'" in caught.value.expected
        assert pool.counters()["left"].submitted == 0


@pytest.mark.parametrize("deadline_ms", NO_MILLISECONDS)
def test_impossible_deadlines_are_refused_at_once(deadline_ms: Any) -> None:
    with DetectorPool(SteppedDetector(), ["left"], when_full="wait") as pool:  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="deadline_ms=") as caught:
            pool.submit("left", frame(1), deadline_ms=deadline_ms)
        assert caught.value.expected
        assert pool.counters()["left"].submitted == 0
