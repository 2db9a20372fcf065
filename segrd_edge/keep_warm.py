"""Keeps an engine warm between the frames of a triggered line.

After an idle gap the first frame is the slow one: processors and GPUs lower their clocks, and caches go cold. So while
no frame comes, the engine runs now and then, on a blank image.
"""

from __future__ import annotations

import atexit
import logging
import weakref
from threading import TIMEOUT_MAX, Event, Lock, Thread

import numpy as np

from .engines.base import Engine
from .errors import SegrdError

_log = logging.getLogger("segrd_edge")


class KeepWarm:
    """Runs the engine in a thread of its own after every `interval_ms` without a frame. It never waits for the engine's
    lock, and holds it for one run at most, which is how long a frame that arrives just then waits.

    Between runs it does not hold the engine: where a Detector is dropped without a close, both go.

    Args:
        lock: the engine's; held during a run.
        interval_ms: above 0.
    """

    def __init__(self, lock: Lock, engine: Engine, interval_ms: float) -> None:
        self._lock, self._engine, self._interval_s = lock, weakref.ref(engine), min(interval_ms / 1e3, TIMEOUT_MAX)
        self._blank = np.zeros((*engine.input_hw, 3), np.uint8)
        self._frame_came = Event()
        self._closed = False
        self.runs = 0  # so far
        self._thread = Thread(target=self._loop, name="segrd-keep-warm", daemon=True)
        self._thread.start()
        # Where nobody closed it: a thread that is inside an engine when the interpreter goes aborts the process, and on
        # a GPU the engine is freed under it. What is registered last runs first, and so before the engine goes.
        atexit.register(self.close)

    def frame_came(self) -> None:
        """A frame ran: the wait starts again."""
        self._frame_came.set()

    def close(self) -> None:
        """Stop, after a run in progress. Not to be called with the lock held. A second call does nothing."""
        self._closed = True
        self._frame_came.set()
        self._thread.join()
        atexit.unregister(self.close)

    def _loop(self) -> None:
        while not self._closed and self._engine() is not None:
            if self._frame_came.wait(self._interval_s):
                self._frame_came.clear()
            elif self._lock.acquire(blocking=False):
                try:
                    self._run()
                except SegrdError as error:  # the next frame meets the same and raises it
                    _log.warning("keeping the engine warm has ended: %s", error)
                    break
                finally:
                    self._lock.release()
        if not self._closed:  # else `close` does it
            atexit.unregister(self.close)

    def _run(self) -> None:
        engine = self._engine()
        if engine is not None:
            engine.run(self._blank)
            self.runs += 1
