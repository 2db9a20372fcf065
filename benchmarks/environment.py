"""What a measurement ran on, and who else was using it. Linux says all of it; elsewhere the rest is None."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any, NamedTuple

from segrd_edge import __version__, machine
from segrd_edge.tensorrt import jetson, smi

_PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "openvino", "torch")
_VARIABLES = re.compile(r"(OMP|KMP|MKL|OPENBLAS|OV|ORT|CUDA|SEGRD)_")
_SETTLE_LIMIT_S = 0.3
_SETTLE_POLL_S = 0.002


def describe() -> dict[str, Any]:
    """Processor, cards, power, system, versions and settings that decide what a duration means; ready for JSON."""
    board = jetson.read()
    return {
        "cpu": machine.cpu(),
        "power": machine.power() | ({"Jetson mode": board.power_mode} if board and board.power_mode else {}),
        "gpus": [asdict(card) for card in smi.cards()],
        "memory_gib": machine.memory_gib(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "segrd_edge": __version__,
        "packages": {name: found for name in _PACKAGES if (found := machine.package_version(name)) is not None},
        "opencv_threads": _opencv_threads(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if _VARIABLES.match(name)},
    }


def load_average() -> list[float] | None:
    """Processes running or waiting, averaged over 1, 5 and 15 minutes."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


def rss_mib() -> float | None:
    """Resident memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def wait_until_idle() -> None:
    """Return once this process uses no processor time, or after 0.3 s.

    Engines keep their threads spinning after a run (ONNX Runtime for tens of ms), and whoever runs next would pay.
    """
    deadline = perf_counter() + _SETTLE_LIMIT_S
    while perf_counter() < deadline:
        wall, cpu = perf_counter(), process_time()
        sleep(_SETTLE_POLL_S)
        if process_time() - cpu < 0.1 * (perf_counter() - wall):
            return


class _Ticks(NamedTuple):
    busy_s: float  # of all processors, all programs
    total_s: float
    own_s: float  # processor time of this process


class OtherCpu:
    """The share of the machine's processor time that other programs took since the last call."""

    def __init__(self) -> None:
        self._last = _read_ticks()

    def since_last(self) -> float | None:
        """0 to 1; None where the system does not say, or too little time has passed for its clock ticks."""
        last, self._last = self._last, _read_ticks()
        if last is None or self._last is None:
            return None
        busy, total, own = (now - then for now, then in zip(self._last, last, strict=True))
        return min(max((busy - own) / total, 0.0), 1.0) if total > 0 else None


def _read_ticks() -> _Ticks | None:
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    busy = user + nice + system + irq + softirq + steal
    per_second = os.sysconf("SC_CLK_TCK")
    return _Ticks(busy / per_second, (busy + idle + iowait) / per_second, process_time())


def _opencv_threads() -> int:
    import cv2

    return int(cv2.getNumThreads())
