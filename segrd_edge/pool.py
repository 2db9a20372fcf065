"""Several cameras, one engine: bounded queues, a deadline per frame, and one outcome for every frame."""

from __future__ import annotations

import atexit
import logging
import math
import traceback
from collections import Counter, deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import TIMEOUT_MAX, Condition, Thread, current_thread
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .checks import is_finite, is_whole
from .detector import Detector
from .errors import FrameError, OptionError, PoolError, QueueFullError
from .inspection import Inspection

if TYPE_CHECKING:
    import asyncio

_logger = logging.getLogger("segrd_edge")
Status = Literal["inspected", "dropped", "late", "failed"]
WhenFull = Literal["wait", "drop_oldest", "drop_newest", "fail"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one frame."""

    camera: str
    number: int  # of the frame among those that the pool took from this camera: 0, 1, 2, ...
    status: Status
    inspection: Inspection | None  # where the status is "inspected"
    error: Exception | None  # where it is "failed": what `Detector.inspect` raised
    latency_ms: float  # from `submit` until this was decided
    deadline_ms: float | None  # from `submit`; None: the frame had none

    @property
    def in_time(self) -> bool:
        """Whether there is an inspection, and it was ready before the deadline."""
        return self.status == "inspected" and (self.deadline_ms is None or self.latency_ms <= self.deadline_ms)


@dataclass(frozen=True)
class CameraCounters:
    """Frames of one camera so far. submitted = inspected + dropped + late + failed + pending."""

    submitted: int  # taken by the pool
    pending: int  # without an outcome yet
    inspected: int
    overran: int  # of the inspected: ready only after the deadline
    dropped: int
    late: int
    failed: int
    refused: int  # not taken: `submit` raised QueueFullError
    latest_latency_ms: float | None  # of the latest inspected frame


class DetectorPool:
    """Inspects the frames of several cameras with one `Detector`, in one thread of its own.

        with Detector("bottle.segrd") as detector:
            with DetectorPool(detector, ["left", "right"], when_full="drop_oldest", deadline_ms=40) as pool:
                future = pool.submit("left", frame)
                outcome = future.result()

    No frame is lost without a word. `submit` either raises, and then the pool has not taken the frame; or it returns a
    future, which gets exactly one `Outcome`:

        inspected   `outcome.inspection` is the result
        dropped     its place was needed for another frame, or the pool was closed without draining
        late        its deadline passed before the engine began with it, so it was not computed; or before it began once
                    more, after a shared run failed
        failed      `outcome.error` is what `Detector.inspect` raised for this frame; the pool goes on. Should the
                    pool's own thread ever end by an error, everything that waits fails, and `submit` raises

    A future never raises by itself and cannot be cancelled. Leave the pool by `with` or call `close`: until then its
    thread keeps it and the detector.

    Order: the futures of a camera are fulfilled in the order in which its frames were submitted, also where a newer
    frame is dropped while an older one is in the engine. Cameras do not wait for each other. All futures are fulfilled
    in the pool's thread, between two runs of the engine, and their callbacks (`add_done_callback`) run there: keep
    these short, and never let one wait for another frame. In asyncio, `submit_async` neither copies nor waits in the
    event loop.

    Queues: `max_waiting` frames of a camera may wait; those in the engine are not among them. A frame that is late
    makes room first. Where there is none, `when_full` decides:

        wait         `submit` blocks until there is room, `wait_ms` at most; then it raises QueueFullError
        drop_oldest  the camera's oldest waiting frame is dropped: the newest frame matters
        drop_newest  the submitted frame is dropped: the frames that wait keep their places
        fail         `submit` raises QueueFullError

    Deadlines are counted from the call of `submit`, time blocked in it included. A run of the engine that has begun is
    not broken off: a frame that it finishes too late is inspected, and `outcome.in_time` is False.

    Turns: each camera that has a frame gives one, in turn, so a fast camera does not starve a slow one. Where the graph
    takes a batch, frames that wait share a run; with `companions_ms` above 0, an incomplete batch is held back until it
    is complete or its oldest frame was submitted that long ago. A frame whose deadline ends sooner is not held. A frame
    that the detector refuses fails, and the others still share a run. Where the engine fails in a shared run, its
    frames are inspected one by one, so that each gets its own inspection or its own error. With tiles, where a frame
    takes several runs by itself, frames take turns one by one.

    Args:
        detector: stays the caller's, who closes it after the pool.
        cameras: their names.
        when_full: see above.
        max_waiting: frames of one camera that may wait.
        wait_ms: limit of a blocked `submit`; None is none. Only for when_full="wait".
        deadline_ms: of frames whose `submit` names none; None: they have none.
        companions_ms: how long a frame may wait for others to share its run.
        copy_frames: copy what `submit` gets, so that the caller may overwrite it at once, as camera drivers do with
            their buffers. False where every frame is an array of its own.

    Raises:
        OptionError: an argument that cannot work.
    """

    def __init__(
        self,
        detector: Detector,
        cameras: Sequence[str],
        *,
        when_full: WhenFull,
        max_waiting: int = 2,
        wait_ms: float | None = None,
        deadline_ms: float | None = None,
        companions_ms: float = 0,
        copy_frames: bool = True,
    ) -> None:
        _check_cameras(cameras)
        if when_full not in get_args(WhenFull):
            raise OptionError(f"when_full={when_full!r}", expected="one of " + ", ".join(get_args(WhenFull)))
        if not (is_whole(max_waiting) and max_waiting >= 1):
            raise OptionError(f"max_waiting={max_waiting!r}", expected="a whole number, at least 1")
        if wait_ms is not None and when_full != "wait":
            raise OptionError(f"wait_ms={wait_ms!r} with when_full={when_full!r}", expected="when_full='wait'")
        self._detector = detector
        self._batch = detector.batch if detector.preprocess.tile_hw is None else 1  # frames of one turn
        self._when_full, self._max_waiting, self._copy_frames = when_full, max_waiting, copy_frames
        self._wait_s = math.inf if wait_ms is None else _milliseconds("wait_ms", wait_ms) / 1e3
        self._deadline_ms = None if deadline_ms is None else _milliseconds("deadline_ms", deadline_ms)
        self._companions_s = _milliseconds("companions_ms", companions_ms) / 1e3
        self._cameras = {name: _Camera(name) for name in cameras}
        self._turns = deque(self._cameras.values())  # whose turn is next stands first
        self._closed = False
        self._condition = Condition()  # holds everything above; told whenever any of it changes
        self._thread = Thread(target=self._loop, name="segrd-pool", daemon=True)
        self._thread.start()
        # Where nobody closed it: a thread that is inside an engine when the interpreter goes aborts the process.
        atexit.register(self.close, drain=False)

    def submit(self, camera: str, frame: npt.NDArray[Any], *, deadline_ms: float | None = None) -> Future[Outcome]:
        """Give a frame to the pool. May be called from any thread; the frames of one camera from one thread, or their
        order is that in which the pool took them.

        Args:
            camera: one of the names that the pool was made with.
            frame: as `Detector.inspect` takes it. With copy_frames=False it is not to be changed before its outcome.
            deadline_ms: from now; None is the pool's.

        Returns:
            The future of the frame's one `Outcome`.

        Raises:
            QueueFullError: there was no room, and `when_full` is "fail", or "wait" and the wait is over.
            PoolError: the pool is closed, or was closed during the wait.
            OptionError: an unknown camera, or a deadline that cannot be one.
        """
        return self._take(self._ticket(camera, frame, deadline_ms))

    async def submit_async(
        self, camera: str, frame: npt.NDArray[Any], *, deadline_ms: float | None = None
    ) -> asyncio.Future[Outcome]:
        """`submit` for asyncio: awaits until the pool has taken the frame, and gives an awaitable for its outcome.

            taken = await pool.submit_async("left", frame)  # grab the next frame meanwhile
            outcome = await taken

        Copying and waiting for room happen in a thread of the camera's own, one frame after the other in the order of
        the calls. Cancelling (`asyncio.wait_for`) does not reach that thread: the pool may still take the frame. What
        limits the wait is `wait_ms`.

        Raises:
            As `submit`.
        """
        import asyncio  # a line without an event loop does not load it

        ticket = self._ticket(camera, frame, deadline_ms)
        with self._condition:
            self._check_open()  # and so not shut down
            taking = self._cameras[camera].submitting.submit(self._take, ticket)
        future = await asyncio.wrap_future(taking)
        return asyncio.wrap_future(future)

    def counters(self) -> dict[str, CameraCounters]:
        """What became of the frames so far, per camera. A frame counts before its future is fulfilled."""
        with self._condition:
            return {name: camera.counters() for name, camera in self._cameras.items()}

    def close(self, *, drain: bool = True) -> None:
        """Take no more frames, and return when every frame has its outcome and the pool's threads have ended.

        A `submit` that is blocked raises PoolError. A second call waits with the first, and may give up draining.

        Args:
            drain: inspect what waits; False: drop it. Leaving `with` drains, unless an exception leaves it.
        """
        with self._condition:
            self._closed = True
            if not drain:
                for camera in self._cameras.values():
                    camera.drop_all()
            self._condition.notify_all()
        if current_thread() is not self._thread:  # a callback may close the pool, and cannot wait for itself
            self._thread.join()
        for camera in self._cameras.values():
            camera.submitting.shutdown()  # whoever is blocked there is told by now
        atexit.unregister(self.close)

    def __enter__(self) -> DetectorPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def _ticket(self, camera: str, frame: npt.NDArray[Any], deadline_ms: float | None) -> _Ticket:
        if not isinstance(camera, str) or camera not in self._cameras:
            raise OptionError(f"camera {camera!r}", expected="one of " + ", ".join(map(repr, self._cameras)))
        limit_ms = self._deadline_ms if deadline_ms is None else _milliseconds("deadline_ms", deadline_ms)
        return _Ticket(camera, frame, perf_counter(), limit_ms)

    def _take(self, ticket: _Ticket) -> Future[Outcome]:
        queue = self._cameras[ticket.camera]
        if self._copy_frames and isinstance(ticket.frame, np.ndarray):
            ticket.frame = ticket.frame.copy()
        with self._condition:
            if self._when_full == "wait":
                self._wait_for_room(queue, ticket)
            self._check_open()
            self._condition.notify_all()  # nobody wakes before the lock is released
            ticket.number = queue.counts["submitted"]
            self._make_room(queue, ticket)
            queue.take(ticket)
        return ticket.future

    def _check_open(self) -> None:
        if self._closed:
            raise PoolError("the pool is closed", fix="make a new DetectorPool")

    def _wait_for_room(self, queue: _Camera, ticket: _Ticket) -> None:
        """Return when there is room, or the wait or the deadline is over, or the pool is closed."""
        end_s = min(ticket.submitted_s + self._wait_s, ticket.due_s)
        own_thread = current_thread() is self._thread  # a callback would wait for itself
        while not (self._closed or own_thread):
            queue.drop_late()
            if len(queue.waiting) < self._max_waiting or perf_counter() >= end_s:
                return
            left_s = min(end_s, *(waiting.due_s for waiting in queue.waiting)) - perf_counter()
            self._condition.wait(left_s if math.isfinite(left_s) else None)

    def _make_room(self, queue: _Camera, ticket: _Ticket) -> None:
        """Make room for the ticket, or decide it. Raises QueueFullError."""
        queue.drop_late()
        if len(queue.waiting) < self._max_waiting:
            return
        if self._when_full == "drop_oldest":
            queue.waiting.popleft().decide("dropped")
        elif self._when_full == "drop_newest":
            ticket.decide("dropped")
        elif ticket.is_late():
            ticket.decide("late")
        else:
            queue.counts["refused"] += 1
            raise QueueFullError(
                f"camera {queue.name!r}: {self._max_waiting} frames wait already, and this one was not taken",
                expected="frames that come no faster than the engine takes them",
                fix="a smaller network, fewer cameras, or when_full='drop_oldest'",
            )

    def _loop(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            self._give_up(error)
            raise

    def _give_up(self, error: BaseException) -> None:
        """The pool's thread ends where it should not: every frame gets its outcome all the same."""
        ended = PoolError(f"the pool's thread ended: {error!r}", fix="make a new DetectorPool; report this error")
        with self._condition:
            self._closed = True
            for camera in self._cameras.values():
                camera.fail_all(ended)
            decided = [pair for camera in self._cameras.values() for pair in camera.take_decided()]
            self._condition.notify_all()
        for future, outcome in decided:
            _fulfil(future, outcome)

    def _turn(self) -> bool:
        """Inspect what is due and fulfil the futures that can be; False when there is nothing left to do."""
        tickets = self._next()
        if tickets is None:
            return False
        if tickets:
            self._inspect(tickets)
        with self._condition:
            decided = [pair for camera in self._cameras.values() for pair in camera.take_decided()]
        for future, outcome in decided:
            _fulfil(future, outcome)
        return True

    def _next(self) -> list[_Ticket] | None:
        """Wait for frames to inspect together; none where outcomes are to be delivered first, None at the end."""
        with self._condition:
            while True:
                if any(camera.has_decided for camera in self._turns):
                    return []
                waiting = [ticket for camera in self._turns for ticket in camera.waiting]
                if waiting:
                    left_s = self._hold_until_s(waiting) - perf_counter()
                    if left_s <= 0:
                        self._condition.notify_all()
                        return self._choose()
                    self._condition.wait(left_s)
                elif self._closed:
                    return None
                else:
                    self._condition.wait()

    def _hold_until_s(self, waiting: list[_Ticket]) -> float:
        """Until when these frames wait for companions."""
        if self._closed or len(waiting) >= self._batch:
            return 0.0
        ends_s = [(ticket.submitted_s + self._companions_s, ticket) for ticket in waiting]
        return min(end_s if end_s < ticket.due_s else ticket.submitted_s for end_s, ticket in ends_s)

    def _choose(self) -> list[_Ticket]:
        """As many frames as share a run, one camera after the other; frames that are late are decided instead."""
        chosen: list[_Ticket] = []
        idle = 0
        while len(chosen) < self._batch and idle < len(self._turns):
            camera = self._turns[0]
            self._turns.rotate(-1)
            camera.drop_late()
            idle = 0 if camera.waiting else idle + 1
            if camera.waiting:
                chosen.append(camera.waiting.popleft())
        return chosen

    def _inspect(self, tickets: list[_Ticket]) -> None:
        result = _attempt(self._detector, [ticket.frame for ticket in tickets])
        if not isinstance(result, Exception):
            for ticket, inspection in zip(tickets, result, strict=True):
                ticket.decide("inspected", inspection=inspection)
            return
        _release_variables(result)
        if len(tickets) == 1:
            tickets[0].decide("failed", error=result)
            return
        if isinstance(result, FrameError | OptionError):
            self._fail_refused(tickets)
        rest = [ticket for ticket in tickets if ticket.outcome is None]
        # Without the frames that were refused the others share a run; a run that failed by itself tells no more.
        for group in [rest] if len(rest) < len(tickets) else [[ticket] for ticket in rest]:
            for ticket in group:
                if ticket.is_late():
                    ticket.decide("late")
            if in_time := [ticket for ticket in group if ticket.outcome is None]:
                self._inspect(in_time)

    def _fail_refused(self, tickets: list[_Ticket]) -> None:
        for ticket in tickets:
            try:
                self._detector.check_frame(ticket.frame)
            except Exception as error:  # noqa: BLE001, PERF203  (whatever it is belongs to this frame; as `_attempt`)
                _release_variables(error)
                ticket.decide("failed", error=error)


@dataclass(eq=False)
class _Ticket:
    """A frame that the pool took, until its future is fulfilled."""

    camera: str
    frame: Any  # None as soon as it is decided
    submitted_s: float
    deadline_ms: float | None
    number: int = -1
    outcome: Outcome | None = None
    future: Future[Outcome] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.future.set_running_or_notify_cancel()  # from now on it cannot be cancelled

    @property
    def due_s(self) -> float:
        return math.inf if self.deadline_ms is None else self.submitted_s + self.deadline_ms / 1e3

    def is_late(self) -> bool:
        return perf_counter() >= self.due_s

    def decide(self, status: Status, *, inspection: Inspection | None = None, error: Exception | None = None) -> None:
        latency_ms = (perf_counter() - self.submitted_s) * 1e3
        self.frame = None
        self.outcome = Outcome(self.camera, self.number, status, inspection, error, latency_ms, self.deadline_ms)


class _Camera:
    """The queue of one camera."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: deque[_Ticket] = deque()  # not decided and not in the engine, oldest first
        self.pending: deque[_Ticket] = deque()  # future not fulfilled, oldest first
        self.submitting = ThreadPoolExecutor(1, "segrd-pool-submit")  # of `submit_async`, whose first starts the thread
        self.counts: Counter[str] = Counter()
        self.latest_latency_ms: float | None = None

    @property
    def has_decided(self) -> bool:
        """Whether a future can be fulfilled: those before it in the camera's order are."""
        return bool(self.pending) and self.pending[0].outcome is not None

    def take(self, ticket: _Ticket) -> None:
        self.counts["submitted"] += 1
        self.pending.append(ticket)
        if ticket.outcome is None:
            self.waiting.append(ticket)

    def drop_late(self) -> None:
        for ticket in [ticket for ticket in self.waiting if ticket.is_late()]:
            self.waiting.remove(ticket)
            ticket.decide("late")

    def drop_all(self) -> None:
        while self.waiting:
            self.waiting.popleft().decide("dropped")

    def fail_all(self, error: Exception) -> None:
        """What waits, and what is in the engine."""
        self.waiting.clear()
        for ticket in self.pending:
            if ticket.outcome is None:
                ticket.decide("failed", error=error)

    def take_decided(self) -> list[tuple[Future[Outcome], Outcome]]:
        """Futures that are to be fulfilled now, in order; they count as fulfilled."""
        decided = []
        while self.pending and (outcome := self.pending[0].outcome) is not None:
            decided.append((self.pending.popleft().future, outcome))
            self.counts[outcome.status] += 1
            if outcome.status == "inspected":
                self.counts["overran"] += not outcome.in_time
                self.latest_latency_ms = outcome.latency_ms
        return decided

    def counters(self) -> CameraCounters:
        counts = {name: self.counts[name] for name in ("submitted", *get_args(Status), "overran", "refused")}
        return CameraCounters(pending=len(self.pending), latest_latency_ms=self.latest_latency_ms, **counts)


def _check_cameras(cameras: Collection[str]) -> None:
    are_many = isinstance(cameras, Collection) and not isinstance(cameras, str)
    if not (are_many and all(isinstance(name, str) for name in cameras) and len(set(cameras)) == len(cameras) > 0):
        raise OptionError(f"cameras={cameras!r}", expected="a list of different names, for example ['left', 'right']")


def _milliseconds(name: str, value: float) -> float:
    most_ms = TIMEOUT_MAX * 1e3  # that a thread can wait: 292 years on Linux
    if not (is_finite(value) and 0 <= value <= most_ms):
        raise OptionError(f"{name}={value!r}", expected=f"a number of milliseconds from 0 to {most_ms:.0e}")
    return float(value)


def _fulfil(future: Future[Outcome], outcome: Outcome) -> None:
    try:
        future.set_result(outcome)
    except BaseException:  # SystemExit, CancelledError, of a callback; what else one raises concurrent.futures logs
        _logger.exception("a callback of camera %r tried to end the pool's thread", outcome.camera)


def _attempt(detector: Detector, frames: list[Any]) -> list[Inspection] | Exception:
    try:
        return detector.inspect_batch(frames)
    except Exception as error:  # noqa: BLE001  (whatever it is belongs to these frames, and the pool goes on)
        return error


def _release_variables(error: Exception) -> None:
    """An error keeps the variables of every call that it passed, and so the frames, for as long as it lives."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
