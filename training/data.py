"""A folder of photographs: what is in it, what is wrong with it, which images train and which are held out.

Two layouts are read:

    MVTec AD:  train/good/*  test/good/*  test/<defect>/*  ground_truth/<defect>/<name>_mask.png
    plain:     *.jpg (all good), or good/*;  optionally <defect>/* and ground_truth/<defect>/<name>_mask.png

In a plain folder the good images serve all purposes: the held-out ones set the threshold and are the good side of an
evaluation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segrd_edge.errors import DataError, FrameError, OptionError
from segrd_edge.frames import IMAGE_SUFFIXES, read_frame, read_pixels
from segrd_edge.preprocess import Preprocess

MINIMUM_GOOD = 16  # fewer leave nothing to train on once the threshold's share is held out
MINIMUM_HELD_OUT = 8
GOOD = "good"
_MASK_FOLDERS = ("ground_truth", "masks")


@dataclass(frozen=True)
class Photo:
    """One photograph. `kind` is "good" or the defect type, which is its folder's name."""

    path: Path
    kind: str
    mask: Path | None = None

    @property
    def is_defect(self) -> bool:
        return self.kind != GOOD


@dataclass(frozen=True)
class Problem:
    """Something that the data check found. Files with a `fatal` problem are not used."""

    path: Path
    what: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass
class PhotoFolder:
    """The photographs under `root`: good ones for training, and those that test (empty without a test split)."""

    root: Path
    layout: str  # "mvtec" or "plain"
    train: list[Photo]
    test: list[Photo]
    problems: list[Problem] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Images per purpose and kind, for tables and the manifest."""
        counts = {"train/good": len(self.train)}
        for photo in self.test:
            key = f"test/{photo.kind}"
            counts[key] = counts.get(key, 0) + 1
        counts["masks"] = sum(photo.mask is not None for photo in self.test)
        return counts

    def split(self, seed: int, share: float = 0.2) -> tuple[list[Photo], list[Photo]]:
        """Good training images → (to train on, held out for the threshold), seeded.

        Raises:
            OptionError: no share between 0 and 1.
            DataError: fewer than MINIMUM_GOOD good images, or too few left to train on.
        """
        if not 0 < share < 1:
            raise OptionError(f"--held-out {share:g}", expected="a share of the good images, above 0 and below 1")
        if len(self.train) < MINIMUM_GOOD:
            raise DataError(
                f"{self.root} has {len(self.train)} usable good images",
                expected=f"at least {MINIMUM_GOOD}",
                fix="take more photographs of good parts; 50 to 200 that show the normal variation are a good start",
            )
        held_out = max(MINIMUM_HELD_OUT, round(share * len(self.train)))
        if (left := len(self.train) - held_out) < MINIMUM_HELD_OUT:
            raise DataError(
                f"{left} of {len(self.train)} good images are left to train on, with {held_out} held out",
                expected=f"at least {MINIMUM_HELD_OUT}",
                fix="a smaller --held-out, or more photographs",
            )
        order = np.random.default_rng([seed, 1]).permutation(len(self.train))
        chosen = set(order[:held_out].tolist())
        return (
            [p for i, p in enumerate(self.train) if i not in chosen],
            [p for i, p in enumerate(self.train) if i in chosen],
        )

    def evaluation(self, held_out: Iterable[Photo] = ()) -> list[Photo]:
        """The photographs to evaluate on: the test split, or a plain folder's defects and held-out good images."""
        good = [p for p in self.test if not p.is_defect] or list(held_out)
        return good + [p for p in self.test if p.is_defect]


def scan(folder: str | Path) -> PhotoFolder:
    """Find the photographs of a folder without opening them.

    Raises:
        DataError: no such folder, or no good image in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", expected="a folder of photographs", fix="check the path")
    mvtec = (root / "train" / GOOD).is_dir()
    if mvtec:
        train = [Photo(p, GOOD) for p in _images(root / "train" / GOOD)]
        kinds = sorted(d for d in (root / "test").iterdir() if d.is_dir()) if (root / "test").is_dir() else []
        test = [photo for d in kinds for photo in _photos(d, root)]
    else:
        good = root / GOOD if (root / GOOD).is_dir() else root
        train = [Photo(p, GOOD) for p in _images(good)]
        kinds = sorted(d for d in root.iterdir() if d.is_dir() and d.name not in (GOOD, *_MASK_FOLDERS))
        test = [photo for d in kinds for photo in _photos(d, root)]
    if not train:
        raise DataError(
            f"no good images in {root}",
            expected="train/good/ (MVTec AD layout), good/, or images directly in the folder, with "
            + ", ".join(IMAGE_SUFFIXES),
            fix="put the photographs of good parts into one of these places",
        )
    return PhotoFolder(root, "mvtec" if mvtec else "plain", train, test)


def check(folder: PhotoFolder, preprocess: Preprocess | None = None) -> PhotoFolder:
    """Open every file and return the same folder without the unusable ones, with all problems listed at once.

    Found: unreadable files, 16-bit files without a stated range, files that the crop reaches outside of, duplicates
    (same pixels; a good training image that is also a test image is the worst of them), masks that are missing, empty
    or of another size. A defect outside the crop is no problem of the file; evaluation leaves it out.
    """
    preprocess = preprocess or Preprocess()
    problems: list[Problem] = []
    seen: dict[str, Path] = {}
    train = [p for p in folder.train if _usable(p, problems, seen, preprocess)]
    test = [p for p in folder.test if _usable(p, problems, seen, preprocess)]
    if len(train) < MINIMUM_GOOD:
        problems.append(
            Problem(folder.root, f"{len(train)} usable good images, fewer than the minimum of {MINIMUM_GOOD}")
        )
    return PhotoFolder(folder.root, folder.layout, train, test, problems)


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """A mask file (any non-zero pixel is defect) as bool H×W."""
    pixels = read_pixels(path)
    return np.asarray(pixels.max(axis=2) > 0 if pixels.ndim == 3 else pixels > 0)


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)


def _photos(folder: Path, root: Path) -> list[Photo]:
    """The photographs of one test folder, each with its mask where there is one."""
    if folder.name == GOOD:
        return [Photo(p, GOOD) for p in _images(folder)]
    return [Photo(p, folder.name, _find_mask(p, folder.name, root)) for p in _images(folder)]


def _find_mask(image: Path, kind: str, root: Path) -> Path | None:
    for masks in _MASK_FOLDERS:
        for name in (f"{image.stem}_mask", image.stem):
            for suffix in (".png", ".bmp", ".tif", ".tiff"):
                candidate = root / masks / kind / (name + suffix)
                if candidate.is_file():
                    return candidate
    return None


def _usable(photo: Photo, problems: list[Problem], seen: dict[str, Path], preprocess: Preprocess) -> bool:
    """Check one photograph; append what is wrong; False where it cannot be used."""
    try:
        frame = read_frame(photo.path, value_range=preprocess.value_range)
        preprocess.placement((frame.shape[0], frame.shape[1]))
    except FrameError as error:
        problems.append(Problem(photo.path, error.what.removeprefix(f"{photo.path}: ") + _hint(error)))
        return False
    digest = hashlib.sha256(frame.tobytes()).hexdigest()
    if digest in seen:
        problems.append(Problem(photo.path, f"duplicate of {seen[digest]}"))
        return False
    seen[digest] = photo.path
    if photo.mask is None:
        return True
    try:
        mask = read_mask(photo.mask)
    except FrameError as error:
        problems.append(Problem(photo.mask, error.what.removeprefix(f"{photo.mask}: ")))
        return False
    if mask.shape != frame.shape[:2]:
        size, wanted = ("×".join(map(str, s)) for s in (mask.shape, frame.shape[:2]))
        problems.append(Problem(photo.mask, f"mask is {size}, its image {photo.path.name} is {wanted} (H×W)"))
        return False
    if not mask.any():
        problems.append(Problem(photo.mask, f"empty mask for the defect image {photo.path.name}"))
        return False
    return True


def _hint(error: FrameError) -> str:
    if "value range" in error.what:
        return " (state the range with --range 0:65535, or 0:4095 for 12-bit cameras)"
    if "one tile" in (error.expected or ""):
        return f", smaller than {error.expected.removeprefix('at least ')}"
    return " (give a --crop inside it)" if "the crop" in error.what else ""
