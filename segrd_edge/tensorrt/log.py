"""What TensorRT says while it works.

TensorRT reports a failure as None or False and explains it in its log alone, so every call that can fail runs inside
`recording`, and the error that it becomes carries the lines (`engine_error`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..errors import EngineError
from .advice import advise

# Names of ILogger's severities, worst first; the enumeration's values are their positions here.
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
LAYERS_HEADING = "Layers:"  # opens the verbose line with the compiled layers (see `layers`)
_ERROR_LINES = 4  # of the log, in an exception: enough for the cause and what it caused


class Line(NamedTuple):
    severity: str
    text: str


class Log:
    """Lines recorded so far: all but the verbose ones, which run to tens of thousands, and of these the layers."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.layers_text = ""
        self.interrupted = False  # Ctrl-C arrived while TensorRT was logging, which would swallow it

    def add(self, severity: str, text: str) -> None:
        if severity != "VERBOSE":
            self.lines.append(Line(severity, text))
        elif text.startswith(LAYERS_HEADING):
            self.layers_text = text

    def errors(self) -> list[str]:
        return [line.text for line in self.lines if line.severity in ("INTERNAL_ERROR", "ERROR")]

    def warnings(self) -> list[str]:
        return [line.text for line in self.lines if line.severity == "WARNING"]


def engine_error(what: str, log: Log, *, expected: str = "", fix: str = "") -> EngineError:
    """An error that carries the last error lines of the log, and for its fix the advice for them.

    Args:
        fix: what to do where no line is known.
    """
    errors = log.errors()
    # The last lines tell the cause; advice for warnings counts only where no error line is known.
    fixes = advise(errors) or advise(log.warnings()) or [fix or "segrd-doctor shows what this machine has"]
    return EngineError("\n  ".join([what, *errors[-_ERROR_LINES:]]), expected=expected, fix="; ".join(fixes))


@contextmanager
def recording(trt: Any) -> Iterator[tuple[Any, Log]]:
    """Record what a flavour says until the block ends.

    Yields:
        The `ILogger` to give to TensorRT's objects, and the log that fills. Blocks may overlap, in one thread or in
        several; each then records the lines of the others too, because TensorRT does not say whose a line is.
    """
    log = Log()
    with _lock:
        _open.append(log)
    try:
        yield _logger(trt), log
    finally:
        with _lock:
            _open.remove(log)


# Re-entrant: while a line is kept, Python may collect garbage, and an engine that goes then logs in the same thread.
_lock = threading.RLock()
_open: list[Log] = []
_loggers: dict[str, Any] = {}


def _logger(trt: Any) -> Any:
    """One logger per flavour for the whole process: TensorRT keeps a pointer to the first that it is given, also after
    the object that it was given to is gone."""
    with _lock:
        if trt.__name__ not in _loggers:
            _loggers[trt.__name__] = _make_logger(trt)
        return _loggers[trt.__name__]


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 needs it called by name

        def log(self, severity: Any, message: str) -> None:
            """Called from any thread. An exception that left here would be printed and forgotten."""
            name = SEVERITIES[int(severity)]
            try:
                with _lock:
                    for log in _open:
                        log.add(name, message)
            except KeyboardInterrupt:
                for log in _open:
                    log.interrupted = True

    return Logger()
