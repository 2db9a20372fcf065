"""Which images calibrate: good ones, and good ones with synthetic defects.

Activations on defects are the ones that must not be clipped, and good images do not show them. Real defect images are
for testing and never calibrate.

A scale has to cover what the line will show, so the photographs are chosen to differ: each next one is the farthest
from all chosen before (farthest-point sampling; Gonzalez 1985 shows that no choice of as many leaves any photograph
less than half as far from its nearest chosen one). What differs is seen on thumbnails, where lighting, colour, position
and kind of part show and the camera's noise does not. A random choice follows the folder instead: a hundred frames of a
part that stood still would be most of the set. With tiles it is they that are chosen, whatever photograph they are of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segrd_edge.errors import OptionError
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.data import file_sha256
from segrd_edge.training.synthesis import (
    DEFECTS,
    Defects,
    Image,
    Mask,
    SelfTextures,
    TextureFolder,
    create_defects,
    foreground_mask,
)

from .progress import Track, untracked

DEFAULT_COUNT = 64
FEWEST, MOST = 32, 512  # calibration frames
THUMBNAIL_PX = 16  # side of what photographs are compared by
# Root mean square difference of two thumbnails, grey levels, below which they show the same. Nearest neighbours among
# the good photographs of six real categories are 0.7 (ball_screw) to 33 (metal_plate) apart; of a still part at
# 256×256 noise of 5 grey levels makes 5 · √2 / 16 ≈ 0.4.
NEAR_DUPLICATE = 1.0
_LOOKED_AT = 32  # photographs compared for every frame wanted; of more a random part is
_STREAM = 7  # keeps this generator apart from those of training with the same seed
_ATTEMPTS = 8  # about one Perlin mask in twenty comes out empty


@dataclass(frozen=True)
class CalibrationFrame:
    """One calibration frame at network size, and what is written about it into the manifest."""

    image_bgr_u8: Image  # h×w×3
    path: Path
    sha256: str  # of the file; a synthetic defect is a function of file, seed and position
    kind: Literal["good", "synthetic"]
    mask: Mask | None = None  # h×w, True on the synthetic defect; None of a good frame
    defect: str | None = None  # name in training.synthesis.DEFECTS; None of a good frame

    @property
    def pixels_sha256(self) -> str:
        """Of `image_bgr_u8`, rows from the top, pixels from the left, bytes B G R: what calibrates, exactly."""
        return hashlib.sha256(np.ascontiguousarray(self.image_bgr_u8).tobytes()).hexdigest()


def check_count(count: int) -> None:
    """OptionError unless so many calibration frames can be asked for."""
    if not FEWEST <= count <= MOST:
        raise OptionError(
            f"{count} calibration frames",
            expected=f"{FEWEST} to {MOST}: fewer do not show what the line will, more only take longer",
            fix=f"for example --calibration-images {DEFAULT_COUNT}; fewer photographs than that are no obstacle",
        )


def choose_frames(
    photos: Sequence[Path],
    preprocess: Preprocess,
    *,
    count: int = DEFAULT_COUNT,
    seed: int = 0,
    textures: str | Path | None = None,
    synthetic: bool = True,
    foreground: bool = True,
    track: Track = untracked,
) -> list[CalibrationFrame]:
    """Seeded choice of `count` frames: half good, half synthetic defects, all on different photographs while they last.

    Photographs, or tiles of them, that show the same (NEAR_DUPLICATE) count as one. Where too few are left, more of the
    frames are synthetic. The kinds of synthetic defects take turns.

    Args:
        photos: photographs of good parts, best those that trained (the held-out ones set the threshold).
        count: see `check_count` for what calibration allows.
        textures: folder for Perlin-shaped defects; None cuts them from the chosen photographs.
        synthetic: False takes good frames only, and perhaps fewer than `count`: to show what that costs.
        foreground: keep synthetic defects on an object before a plain background, as training does.
        track: wraps the photographs that are read, for a progress bar.

    Raises:
        OptionError: no photographs, or fewer than two frames asked for.
    """
    if count < 2 or not photos:
        raise OptionError(
            f"{count} calibration frames from {len(photos)} photographs",
            expected="at least 2 frames, one good and one with a synthetic defect, and at least 1 photograph",
        )
    chosen = _different(photos, preprocess, count, np.random.default_rng([seed, _STREAM]), track)
    chosen = chosen[0::2] + chosen[1::2]  # the good half and the other one are equally diverse
    shown = _shown(chosen, preprocess)
    images = [shown[view] for view in chosen]
    paths = [view.path for view in chosen]
    sums = [file_sha256(path) for path in paths]
    good = min(count // 2 if synthetic else count, len(chosen))
    frames = [CalibrationFrame(images[k], paths[k], sums[k], "good") for k in range(good)]
    sources = TextureFolder(textures) if textures else SelfTextures(images)
    defects = [(name, create_defects([name], images, sources)) for name in DEFECTS]
    for k in range(good, count if synthetic else good):
        i, (name, draw) = k % len(chosen), defects[k % len(defects)]
        where = foreground_mask(images[i]) if foreground else None
        image, mask = _with_defect(images[i], where, draw, np.random.default_rng([seed, _STREAM, k]))
        frames.append(CalibrationFrame(image, paths[i], sums[i], "synthetic", mask, name))
    return frames


class _View(NamedTuple):
    """What a network image shows: a photograph, or the tile with this number in it."""

    path: Path
    tile: int


def _different(
    photos: Sequence[Path], preprocess: Preprocess, count: int, rng: np.random.Generator, track: Track
) -> list[_View]:
    """At most `count` views that show something different, the most different first. Holds their thumbnails."""
    looked_at = [photos[i] for i in rng.permutation(len(photos))[: _LOOKED_AT * count]]
    views, thumbnails = [], []
    for path in track(looked_at, "reading photographs"):
        images = _network_images(path, preprocess)
        views += [_View(path, tile) for tile in range(len(images))]
        thumbnails += [_thumbnail(image) for image in images]
    return [views[i] for i in farthest_points(np.stack(thumbnails), count, NEAR_DUPLICATE)]


def farthest_points(points: npt.NDArray[np.float32], count: int, least: float) -> list[int]:
    """Indices of at most `count` points (n×d): the first, then each time the one farthest from all before.

    Distances are root mean squares over the d coordinates. Ends early where none is at least `least` away.
    """
    chosen = [0]
    distance = _rms(points - points[0])
    while len(chosen) < count and distance.max() >= least:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, _rms(points - points[chosen[-1]]))
    return chosen


def _rms(differences: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.sqrt(np.square(differences).mean(axis=1))


def _thumbnail(image: Image) -> npt.NDArray[np.float32]:
    """16·16·3 mean grey levels."""
    small = cv2.resize(image.astype(np.float32), (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).reshape(-1)


def _network_images(path: Path, preprocess: Preprocess) -> list[Image]:
    return preprocess.network_images(read_frame(path, value_range=preprocess.value_range))


def _shown(views: Sequence[_View], preprocess: Preprocess) -> dict[_View, Image]:
    """The views' network images; each photograph is read once, whatever is chosen of it, and not kept."""
    found: dict[_View, Image] = {}
    for path in dict.fromkeys(view.path for view in views):
        images = _network_images(path, preprocess)
        found |= {view: images[view.tile].copy() for view in views if view.path == path}
    return found


def _with_defect(
    image: Image, foreground: Mask | None, defects: Defects, rng: np.random.Generator
) -> tuple[Image, Mask]:
    for _ in range(_ATTEMPTS):
        corrupted, mask = defects(image, rng, foreground)
        if mask.any():
            break
    return corrupted, mask
