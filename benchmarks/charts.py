"""The charts of the latency page as inline SVG: classes that templates/latency.css colours, lengths in CSS px."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from .contenders import STAGES
from .distribution import PERCENTILES, Distribution
from .figures import ms
from .latency_report import ContenderLatency

_WIDTH = 1000
_LABEL_WIDTH, _NOTE_WIDTH = 150, 90
_BAR_HEIGHT, _ROW_HEIGHT = 20, 32
_HISTOGRAM_SIZE = (480, 150)  # width, height
_MAX_BINS = 60


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` lie between the positions `left` and `right`."""

    low: float
    high: float
    left: float
    right: float

    def at(self, value: float) -> float:
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def ticks(self) -> list[float]:
        """Round values, at least 60 px apart."""
        rough = (self.high - self.low) * 60 / (self.right - self.left)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * rough)
        return [number * step for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def stage_bars(contenders: Sequence[ContenderLatency]) -> str:
    """A bar per contender, as long as its mean, divided into its stages."""
    left, right, top = _LABEL_WIDTH, _WIDTH - _NOTE_WIDTH, 6
    bottom = top + len(contenders) * _ROW_HEIGHT
    axis = Axis(0.0, max(contender.total.mean for contender in contenders), left, right)
    marks = _ticks(axis, top, bottom)
    for row, contender in enumerate(contenders):
        y = top + row * _ROW_HEIGHT + (_ROW_HEIGHT - _BAR_HEIGHT) / 2
        marks.append(_text(left - 10, y + 14, contender.name, "label", "end"))
        marks += _stacked(contender, axis, y)
        mean = contender.total.mean
        marks.append(_text(axis.at(mean) + 8, y + 14, f"{ms(mean)} ms", "strong", "start"))
    return _svg(_WIDTH, bottom + 24, marks, "Mean time of each stage, a bar per contender")


def histogram(total: Distribution, name: str) -> str:
    """How often an inspection took how long, on an axis of its own, with the percentiles that are known."""
    width, height = _HISTOGRAM_SIZE
    left, right, top, bottom = 8, width - 8, 34, height - 24
    margin = max(0.04 * (total.max - total.min), 0.01 * total.max)
    axis = Axis(total.min - margin, total.max + margin, left, right)
    bins = min(_MAX_BINS, max(12, round(2 * math.sqrt(total.samples_ms.size))))
    counts, edges = np.histogram(total.samples_ms, bins, (axis.low, axis.high))
    marks = _ticks(axis, bottom, bottom)
    for number in np.flatnonzero(counts):
        x, end = axis.at(float(edges[number])), axis.at(float(edges[number + 1]))
        tall = float(counts[number] / counts.max()) * (bottom - top)
        marks.append(
            f'<rect class="engine" x="{x:.1f}" y="{bottom - tall:.1f}" width="{max(end - x - 1, 1):.1f}" '
            f'height="{tall:.1f}"/>'
        )
    marks += _percentile_lines(total, axis, top, bottom)
    return _svg(width, height, marks, f"Histogram of the inspections of {name}")


def timeline(arrivals_ms: Sequence[float], latencies_ms: Sequence[float], deadline_ms: float) -> str:
    """A mark per frame, how long it took over when it arrived; those behind the deadline in another colour."""
    arrivals_s = [arrival / 1e3 for arrival in arrivals_ms]
    described = "Latency of each frame over the time of its arrival, with the deadline"
    return _marks_over(arrivals_s, latencies_ms, deadline_ms, (_WIDTH, 234), described)


def sequence(total: Distribution, name: str) -> str:
    """A mark per inspection, how long it took over its number: whether durations drift, or jump now and then."""
    numbers = range(1, total.samples_ms.size + 1)
    described = f"Duration of each inspection of {name}, in their order"
    return _marks_over(numbers, total.samples_ms.tolist(), None, _HISTOGRAM_SIZE, described)


def _marks_over(
    positions: Sequence[float],
    latencies_ms: Sequence[float],
    deadline_ms: float | None,
    size: tuple[int, int],
    described: str,
) -> str:
    """Where several marks share a column of pixels, only the slowest of them is drawn."""
    left, right, top, bottom = 60, size[0] - 16, 10, size[1] - 24
    across = Axis(0.0, max(positions[-1], 1e-3), left, right)
    up = Axis(0.0, 1.08 * max(*latencies_ms, deadline_ms or 0.0), bottom, top)
    slowest: dict[int, float] = {}
    for position, latency in zip(positions, latencies_ms, strict=True):
        column = round(across.at(position))
        slowest[column] = max(slowest.get(column, 0.0), latency)
    marks = _ticks(across, bottom, bottom)
    for tick in Axis(up.low, up.high, 0, 3 * (bottom - top)).ticks():  # lines of text need less room than columns
        y = up.at(tick)
        marks.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(_text(left - 8, y + 4, f"{tick:.6g}", "tick", "end"))
    for x, latency in slowest.items():
        tone = "late" if deadline_ms is not None and latency > deadline_ms else "in-time"
        marks.append(f'<circle class="{tone}" cx="{x}" cy="{up.at(latency):.1f}" r="2"/>')
    if deadline_ms is not None:
        limit = up.at(deadline_ms)
        marks.append(f'<line class="deadline" x1="{left}" x2="{right}" y1="{limit:.1f}" y2="{limit:.1f}"/>')
    return _svg(size[0], size[1], marks, described)


def _stacked(contender: ContenderLatency, axis: Axis, y: float) -> list[str]:
    marks, before = [], 0.0
    for stage in STAGES:
        mean = contender.stages[stage].mean
        x, end = axis.at(before), axis.at(before + mean)
        marks.append(
            f'<rect class="{stage}" x="{x:.1f}" y="{y:.1f}" width="{end - x:.2f}" height="{_BAR_HEIGHT}">'
            f"<title>{stage} {ms(mean)} ms</title></rect>"
        )
        before += mean
    return marks


def _percentile_lines(total: Distribution, axis: Axis, top: float, bottom: float) -> list[str]:
    """A line at each known percentile; labels that would run into each other are set on two lines, then left out."""
    marks: list[str] = []
    label_ends = [-math.inf, -math.inf]  # of the two lines
    for name in PERCENTILES:
        value = total.percentile(name)
        if value is None:
            continue
        x = axis.at(value)
        line = next((k for k, end in enumerate(label_ends) if x - 32 > end), None)
        marks.append(f'<line class="percentile" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{bottom}"/>')
        if line is not None:
            label_ends[line] = x + 34
            middle = min(max(x, axis.left + 30), axis.right - 30)
            marks.append(_text(middle, top - 8 - 13 * line, f"{name} {ms(value)}", "strong", "middle"))
    return marks


def _ticks(axis: Axis, top: float, bottom: float) -> list[str]:
    marks = []
    for tick in axis.ticks():
        x = axis.at(tick)
        marks.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom + 4}"/>')
        marks.append(_text(x, bottom + 18, f"{tick:.6g}", "tick", "middle"))
    return marks


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, marks: Sequence[str], description: str) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{escape(description)}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f"{''.join(marks)}</svg>"
    )
