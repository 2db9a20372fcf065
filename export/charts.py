"""Small charts as inline SVG: pure functions from numbers to markup.

No colour stands here: marks carry the classes that templates/report.css paints for light, dark and paper. Lengths are
CSS px.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]
_Box = tuple[float, float, float, float]  # left, top, right, bottom

_LOGIT_TICKS = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1 - 1e-5, 1 - 1e-6)
_FINE_LOGIT_TICKS = sorted(
    [*_LOGIT_TICKS, *(f * 10.0**-k for k in (2, 3, 4) for f in (2, 5)), 0.2, 0.3, 0.7, 0.8, 0.95, 0.98, 0.995, 0.998]
)
_STRIP_HEIGHT, _STRIP_GAP, _STRIP_BINS = 26, 12, 72
_BAR_HEIGHT, _BAR_GAP, _GROUP_GAP = 13, 3, 11
_TICKS_APART = (36, 20)  # px between labelled ticks along x and along y
_LONGEST_LABEL = 19  # characters that fit in front of a strip
_LEAST_SPAN = 0.05  # of a scatter's y: less would make noise look like a difference
_CHARACTER_PX = 6.4  # width of one in a label
_RAW_POINTS = 60  # shorter curves are drawn as they are
_LOGIT_LIMIT = 1e-6  # scores closer to 0 or 1 than this are drawn at it


@dataclass(frozen=True)
class Axis:
    """How values become positions along an axis, 0 at `low` and 1 at `high`; what lies outside is drawn at the end."""

    low: float
    high: float
    kind: Literal["linear", "log", "logit"] = "linear"

    def at(self, values: npt.ArrayLike) -> _Floats:
        """Positions in [0, 1], of the shape of `values`."""
        low, high = self._stretch(np.array([self.low, self.high]))
        positions = (self._stretch(np.asarray(values, np.float64)) - low) / max(high - low, 1e-12)
        return np.asarray(np.clip(positions, 0, 1), np.float64)

    def ticks(self, length_px: float, apart_px: float) -> list[float]:
        """Round values along an axis of this length, far enough apart to be labelled."""
        if self.kind == "linear":
            choices = [_round_steps(self.low, self.high, max(3, length_px / apart_px / 1.4))]
        elif self.kind == "log":
            choices = [_round_decades(self.low, self.high, factors) for factors in ((1, 2, 5), (1, 3), (1,))]
        else:
            choices = [_FINE_LOGIT_TICKS, list(_LOGIT_TICKS)]
        for candidates in choices:
            inside = [value for value in candidates if self.low <= value <= self.high]
            if inside and np.diff(self.at(inside)).min(initial=1) * length_px >= apart_px:
                return inside
        return _apart(inside, self, length_px, apart_px)

    def _stretch(self, values: _Floats) -> _Floats:
        if self.kind == "log":
            return np.asarray(np.log(np.maximum(values, 1e-12)), np.float64)
        if self.kind == "logit":
            inside = np.clip(values, _LOGIT_LIMIT, 1 - _LOGIT_LIMIT)
            return np.asarray(np.log(inside / (1 - inside)), np.float64)
        return values


@dataclass(frozen=True)
class Strip:
    """One row of a `score_strips` chart."""

    label: str
    scores: Sequence[float]
    tone: str  # CSS class: "good" or "defect"
    note: str  # at the row's right end


@dataclass(frozen=True)
class Bar:
    """One bar of a `grouped_bars` chart."""

    label: str
    value: float
    reach: float  # a thin line goes on to here
    note: str  # behind the bar
    tone: str  # CSS class


@dataclass(frozen=True)
class Mark:
    """One mark of a `scatter` chart."""

    x: float
    y: float
    tone: str  # CSS classes
    title: str  # shown when it is pointed at


def score_axis(groups: Sequence[Sequence[float]], threshold: float) -> Axis:
    """The axis on which these groups of anomaly scores can be told apart: linear, or logit where one is squeezed."""
    scores = np.concatenate([np.asarray(group, np.float64) for group in groups] + [np.array([threshold])])
    low, high = float(scores.min()), float(scores.max())
    spreads = [float(np.ptp(np.quantile(group, (0.1, 0.9)))) for group in groups if len(group) > 1]
    if low >= 0 and high <= 1 and spreads and min(spreads) < 0.06 * (high - low):
        return Axis(*_widen_logits(max(low, _LOGIT_LIMIT), min(high, 1 - _LOGIT_LIMIT)), "logit")
    margin = 0.03 * max(high - low, 1e-3)
    return Axis(max(0.0, low - margin), high + margin)


def _widen_logits(low: float, high: float) -> tuple[float, float]:
    """Both ends moved apart by a share of the distance between their logits."""
    ends = np.log([low / (1 - low), high / (1 - high)])
    ends += np.array([-0.04, 0.04]) * max(float(np.ptp(ends)), 0.1)
    return float(1 / (1 + np.exp(-ends[0]))), float(1 / (1 + np.exp(-ends[1])))


def score_strips(
    strips: Sequence[Strip],
    threshold: float,
    threshold_label: str,
    axis: Axis,
    *,
    width: int = 500,
    label_width: int = 132,
    note_width: int = 78,
) -> str:
    """A histogram per row on one axis, each as tall as its own fullest bin, and the threshold through all of them."""
    left, right, top = label_width, width - note_width, 20
    bottom = top + len(strips) * (_STRIP_HEIGHT + _STRIP_GAP)
    x = left + float(axis.at(threshold)) * (right - left)
    rows = [_strip(strip, axis, left, right, top + k * (_STRIP_HEIGHT + _STRIP_GAP)) for k, strip in enumerate(strips)]
    marks = [
        *_x_axis(axis, left, right, top, bottom),
        *rows,
        f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{bottom}"/>',
        _text(min(max(x, left + 36), right - 48), top - 10, f"threshold {threshold_label}", "strong", "middle"),
        _text(right + 10, top - 10, "≥ threshold", "tick", "start"),
    ]
    return _svg(width, bottom + 20, marks, "Histograms of anomaly scores by group, with the threshold")


def _strip(strip: Strip, axis: Axis, left: float, right: float, top: float) -> str:
    base = top + _STRIP_HEIGHT
    counts, edges = np.histogram(axis.at(strip.scores), _STRIP_BINS, (0, 1))
    heights = counts / max(1, counts.max()) * (_STRIP_HEIGHT - 2)
    # A single image among many must still be seen.
    heights = np.where(counts > 0, np.maximum(heights, 2.0), 0.0)
    spans = left + edges * (right - left)
    bars = "".join(
        f"M{spans[k]:.1f} {base}V{base - heights[k]:.1f}H{spans[k + 1] - 0.6:.1f}V{base}Z"
        for k in np.flatnonzero(counts)
    )
    return (
        f'<line class="base" x1="{left}" x2="{right}" y1="{base}" y2="{base}"/>'
        f'<path class="{escape(strip.tone)}" d="{bars}"/>'
        + _text(left - 10, base - 8, _shortened(strip.label), "label", "end")
        + _text(right + 10, base - 8, strip.note, "note", "start")
    )


def curve(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    title: str,
    log: bool = False,
    noisy: bool = True,
    width: int = 500,
    height: int = 150,
    x_label: str = "",
) -> str:
    """One line; a long noisy one as its running median with the range around it as a band.

    `x` ascends; both have the same length, at least 1.
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    left, right, top, bottom = 48, width - 12, 22, height - (34 if x_label else 8)
    x_axis = Axis(float(xs[0]), float(xs[-1]))
    y_axis = _value_axis(ys, log)
    middle, low, high, at = _summarise(xs, ys) if noisy and xs.size > _RAW_POINTS else (ys, ys, ys, xs)
    points = left + x_axis.at(at) * (right - left)
    rows = [bottom - y_axis.at(values) * (bottom - top) for values in (middle, low, high)]
    band = _path(points, rows[2]) + "L" + _path(points[::-1], rows[1][::-1])[1:] + "Z" if low is not high else ""
    marks = [
        _text(left, 12, title, "strong", "start"),
        *_y_axis(y_axis, left, right, top, bottom),
        f'<path class="band" d="{band}"/><path class="curve" d="{_path(points, rows[0])}"/>',
    ]
    if x_label:
        marks += _x_axis(x_axis, left, right, bottom, bottom)
        marks.append(_text((left + right) / 2, height - 4, x_label, "note", "middle"))
    return _svg(width, height, marks, title)


def grouped_bars(
    groups: Sequence[tuple[str, Sequence[Bar]]], *, width: int = 720, label_width: int = 190, note_width: int = 190
) -> str:
    """Horizontal bars from zero, grouped under a label each. At least one bar."""
    left, right = label_width, width - note_width
    axis = Axis(0.0, max(bar.reach for _, bars in groups for bar in bars) or 1.0)
    marks: list[str] = []
    y = 6.0
    for label, bars in groups:
        marks.append(_text(0, y + _BAR_HEIGHT - 2.5, label, "strong", "start"))
        for bar in bars:
            marks.append(_bar(bar, axis, left, right, y))
            y += _BAR_HEIGHT + _BAR_GAP
        y += _GROUP_GAP
    return _svg(width, round(y - _GROUP_GAP + 4), marks, "Bars: " + ", ".join(label for label, _ in groups))


def _bar(bar: Bar, axis: Axis, left: float, right: float, y: float) -> str:
    end, reach = (left + float(axis.at(value)) * (right - left) for value in (bar.value, bar.reach))
    middle = y + _BAR_HEIGHT / 2
    return (
        f'<rect class="{escape(bar.tone)}" x="{left}" y="{y}" width="{max(end - left, 1):.1f}" height="{_BAR_HEIGHT}"/>'
        f'<path class="reach" d="M{end:.1f} {middle}H{reach:.1f}M{reach:.1f} {y + 3}V{y + _BAR_HEIGHT - 3}"/>'
        + _text(left - 8, y + _BAR_HEIGHT - 2.5, bar.label, "label", "end")
        + _text(reach + 8, y + _BAR_HEIGHT - 2.5, bar.note, "note", "start")
    )


def scatter(
    groups: Sequence[tuple[str, Sequence[Mark]]],
    *,
    title: str,
    x_label: str,
    limit: tuple[float, str] | None = None,
    width: int = 500,
    height: int = 300,
) -> str:
    """Marks over a logarithmic x, those of a group joined by a line, its label beside the last of them.

    At least one mark. `limit`: an x that a line is drawn at, and what stands beside it. y ends at 1.
    """
    left, right, top, bottom = 48, width - 16, 30, height - 36
    marks = [mark for _, members in groups for mark in members]
    xs = [mark.x for mark in marks] + ([limit[0]] if limit else [])
    ys = [mark.y for mark in marks]
    margin = 0.08 * max(max(ys) - min(ys), 0.02)
    highest = min(max(ys) + margin, 1.0)
    x_axis = Axis(min(xs) * 0.85, max(xs) * 1.25, "log")
    y_axis = Axis(min(min(ys) - margin, highest - _LEAST_SPAN), highest)

    def place(mark: Mark) -> tuple[float, float]:
        x, y = float(x_axis.at(mark.x)), float(y_axis.at(mark.y))
        return left + x * (right - left), bottom - y * (bottom - top)

    placed = [[place(mark) for mark in members] for _, members in groups]
    drawn = [_text(left, 12, title, "strong", "start")]
    drawn += [*_y_axis(y_axis, left, right, top, bottom), *_x_axis(x_axis, left, right, top, bottom)]
    taken = [(0.0, 0.0, float(width), top - 10.0)]
    taken += [(x - 6, y - 6, x + 6, y + 6) for points in placed for x, y in points]
    if limit:
        x = left + float(x_axis.at(limit[0])) * (right - left)
        taken.append((x - 2, top, x + 2, bottom))
        drawn.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{bottom}"/>')
        drawn.append(_text(min(max(x, left + 140), right - 44), top - 12, limit[1], "note", "middle"))
    for (_, members), points in zip(groups, placed, strict=True):
        drawn.append(f'<path class="link" d="{_path(*np.transpose(points))}"/>')
        taken += _along(points)
        drawn += [_circle(mark, *point) for mark, point in zip(members, points, strict=True)]
    for (label, _), points in zip(groups, placed, strict=True):
        box = _free_box(len(label) * _CHARACTER_PX, points[-1], taken, (left, right))
        taken.append(box)
        drawn.append(_text(box[0], box[3] - 3, label, "label", "start"))
    drawn.append(_text((left + right) / 2, height - 4, x_label, "note", "middle"))
    return _svg(width, height, drawn, title)


def agreement(
    points: Mapping[str, Sequence[tuple[float, float]]],
    thresholds: tuple[float, float],
    axis: Axis,
    *,
    x_label: str,
    y_label: str,
    side: int = 340,
) -> str:
    """Scores of the same images from two graphs, tone → (x, y), on one axis for both, with each one's threshold.

    What lies on the diagonal has not moved; what lies in the upper left or lower right field has another verdict.
    """
    left, right, top, bottom = 56, side - 12, 24, side - 44
    xs, ys = (left, right), (bottom, top)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (float(axis.at(value)) for value in (x, y))
        return xs[0] + across * (xs[1] - xs[0]), ys[0] + up * (ys[1] - ys[0])

    x, y = place(*thresholds)
    drawn = [
        *_y_axis(axis, left, right, top, bottom),
        *_x_axis(axis, left, right, top, bottom),
        f'<path class="base" d="M{left} {bottom}L{right} {top}"/>',
        f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>',
        f'<line class="threshold" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
    ]
    for tone, pairs in points.items():
        spots = [place(*pair) for pair in pairs]
        drawn += [f'<circle class="{escape(tone)}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in spots]
    drawn.append(_text(left, 12, y_label, "note", "start"))
    drawn.append(_text(right, side - 6, x_label, "note", "end"))
    return _svg(side, side, drawn, f"{y_label} over {x_label}, with both thresholds")


def _circle(mark: Mark, x: float, y: float) -> str:
    title = f"<title>{escape(mark.title)}</title>"
    return f'<circle class="{escape(mark.tone)}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>'


def _along(points: Sequence[tuple[float, float]]) -> list[_Box]:
    """Small boxes along the line through these points."""
    ends = pairwise(points)
    steps = [np.linspace(start, end, 24) for start, end in ends]
    return [(x - 1, y - 1, x + 1, y + 1) for piece in steps for x, y in piece.tolist()]


def _free_box(length: float, point: tuple[float, float], taken: Sequence[_Box], between: tuple[float, float]) -> _Box:
    """A place beside the point for a text of this length that covers as little as can be."""
    x, y = point
    boxes = [
        (start, y + down - 9, start + length, y + down + 5)
        for down in (2, -9, 13, -20, 24)
        for start in (x + 9, x - 9 - length)
        if between[0] <= start <= between[1] + 12 - length
    ] or [(x + 9, y - 7, x + 9 + length, y + 7)]
    return min(boxes, key=lambda box: sum(_overlap(box, other) for other in taken))


def _overlap(a: _Box, b: _Box) -> float:
    """Common area of two boxes."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(across, 0.0) * max(down, 0.0)


def _summarise(xs: _Floats, ys: _Floats) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Median, 10th and 90th percentile of consecutive groups, each with its neighbours, and where the groups lie."""
    parts = np.array_split(np.arange(xs.size), min(160, xs.size))
    windows = [ys[max(0, part[0] - part.size - 2) : part[-1] + part.size + 3] for part in parts]
    low, middle, high = np.array([np.quantile(window, (0.1, 0.5, 0.9)) for window in windows]).T
    return middle, low, high, np.array([xs[part].mean() for part in parts])


def _value_axis(ys: _Floats, log: bool) -> Axis:
    if log and ys.min() > 0:
        low, high = np.quantile(ys, (0.005, 0.995))
        return Axis(float(low) * 0.9, float(high) * 1.1, "log")
    return Axis(min(0.0, float(ys.min())), float(ys.max()) * 1.05 or 1.0)


def _x_axis(axis: Axis, left: float, right: float, top: float, bottom: float) -> list[str]:
    marks = []
    for tick in axis.ticks(right - left, _TICKS_APART[0]):
        x = left + float(axis.at(tick)) * (right - left)
        marks.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom + 4}"/>')
        marks.append(_text(x, bottom + 16, f"{tick:.7g}", "tick", "middle"))
    return marks


def _y_axis(axis: Axis, left: float, right: float, top: float, bottom: float) -> list[str]:
    marks = []
    for tick in axis.ticks(bottom - top, _TICKS_APART[1]):
        y = bottom - float(axis.at(tick)) * (bottom - top)
        marks.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(_text(left - 8, y + 3.5, f"{tick:.6g}", "tick", "end"))
    return marks


def _round_steps(low: float, high: float, count: float) -> list[float]:
    rough = max(high - low, 1e-12) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _round_decades(low: float, high: float, factors: tuple[int, ...]) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [factor * 10.0**power for power in powers for factor in factors]


def _apart(values: list[float], axis: Axis, length_px: float, apart_px: float) -> list[float]:
    """Every value that keeps its distance from the one kept before."""
    kept: list[float] = []
    for value in values:
        if not kept or float(axis.at(value) - axis.at(kept[-1])) * length_px >= apart_px:
            kept.append(value)
    return kept


def _shortened(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def _path(xs: _Floats, ys: _Floats) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, marks: Sequence[str], description: str) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{escape(description)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{"".join(marks)}</svg>'
    )
