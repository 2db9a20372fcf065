"""A build's progress, and its end when the user presses Ctrl-C.

TensorRT prints an exception that a callback raises and goes on. So the first one is kept here, cancels the build at its
next step, and is raised again when the builder has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .log import Log

# Called with a phase's name, its finished steps and how many it has. Phases are nested and overlap. An exception that
# it raises cancels the build and comes out of `build`.
Progress = Callable[[str, int, int], None]


class Reporter:
    """Passes a builder's phases on to a callback."""

    def __init__(self, progress: Progress | None, log: Log) -> None:
        self._progress, self._log = progress, log
        self._steps: dict[str, int] = {}
        self._error: BaseException | None = None

    def started(self, phase: str, steps: int) -> None:
        self._steps[phase] = steps
        self._report(phase, 0)

    def stepped(self, phase: str, done: int) -> bool:
        """Returns whether the build is to go on."""
        self._report(phase, done)
        return self._error is None and not self._log.interrupted

    def finished(self, phase: str) -> None:
        self._report(phase, self._steps[phase])

    def reraise(self) -> None:
        """Raise what a callback raised, once the builder has returned."""
        if self._error is not None:
            raise self._error
        if self._log.interrupted:
            raise KeyboardInterrupt

    def _report(self, phase: str, done: int) -> None:
        try:
            if self._progress is not None and self._error is None:
                self._progress(phase, done, self._steps[phase])
        except BaseException as error:  # noqa: BLE001  # Ctrl-C as well: reraise() raises it
            self._error = error


def make_monitor(trt: Any, reporter: Reporter) -> Any:
    """An IProgressMonitor that reports to `reporter`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 needs it called by name

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            reporter.started(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return reporter.stepped(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            reporter.finished(phase_name)

    return Monitor()
