"""Clocks, and what to say where the machine could be faster or steadier than it is set to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..machine import read_text


class Finding(NamedTuple):
    """Something that costs time on this machine, and what mends it."""

    what: str
    fix: str


@dataclass(frozen=True)
class Clock:
    """One clock as the kernel shows it; None where it does not."""

    name: str
    now_mhz: int | None = None
    least_mhz: int | None = None
    most_mhz: int | None = None
    governor: str | None = None

    @property
    def is_locked(self) -> bool | None:
        """Whether it stays at its highest, idle or not; None where the kernel does not say."""
        if self.governor == "performance":
            return True
        if self.least_mhz is None or self.most_mhz is None:
            return None
        return self.least_mhz == self.most_mhz

    def __str__(self) -> str:
        now = "?" if self.now_mhz is None else self.now_mhz
        most = "" if self.most_mhz is None else f" of {self.most_mhz}"
        state = {True: ", locked", False: ", not locked", None: ""}[self.is_locked]
        return f"{self.name} {now}{most} MHz{f' ({self.governor})' if self.governor else ''}{state}"


def gpu_clock(root: Path) -> Clock | None:
    """The clock of a Jetson's GPU, from below `root`/sys/class/devfreq; None where there is none."""
    folder = root / "sys/class/devfreq"
    # Thor has one clock for the cores and one for video; Orin has 17000000.gpu, 17000000.ga10b before JetPack 6.
    for pattern in ("gpu-gpc-*", "*.gpu", "*.ga10b", "*gpu*"):
        for path in sorted(folder.glob(pattern)):
            return _clock("GPU", path, ("cur_freq", "min_freq", "max_freq", "governor"), per_mhz=1_000_000)
    return None


def cpu_clock(root: Path) -> Clock | None:
    """The slowest of the processor's clocks (a Jetson has one for each cluster); None where there is none."""
    names = ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq", "scaling_governor")
    paths = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    clocks = [_clock("CPU", path, names, per_mhz=1_000) for path in paths]
    # One that is not locked tells more than one that is.
    return min(clocks, key=lambda clock: (clock.is_locked is True, clock.now_mhz or 0), default=None)


def _clock(name: str, folder: Path, files: tuple[str, str, str, str], *, per_mhz: int) -> Clock:
    now, least, most = (_mhz(folder / file, per_mhz) for file in files[:3])
    return Clock(name, now, least, most, read_text(folder / files[3]))


def _mhz(path: Path, per_mhz: int) -> int | None:
    text = read_text(path) or ""
    return round(int(text) / per_mhz) if text.isdecimal() else None
