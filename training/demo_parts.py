"""A small renderer of machined parts, so that `make demo` needs no photographs and no download.

The part is a turned aluminium flange with six countersunk bolt holes, engraved ticks and a printed plastic cap, lying
on a conveyor belt. Every frame has its own pose, light, turning marks, exposure and noise; a defective frame has one
scratch, dent, stain or missing print, from obvious to faint, and an exact mask. `render_part` draws scene, defect
and camera noise from separate generators, so the same `rng` gives the same photograph with and without a defect.

Lengths are fractions of the frame's side unless a name says px. Angles are radians, clockwise from the frame's x
axis. Until it is photographed, a surface is 3×h×w float32 grey levels, BGR: planes first, because a coverage (h×w, in
[0, 1]) then applies to all of them without a slow inner axis of three.

    python -m segrd_edge.training.demo_parts photos/demo
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import OptionError

RIM, HOLE_CIRCLE, TICKS, CAP = 0.415, 0.325, 0.245, 0.205  # radii, outside in
HOLE, COUNTERSINK = 0.026, 0.040
HOLES = 6
_INK_BGR = (214.0, 226.0, 229.0)
_MASK_LEVEL = 0.3  # a pixel is defective where the defect covers at least this much of it

_Floats = npt.NDArray[np.float32]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _View:
    """How the camera sees the part: h×w float32 fields, and the light."""

    size_px: int
    centre_xy: tuple[float, float]
    angle: float  # of the part
    light: float  # angle from which most light comes
    radius: _Floats  # from the part's centre
    bearing: _Floats  # angle around the part's centre
    toward_light: _Floats  # cosine of the bearing to the light: what a bevel facing outwards sees

    @classmethod
    def sample(cls, rng: np.random.Generator, size_px: int) -> _View:
        centre_xy = 0.5 + rng.uniform(-0.012, 0.012), 0.5 + rng.uniform(-0.012, 0.012)
        angle, light = rng.uniform(-0.05, 0.05), rng.normal(-2.18, 0.12)
        axis = (np.arange(size_px, dtype=np.float32) + np.float32(0.5)) / size_px
        x, y = np.meshgrid(axis - np.float32(centre_xy[0]), axis - np.float32(centre_xy[1]))
        radius, bearing = cv2.cartToPolar(x, y)
        toward_light = np.cos(bearing - np.float32(light))
        return cls(size_px, centre_xy, angle, light, radius, bearing, toward_light)

    def edge(self, distance: _Floats) -> _Floats:
        """Signed distance (positive inside) → coverage in [0, 1], antialiased over one pixel."""
        return np.asarray(np.clip(distance * np.float32(self.size_px) + np.float32(0.5), 0, 1), np.float32)

    def ring(self, radius: float, width: float) -> _Floats:
        return self.edge(np.float32(width / 2) - np.abs(self.radius - np.float32(radius)))

    def folded(self, repeats: int) -> _Floats:
        """Bearing from the nearest of `repeats` features around the part."""
        sectors = (self.bearing - np.float32(self.angle)) * np.float32(repeats / (2 * np.pi))
        sectors -= np.floor(sectors) + np.float32(0.5)
        return np.asarray(sectors * np.float32(2 * np.pi / repeats), np.float32)

    def point_px(self, radius: float, bearing: float) -> npt.NDArray[np.float64]:
        """Frame coordinates of a point that turns with the part."""
        turned = bearing + self.angle
        offset = radius * np.array([np.cos(turned), np.sin(turned)])
        return (np.array(self.centre_xy) + offset) * self.size_px

    def to_part(self, scale: float) -> npt.NDArray[np.float64]:
        """2×3 affine matrix: a canvas centred on the part, `scale` times finer than the frame → frame pixels."""
        cos, sin = np.cos(self.angle) / scale, np.sin(self.angle) / scale
        turn = np.array([[cos, -sin], [sin, cos]])
        middle = np.full(2, self.size_px * scale / 2)
        centre_px = np.array(self.centre_xy) * self.size_px
        return np.column_stack([turn, centre_px - 0.5 - turn @ (middle - 0.5)])


@dataclass(frozen=True)
class _Part:
    """A rendered part before the camera: what the defects work on."""

    view: _View
    bare: _Floats  # surface without print
    ink: _Floats  # h×w coverage of the print
    solid: _Floats  # h×w coverage of the part, without its holes: where a defect can be

    def printed(self, ink: _Floats) -> _Floats:
        return _blend(self.bare, _plain(_INK_BGR), ink)


def render_part(
    rng: np.random.Generator, size_px: int = 384, defect: str | None = None
) -> tuple[npt.NDArray[np.uint8], _Mask]:
    """Photograph one part.

    Args:
        rng: decides everything; three numbers are drawn from it.
        size_px: side of the frame, at least 64.
        defect: a key of `DEFECTS`, or None for a good part.

    Returns:
        The frame (uint8 H×W×3 BGR) and its mask (bool H×W, True where defective).

    Raises:
        OptionError: an unknown defect, or a frame too small to show one.
    """
    if defect is not None and defect not in DEFECTS:
        raise OptionError(f"unknown defect {defect!r}", expected=f"one of {', '.join(DEFECTS)}")
    if size_px < 64:
        raise OptionError(f"frames of {size_px} pixels", expected="a side of at least 64 pixels")
    scene, flaw, camera = (np.random.default_rng(seed) for seed in rng.integers(2**63, size=3))
    part = _draw_part(scene, size_px)
    if defect is None:
        return _photograph(part.printed(part.ink), part.view, camera), np.zeros((size_px, size_px), bool)
    surface, coverage = DEFECTS[defect](flaw, part)
    surface = _blend(part.printed(part.ink), surface, part.solid)
    mask = (coverage * part.solid >= _MASK_LEVEL).astype(np.uint8)
    mask = cv2.dilate(mask, np.ones((3, 3), np.uint8))  # the lens spreads it over the neighbours
    return _photograph(surface, part.view, camera), mask > 0


def write_demo_dataset(
    folder: str | Path,
    *,
    train_good: int = 150,
    test_good: int = 20,
    per_defect: int = 8,
    seed: int = 0,
    size_px: int = 384,
) -> Path:
    """Write a data set in the layout of MVTec AD, and `frames/` to try the detector on; returns the folder.

    `frames/` holds four good parts and two of each defect, shuffled; their names do not tell which. Each frame depends
    on the seed, its folder and its number alone, so a larger set contains the smaller one. Files of the same names
    are overwritten, others are left.
    """
    root = Path(folder)
    groups: list[tuple[str, str | None, int]] = [("train/good", None, train_good), ("test/good", None, test_good)]
    groups += [(f"test/{defect}", defect, per_defect) for defect in DEFECTS]
    for group, (name, defect, count) in enumerate(groups):
        for index in range(count):
            frame, mask = render_part(np.random.default_rng([seed, group, index]), size_px, defect)
            _write_png(root / name / f"{index:03}.png", frame)
            if defect is not None:
                mask_path = root / "ground_truth" / defect / f"{index:03}_mask.png"
                _write_png(mask_path, mask.astype(np.uint8) * 255)
    shown: list[str | None] = [*DEFECTS, *DEFECTS, None, None, None, None]
    order = np.random.default_rng([seed, len(groups)]).permutation(len(shown))
    for index, choice in enumerate(order):
        frame, _ = render_part(np.random.default_rng([seed, len(groups), index]), size_px, shown[choice])
        _write_png(root / "frames" / f"{index:03}.png", frame)
    return root


def _draw_part(rng: np.random.Generator, size_px: int) -> _Part:
    view = _View.sample(rng, size_px)
    # One of each is enough, as the three materials never share a pixel.
    grain, lumps = _grain(rng, size_px), _noise(rng, size_px, 6)
    bare = _belt(rng, view, grain, lumps)
    disc = view.edge(np.float32(RIM) - view.radius)
    bare = _blend(bare, _flange(rng, view, grain, lumps), disc)
    bare, bores = _drill_holes(view, bare)
    bare = _blend(bare, _cap(rng, view, grain, lumps), view.edge(np.float32(CAP) - view.radius))
    density = 0.86 + 0.06 * _noise(rng, size_px, 12)
    shift_px = rng.normal(0, 0.0015, 2) * size_px
    return _Part(view, bare, np.clip(_print(view, shift_px) * density, 0, 1), disc - bores)


def _belt(rng: np.random.Generator, view: _View, grain: _Floats, lumps: _Floats) -> _Floats:
    """Matte woven belt, blotchy and dusty, with the shadow of the part."""
    size = view.size_px
    weave_px = max(3.0, size / 110)
    axis = np.arange(size, dtype=np.float32) * np.float32(2 * np.pi / weave_px)
    phase = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    weave = np.sin(axis + phase[0])[None, :] * np.sin(axis + phase[1])[:, None]
    grey = 66 + 4 * weave + 4 * lumps + 5 * grain + 3 * _noise(rng, size, 40)
    offset = 0.028 * np.array([np.cos(view.light), np.sin(view.light)], np.float32)
    falling = view.radius + offset[0] * np.cos(view.bearing) + offset[1] * np.sin(view.bearing)
    shadow = 1 / (1 + np.exp((falling - RIM) * 55))
    return _tint(grey * (1 - 0.62 * shadow), (0.97, 1.04, 0.96))


def _flange(rng: np.random.Generator, view: _View, grain: _Floats, lumps: _Floats) -> _Floats:
    """Turned aluminium: concentric marks, and the bow-tie sheen that they throw under a lamp."""
    sheen = 0.75 * _lobe(view, rng.normal(0.1, 0.08), 3) + 0.45 * _lobe(view, rng.normal(1.25, 0.1), 8)
    grooves = np.clip(view.radius * 2 * 700, 0, 699)
    profile = cv2.GaussianBlur(rng.normal(0, 1, (700, 1)).astype(np.float32), (1, 5), 1.0)[:, 0]
    marks = profile[grooves.astype(np.intp)] * (5.5 + 9 * sheen)
    grey = 128 + 62 * sheen + marks + 2.5 * grain + 4 * lumps
    toward_light = view.toward_light
    grey += 70 * view.ring(RIM - 0.006, 0.012) * toward_light  # outer chamfer
    grey -= 34 * view.ring(0.277, 0.007) * toward_light  # a groove: its far wall faces the light
    grey += 34 * view.ring(0.284, 0.007) * toward_light
    beside_tick = np.abs(view.folded(72)) * view.radius
    grey -= 62 * view.edge(np.float32(0.0022) - beside_tick) * view.ring(TICKS, 0.02)  # engraved
    grey *= 1 - 0.45 * np.exp(-np.maximum(view.radius - np.float32(CAP), 0) * 70)  # contact shadow of the cap
    return _tint(grey, (1.02, 1.0, 0.985))


def _drill_holes(view: _View, surface: _Floats) -> tuple[_Floats, _Floats]:
    """The surface with its countersunk holes, and how much of each pixel the bores take."""
    folded = view.folded(HOLES)
    along, across = cv2.polarToCart(view.radius, folded)
    along -= np.float32(HOLE_CIRCLE)
    distance = cv2.magnitude(along, across)
    # A cone's wall faces the hole's axis, so that it is bright on the side away from the light.
    from_light = view.bearing - folded - np.float32(view.light)
    lit = (across * np.sin(from_light) - along * np.cos(from_light)) / (distance + np.float32(1e-6))
    cone = view.edge(np.float32(COUNTERSINK) - distance)
    bores = view.edge(np.float32(HOLE) - distance)
    walls = surface + cone * (18 + 52 * lit)
    return _blend(walls, _tint(30 + 14 * lit, (1.0, 1.0, 0.98)), bores), bores


def _cap(rng: np.random.Generator, view: _View, grain: _Floats, lumps: _Floats) -> _Floats:
    """Moulded plastic: fine grain, a soft highlight, a bevelled edge."""
    grey = 52 + 3.2 * grain + 2 * lumps
    spot = view.radius**2 + np.float32(0.11**2) - 2 * 0.11 * view.radius * view.toward_light
    grey += rng.uniform(30, 44) * np.exp(-spot / (2 * 0.09**2))
    grey += 58 * view.ring(CAP - 0.007, 0.012) * np.clip(view.toward_light, -0.35, 1)
    grey -= 14 * view.ring(CAP - 0.020, 0.006) * view.toward_light
    return _tint(grey, (1.28, 0.98, 0.80))


@lru_cache(maxsize=4)
def _artwork(side_px: int) -> npt.NDArray[np.uint8]:
    """The print, uint8 side×side, 255 is ink; the part's centre is the canvas centre and its frame the canvas."""
    art = np.zeros((side_px, side_px), np.uint8)

    def at(x: float, y: float) -> tuple[int, int]:
        return round((0.5 + x) * side_px), round((0.5 + y) * side_px)

    def text(words: str, x: float, y: float, width: float, weight: float) -> None:
        font, thick = cv2.FONT_HERSHEY_DUPLEX, max(1, round(weight * side_px))
        # By width, because the fonts of OpenCV 4 and 5 differ.
        scale = width * side_px / cv2.getTextSize(words, font, 10, 1)[0][0] * 10
        cv2.putText(art, words, at(x, y), font, scale, 255, thick, cv2.LINE_AA)

    text("SG-40", -0.118, -0.040, 0.225, 0.0072)
    text("24V  IP67", -0.118, 0.012, 0.170, 0.0042)
    text("LOT 7C 0418", -0.118, 0.136, 0.150, 0.0030)
    cv2.line(art, at(-0.118, 0.030), at(0.118, 0.030), 255, max(1, round(0.004 * side_px)), cv2.LINE_AA)
    module = 0.0062
    code = np.random.default_rng(40).random((10, 10)) > 0.5
    code[:, 0] = code[-1, :] = True
    for row, column in np.argwhere(code):
        x, y = 0.052 + module * column, 0.046 + module * row
        cv2.rectangle(art, at(x, y), at(x + module, y + module), 255, cv2.FILLED)
    arrow = np.array([at(-0.100, 0.102), at(-0.066, 0.102), at(-0.083, 0.052)], np.int32)
    cv2.fillPoly(art, [arrow], 255, cv2.LINE_AA)
    cv2.circle(art, at(-0.018, 0.077), round(0.024 * side_px), 255, max(1, round(0.006 * side_px)), cv2.LINE_AA)
    cv2.line(art, at(-0.018, 0.060), at(-0.018, 0.094), 255, max(1, round(0.006 * side_px)), cv2.LINE_AA)
    art.flags.writeable = False
    return art


def _print(view: _View, shift_px: npt.NDArray[np.float64]) -> _Floats:
    """Coverage of the print in the frame; `shift_px` is its registration error."""
    scale = 2
    matrix = view.to_part(scale)
    matrix[:, 2] += shift_px
    size = (view.size_px, view.size_px)
    fine = cv2.GaussianBlur(_artwork(view.size_px * scale), (0, 0), 0.8)
    inked = cv2.warpAffine(fine, matrix, size, flags=cv2.INTER_LINEAR)
    return np.asarray(inked / np.float32(255), np.float32)


def _place_px(rng: np.random.Generator, view: _View) -> npt.NDArray[np.float64]:
    """A point of the part, uniform over its area but for the holes."""
    radius = 0.39 * np.sqrt(rng.random())
    near_holes = abs(radius - HOLE_CIRCLE) < COUNTERSINK + 0.02
    sectors = rng.integers(HOLES) + rng.uniform(-0.5, 0.5) * (0.5 if near_holes else 1.0)  # 0 is between holes
    return view.point_px(radius, sectors * 2 * np.pi / HOLES)


def _scratch(rng: np.random.Generator, part: _Part) -> tuple[_Floats, _Floats]:
    """A thin curved furrow: a bright lip and a dark one, fading at its ends."""
    size, view = part.view.size_px, part.view
    middle = _place_px(rng, view)
    heading, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.5)
    length = size * rng.uniform(0.10, 0.30)
    t = np.linspace(0, 1, 40)
    headings = heading + bend * t
    steps = np.column_stack([np.cos(headings), np.sin(headings)]) * length / t.size
    path = np.cumsum(steps, axis=0)
    points = middle + path - path.mean(axis=0)
    pressure = np.sin(np.pi * np.clip(t, 0.04, 0.96)) ** 0.5 * np.clip(1 + 0.25 * rng.normal(size=t.size), 0.5, 1.2)
    furrow = np.zeros((size, size), np.uint8)
    width_px = max(1, round(size / 384 * rng.uniform(1.5, 3.5)))
    for a, b, press in zip(np.rint(points[:-1] * 16), np.rint(points[1:] * 16), pressure[:-1], strict=True):
        level = min(255, round(210 * press))
        cv2.line(furrow, _ints(a), _ints(b), level, width_px, cv2.LINE_AA, shift=4)
    bright = furrow.astype(np.float32) / np.float32(255)
    away = -np.sign([np.cos(view.light), np.sin(view.light)]).astype(int)
    dark = np.roll(bright, (int(away[1]), int(away[0])), (0, 1))
    contrast = rng.uniform(45, 120)
    surface = part.printed(part.ink) + contrast * (bright - 0.55 * dark * (1 - bright))
    return surface, 2 * np.maximum(bright, np.float32(0.7) * dark)


def _dent(rng: np.random.Generator, part: _Part) -> tuple[_Floats, _Floats]:
    """A shallow pit: its wall is dark where it turns from the light, and bright where it faces it."""
    view = part.view
    along, across = _local(view, _place_px(rng, view), view.light)
    radius, flatness = np.float32(rng.uniform(0.035, 0.075)), np.float32(rng.uniform(1.0, 1.4))
    along, across = along / radius, across * flatness / radius
    inside = np.maximum(1 - along**2 - across**2, 0)
    steepness = np.float32(rng.uniform(0.45, 1.0))
    shade = 1 - steepness * inside**2 * (np.float32(2.6) * along + np.float32(0.2))
    # Plastic shows less of it than metal, and part of it as a gloss that does not scale with its colour.
    surface = part.printed(part.ink) * shade + 30 * (shade - 1)
    return surface, 3 * inside


def _stain(rng: np.random.Generator, part: _Part) -> tuple[_Floats, _Floats]:
    """An irregular dried blot, darker at its rim; oil brown or chalky white."""
    view = part.view
    along, across = _local(view, _place_px(rng, view), rng.uniform(0, np.pi))
    radius, flatness = np.float32(rng.uniform(0.035, 0.08)), np.float32(rng.uniform(1.0, 1.7))
    distance = cv2.magnitude(along, across * flatness) / radius
    level = 1 - distance + 0.3 * _noise(rng, view.size_px, 22) + 0.16 * _noise(rng, view.size_px, 60)
    coverage = np.clip(level * 5, 0, 1) * np.clip(2.2 - distance, 0, 1)  # no islands far off
    film = coverage * (0.75 + 0.25 * np.exp(-((level - 0.2) ** 2) * 40))
    colour = _plain((30, 48, 64) if rng.random() < 0.65 else (212, 216, 216))
    return _blend(part.printed(part.ink), colour, film * np.float32(rng.uniform(0.4, 0.85))), coverage


def _missing_print(rng: np.random.Generator, part: _Part) -> tuple[_Floats, _Floats]:
    """Ink that did not take, or was wiped off, in a patch of the print."""
    view = part.view
    inked = np.argwhere(part.ink > 0.5)
    row, column = inked[rng.integers(len(inked))]
    along, across = _local(view, np.array([column, row], np.float64), rng.uniform(0, np.pi))
    radius, flatness = np.float32(rng.uniform(0.04, 0.09)), np.float32(rng.uniform(1.0, 2.0))
    distance = cv2.magnitude(along, across * flatness) / radius
    patch = np.clip((1 - distance + 0.2 * _noise(rng, view.size_px, 30)) * 6, 0, 1)
    lost = part.ink * patch * np.float32(rng.uniform(0.6, 1.0))
    return part.printed(part.ink - lost), 3 * lost


_Defect = Callable[[np.random.Generator, _Part], tuple[_Floats, _Floats]]
# name → function(rng, part) giving the defective surface and the defect's coverage
DEFECTS: dict[str, _Defect] = {
    "dent": _dent,
    "missing_print": _missing_print,
    "scratch": _scratch,
    "stain": _stain,
}


def _photograph(surface: _Floats, view: _View, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Lens, uneven light, exposure, white balance, shot and read noise, 8 bits."""
    size = view.size_px
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    tilt_x, tilt_y = rng.normal(0, 0.05), rng.normal(0, 0.05)
    vignette = np.float32(0.09) * (axis[None, :] ** 2 + axis[:, None] ** 2)
    light = 1 + tilt_x * axis[None, :] + tilt_y * axis[:, None] - vignette
    exposure = rng.normal(1.04, 0.035)
    channels = []
    for plane in surface:
        sharp = cv2.GaussianBlur(plane, (0, 0), 0.62 * max(1.0, size / 384))
        signal = np.clip(sharp * light * np.float32(exposure * rng.normal(1, 0.008)), 0, 255)
        noise = rng.standard_normal(signal.shape, np.float32) * np.sqrt(0.9 + 0.025 * signal)
        channels.append(np.clip(np.rint(signal + noise), 0, 255).astype(np.uint8))
    return np.asarray(cv2.merge(channels), np.uint8)


def _lobe(view: _View, turn: float, sharpness: int) -> _Floats:
    """Reflection of a lamp from circular marks: two opposite rays, `turn` beside the light, in (0, 1]."""
    double = 2 * (view.bearing - np.float32(view.light + turn))
    return np.asarray(np.exp(np.float32(sharpness) * (np.cos(double) - 1)), np.float32)


def _local(view: _View, centre_px: npt.NDArray[np.float64], axis: float) -> tuple[_Floats, _Floats]:
    """Coordinates along and across `axis` around a point of the frame."""
    grid = np.arange(view.size_px, dtype=np.float32)
    x = (grid - np.float32(centre_px[0]))[None, :] / view.size_px
    y = (grid - np.float32(centre_px[1]))[:, None] / view.size_px
    cos, sin = np.float32(np.cos(axis)), np.float32(np.sin(axis))
    return x * cos + y * sin, y * cos - x * sin


def _noise(rng: np.random.Generator, size_px: int, cells: int) -> _Floats:
    """Smooth isotropic noise, standard deviation near 1, with about `cells` lumps per side."""
    # Blurred before it is enlarged: interpolated white noise would show its grid.
    coarse = rng.standard_normal((2 * cells + 4, 2 * cells + 4), np.float32)
    coarse = cv2.GaussianBlur(coarse, (0, 0), 1.0)[2:-2, 2:-2] * np.float32(3.5)  # the blur leaves 1/(2 √π)
    return np.asarray(cv2.resize(coarse, (size_px, size_px), interpolation=cv2.INTER_CUBIC), np.float32)


def _grain(rng: np.random.Generator, size_px: int) -> _Floats:
    """Fine noise, standard deviation near 1."""
    fine = rng.standard_normal((size_px, size_px), np.float32)
    return np.asarray(cv2.GaussianBlur(fine, (0, 0), 0.8) * np.float32(2.6), np.float32)


def _tint(grey: _Floats, bgr: tuple[float, float, float]) -> _Floats:
    return grey * _plain(bgr)


def _plain(bgr: tuple[float, float, float]) -> _Floats:
    """One colour everywhere: 3×1×1."""
    return np.array(bgr, np.float32)[:, None, None]


def _blend(below: _Floats, above: _Floats, coverage: _Floats) -> _Floats:
    return below + (above - below) * coverage


def _ints(point: npt.NDArray[np.float64]) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


if __name__ == "__main__":
    print(write_demo_dataset(sys.argv[1] if len(sys.argv) > 1 else "photos/demo"))
