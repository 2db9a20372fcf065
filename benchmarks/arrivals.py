"""When frames arrive on a line: at a fixed period, as a trigger gives them, or as a file of recorded times says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segrd_edge.errors import OptionError

LEAST_FRAMES = 2
_MOST_FRAMES = 10_000_000  # more is a slip of the unit


@dataclass(frozen=True, eq=False)
class Arrivals:
    """Times at which frames arrive, in ms from the first, ascending; and where they come from."""

    times_ms: npt.NDArray[np.float64]
    source: str

    @classmethod
    def every(cls, period_ms: float, seconds: float) -> Arrivals:
        """A frame every `period_ms`, for so many seconds.

        Raises:
            OptionError: a period or a time that cannot be, fewer than two frames, or more than ten million.
        """
        if not 0 < period_ms < 86_400_000 or not 0 < seconds < 86_400:
            raise OptionError(
                f"a frame every {period_ms:g} ms for {seconds:g} s", expected="both more than 0 and less than a day"
            )
        if seconds * 1e3 / period_ms > _MOST_FRAMES:
            raise OptionError(
                f"a frame every {period_ms:g} ms for {seconds:g} s", expected=f"at most {_MOST_FRAMES:,} frames"
            )
        times = np.arange(0.0, seconds * 1e3, period_ms)
        if times.size < LEAST_FRAMES:
            raise OptionError(
                f"{times.size} frame in {seconds:g} s, one every {period_ms:g} ms",
                expected=f"at least {LEAST_FRAMES}",
                fix=f"--seconds {LEAST_FRAMES * period_ms / 1e3:g} or more",
            )
        return cls(times, f"a frame every {period_ms:g} ms")

    @classmethod
    def read(cls, path: str | Path) -> Arrivals:
        """From a text file: a time in ms per line, ascending; blank lines and what follows a # do not count.

        Raises:
            OptionError: the file cannot be read, a line is no number, or a time is before the one above it.
        """
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"{path} cannot be read: {error}", expected="a text file of arrival times") from error
        times: list[float] = []
        for number, line in enumerate(lines, 1):
            if text := line.partition("#")[0].strip():
                times.append(_time(path, number, text, times))
        if len(times) < LEAST_FRAMES:
            raise OptionError(f"{path}: {len(times)} arrival times", expected=f"at least {LEAST_FRAMES}, one per line")
        return cls(np.array(times) - times[0], path.name)

    def until(self, seconds: float | None) -> Arrivals:
        """Those of the first so many seconds, at least two; None is all.

        Raises:
            OptionError: no time at all.
        """
        if seconds is None:
            return self
        if not seconds > 0:
            raise OptionError(f"the arrivals of {seconds:g} s", expected="more than 0")
        kept = max(int(np.searchsorted(self.times_ms, seconds * 1e3)), LEAST_FRAMES)
        return Arrivals(self.times_ms[:kept], self.source)

    @property
    def period_ms(self) -> float:
        """Median time between two frames."""
        return float(np.median(np.diff(self.times_ms)))


def _time(path: Path, number: int, text: str, before: list[float]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise OptionError(f"{path}, line {number}: {text!r}", expected="a time in ms, for example 1250.5")
    if before and value < before[-1]:
        raise OptionError(
            f"{path}, line {number}: {value:g} ms comes after {before[-1]:g} ms", expected="times that ascend"
        )
    return value
