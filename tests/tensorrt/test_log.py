from __future__ import annotations

import threading

import pytest

from segrd_edge.tensorrt import library
from segrd_edge.tensorrt.log import Log, recording

from ..fakes.machine import FakeGpu


def test_blocks_record_until_they_end(fake_gpu: FakeGpu) -> None:
    trt = library.load("tensorrt")
    severity = trt.ILogger.Severity
    with recording(trt) as (logger, outer):
        logger.log(severity.ERROR, "one")
        with recording(trt) as (same, inner):
            assert same is logger
            logger.log(severity.WARNING, "two")
        logger.log(severity.INTERNAL_ERROR, "three")
    logger.log(severity.ERROR, "four")
    assert (outer.errors(), outer.warnings()) == (["one", "three"], ["two"])
    assert (inner.errors(), inner.warnings()) == ([], ["two"])


def test_a_line_may_come_while_another_is_kept(fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when garbage is collected there, and an engine in it says goodbye."""
    trt = library.load("tensorrt")
    error = trt.ILogger.Severity.ERROR
    add = Log.add

    def collecting(log: Log, severity: str, text: str) -> None:
        if text == "first":
            logger.log(error, "meanwhile")
        add(log, severity, text)

    monkeypatch.setattr(Log, "add", collecting)
    block = recording(trt)
    logger, log = block.__enter__()  # left only if no thread holds the lock
    thread = threading.Thread(target=logger.log, args=(error, "first"), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive(), "the thread waits for itself"
    block.__exit__(None, None, None)
    assert log.errors() == ["meanwhile", "first"]
