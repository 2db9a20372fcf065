"""Which images calibrate: good ones, and good ones with synthetic defects.

Activations on defects are the ones that must not be clipped, and good images do not show them. Real defect images are
for testing and never used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from segrd_edge.errors import OptionError
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.data import file_sha256
from segrd_edge.training.synthesis import Image, Mask, PerlinDefects, SelfTextures, TextureFolder, foreground_mask

DEFAULT_COUNT = 64
_STREAM = 7  # keeps this generator apart from those of training with the same seed
_ATTEMPTS = 8  # about one mask in twenty comes out empty


@dataclass(frozen=True)
class CalibrationFrame:
    """One calibration frame at network size, and what is written about it into the manifest."""

    image_bgr_u8: Image  # h×w×3
    path: Path
    sha256: str  # of the file; a synthetic defect is a function of file, seed and position
    kind: Literal["good", "synthetic"]
    mask: Mask | None = None  # h×w, True on the synthetic defect; None of a good frame


def choose_frames(
    photos: Sequence[Path],
    preprocess: Preprocess,
    *,
    count: int = DEFAULT_COUNT,
    seed: int = 0,
    textures: str | Path | None = None,
) -> list[CalibrationFrame]:
    """Seeded choice of `count` frames: half good, half synthetic defects, all on different photographs while they last.

    Args:
        photos: photographs of good parts, best those that trained (the held-out ones set the threshold).
        textures: folder for synthetic defects; None cuts them from the chosen photographs.

    Raises:
        OptionError: no photographs, or fewer than two frames asked for.
    """
    if count < 2 or not photos:
        raise OptionError(
            f"{count} calibration frames from {len(photos)} photographs",
            expected="at least 2 frames, one good and one with a synthetic defect, and at least 1 photograph",
        )
    order = np.random.default_rng([seed, _STREAM]).permutation(len(photos))[:count]
    chosen = [photos[i] for i in order]
    images = [preprocess.resize(read_frame(path, value_range=preprocess.value_range)) for path in chosen]
    sums = [file_sha256(path) for path in chosen]
    defects = PerlinDefects(TextureFolder(textures) if textures else SelfTextures(images))
    good = min(count // 2, len(chosen))
    frames = [CalibrationFrame(images[k], chosen[k], sums[k], "good") for k in range(good)]
    for k in range(good, count):
        i = k % len(chosen)
        image, mask = _with_defect(images[i], defects, np.random.default_rng([seed, _STREAM, k]))
        frames.append(CalibrationFrame(image, chosen[i], sums[i], "synthetic", mask))
    return frames


def _with_defect(image: Image, defects: PerlinDefects, rng: np.random.Generator) -> tuple[Image, Mask]:
    foreground = foreground_mask(image)
    for _ in range(_ATTEMPTS):
        corrupted, mask = defects(image, rng, foreground)
        if mask.any():
            break
    return corrupted, mask
