"""How good is it, where there is no photograph of a defect: held-out good photographs with synthetic defects.

Every photograph counts as it is, and once with each kind of synthetic defect. Defects are painted on the network image,
as in training: after crop and resize; but never on the letterbox border. With tiles, a window of one tile's size
anywhere in the resized frame is painted as a network image is, so that defects lie on seams as well. Image and mask are
then exact for every crop, fit and size, which they would not be if a defect were painted into the frame and shrunk with
it. A predictor is therefore given what `Preprocess.resize` returns here, not frames.

A model that was trained on such defects can do better on them than on real ones, and their shapes and sizes decide on
the pixel metrics. What these metrics are for is to compare: models, and precisions of one model. They never state how
many real defects escape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segrd_edge.errors import OptionError
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Placement, Preprocess

from .data import GOOD, Photo
from .evaluate import Evaluation, FrameResult, Predictor, placement_of, summarise
from .synthesis import (
    DEFECTS,
    Defects,
    Image,
    Mask,
    SelfTextures,
    TextureFolder,
    create_defects,
    foreground_mask,
)
from .synthesis.patches import VISIBLE_CHANGE

KINDS = tuple(DEFECTS)
MOST_PHOTOGRAPHS = 32  # bounds memory and time: with three kinds, 128 frames and their maps
_STREAM = 8  # keeps this generator apart from those of training and calibration with the same seed
_ATTEMPTS = 50  # about one Perlin mask in twenty comes out empty, and most patches where parts are small and alike


@dataclass(frozen=True)
class SyntheticFrame:
    """One frame of the test, after the resize: at network size, but for tiles."""

    photo: Photo  # the good photograph; its kind is "good", or says what was painted: "synthetic perlin"
    image_bgr_u8: Image  # h×w×3
    mask: Mask | None  # h×w, where the defect is; None of a good frame


def evaluate_frames(predictor: Predictor, frames: Iterable[SyntheticFrame]) -> Evaluation:
    """Evaluate a predictor of network images (uint8 h×w×3 BGR) on frames that are painted already."""
    results = []
    for frame in frames:
        anomaly_map, score = predictor(frame.image_bgr_u8)
        painted = frame.image_bgr_u8 if frame.photo.is_defect else None
        results.append(FrameResult(frame.photo, score, anomaly_map, frame.mask, painted))
    return summarise(results, is_synthetic=True)


def synthetic_frames(
    preprocess: Preprocess,
    held_out: Sequence[Path],
    *,
    textures: str | Path | None = None,
    foreground: bool = True,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
) -> list[SyntheticFrame]:
    """Good photographs as network images, then the same with a defect of each kind; a function of the arguments.

    A defect that cannot be seen, or whose mask is empty, is drawn again. Where parts are so much alike that no draw
    shows, as patches of one photograph on another may, the photograph is left out for that kind.

    Args:
        held_out: good photographs that the detector was not trained on; of more than MOST_PHOTOGRAPHS, a seeded choice.
        textures: folder for Perlin-shaped defects; None cuts textures from these photographs.
        foreground: keep defects on the object where the background is plain.
        kinds: names of `training.synthesis.DEFECTS`.

    Raises:
        OptionError: no photographs, no kinds, or an unknown kind.
        DataError: no pictures in the texture folder.
        FrameError: a photograph cannot be read, or the crop reaches outside of it.
    """
    if not held_out or not kinds:
        raise OptionError(
            f"{len(held_out)} held-out photographs and {len(kinds)} kinds of synthetic defects",
            expected="at least one of each",
        )
    paths = _choose(held_out, seed)
    frames, paintable, shown = [], [], []
    for path in paths:
        frame = read_frame(path, value_range=preprocess.value_range)
        place = placement_of(path, frame, preprocess)
        image = preprocess.resize(frame)
        shown.append(np.ascontiguousarray(place.covered(image)))
        paintable.append(_paintable(shown[-1], place, foreground=foreground))
        frames.append(SyntheticFrame(Photo(path, GOOD), image, None))
    source = TextureFolder(textures) if textures else SelfTextures(shown)
    images = [frame.image_bgr_u8 for frame in frames]
    tiles = [tile for image in images for tile in preprocess.grid((image.shape[0], image.shape[1])).cut(image)]
    for kind in dict.fromkeys(kinds):
        defects = create_defects([kind], tiles, source)
        for index, (path, image) in enumerate(zip(paths, images, strict=True)):
            rng = np.random.default_rng([seed, _STREAM, KINDS.index(kind), index])
            if painted := _painted(defects, image, paintable[index], preprocess.size_hw, rng):
                frames.append(SyntheticFrame(Photo(path, f"synthetic {kind}"), *painted))
    return frames


def _choose(held_out: Sequence[Path], seed: int) -> list[Path]:
    order = np.random.default_rng([seed, _STREAM]).permutation(len(held_out))
    return [held_out[i] for i in sorted(order[:MOST_PHOTOGRAPHS].tolist())]


def _paintable(shown: Image, place: Placement, *, foreground: bool) -> Mask | None:
    """Where in the network image (h×w) a defect may lie: on the object, never on the border; None is everywhere."""
    found = foreground_mask(shown) if foreground else None
    if found is None and shown.shape[:2] == place.size_hw:
        return None
    paintable = np.zeros(place.size_hw, bool)
    place.covered(paintable)[...] = True if found is None else found
    return paintable


def _painted(
    defects: Defects, image: Image, paintable: Mask | None, size_hw: tuple[int, int], rng: np.random.Generator
) -> tuple[Image, Mask] | None:
    """The image with a defect in a window of the network size; None where no draw gave one that can be seen."""
    for _ in range(_ATTEMPTS):
        window = _window(size_hw, (image.shape[0], image.shape[1]), rng)
        shown = np.ascontiguousarray(image[window])
        corrupted, found = defects(shown, rng, None if paintable is None else paintable[window])
        change = np.abs(corrupted.astype(np.int16) - shown).max(axis=2)
        if (change[found] >= VISIBLE_CHANGE).any():
            painted, mask = image.copy(), np.zeros(image.shape[:2], bool)
            painted[window], mask[window] = corrupted, found
            return painted, mask
    return None


def _window(size_hw: tuple[int, int], image_hw: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
    """Anywhere in the image; without a draw where there is but one place."""
    tops, lefts = (side - size for side, size in zip(image_hw, size_hw, strict=True))
    top, left = (int(rng.integers(most + 1)) if most else 0 for most in (tops, lefts))
    return slice(top, top + size_hw[0]), slice(left, left + size_hw[1])
