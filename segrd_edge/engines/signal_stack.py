"""Keeps the stack on which this thread handles signals as it was.

OpenVINO 2026.4.1 gives the thread that compiles a graph such a stack and, when the graph goes, restores the one that it
found. Two graphs that go in the order in which they came leave the thread with a stack whose memory is gone, and the
next signal, Ctrl-C for one, ends the process with a segmentation fault. Python's own handler runs on that stack.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2) on Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Whatever the body does to this thread's signal stack is undone. Does nothing on other systems than Linux."""
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    before = _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
