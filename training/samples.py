"""Training samples: sample k is a function of the seed and k, whatever the number of workers or restarts.

That one property gives exact resume, results that do not depend on `workers`, and an independent generator for every
sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segrd_edge.errors import DataError
from segrd_edge.frames import read_frame
from segrd_edge.memory import check_memory
from segrd_edge.preprocess import SIZE_MULTIPLE, Preprocess

from .data import Photo
from .synthesis import Defects, Image, Mask, foreground_mask

Rotation = Literal["none", "small", "full"]


@dataclass(frozen=True)
class GoodImages:
    """The good photographs, decoded once and kept as network images (uint8 h×w×3), with their foreground masks.

    Of a photograph with tiles each is an image of its own, a view of the one array that all of them share.
    """

    images: list[Image]
    foregrounds: list[Mask | None]

    @staticmethod
    def load(photos: Sequence[Photo], preprocess: Preprocess, *, foreground: bool = True) -> GoodImages:
        """Read them all.

        Raises:
            DataError: they need more memory than there is.
        """
        images: list[Image] = []
        foregrounds: list[Mask | None] = []
        for photo in photos:
            image = preprocess.resize(read_frame(photo.path, value_range=preprocess.value_range))
            if not images:
                _check_fits(len(photos), (image.shape[0], image.shape[1]))
            grid = preprocess.grid((image.shape[0], image.shape[1]))
            mask = foreground_mask(image) if foreground else None  # of the whole part, which a tile may not show
            images += grid.cut(image)
            foregrounds += [None] * len(grid) if mask is None else grid.cut(mask)
        return GoodImages(images, foregrounds)


def _check_fits(photos: int, image_hw: tuple[int, int]) -> None:
    height, width = image_hw
    check_memory(
        f"keeping {photos} photographs of {width}×{height} pixels at hand, as they are after the resize,",
        photos * height * width * 4,  # three channels and the foreground
        "train on fewer photographs, or with a larger --tile, which shrinks them more",
        DataError,
    )


class TrainingSamples(Dataset[dict[str, Tensor]]):
    """Endless samples: `samples[k]` is image k of the shuffled epochs, with its synthetic defect.

    Each is a dictionary of uint8 tensors: clean h×w×3, corrupted h×w×3 (BGR) and mask h×w in {0, 1}.
    """

    def __init__(self, good: GoodImages, defects: Defects, seed: int, rotation: Rotation = "none") -> None:
        self.good, self.defects, self.seed, self.rotation = good, defects, seed, rotation

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        epoch, position = divmod(k, len(self.good.images))
        index = self._order(epoch)[position]
        rng = np.random.default_rng([self.seed, 3, k])
        clean, foreground = self._rotated(self.good.images[index], self.good.foregrounds[index], rng)
        corrupted, mask = self.defects(clean, rng, foreground)
        arrays = {"clean": clean, "corrupted": corrupted, "mask": mask.astype(np.uint8)}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, 2, epoch]).permutation(len(self.good.images))

    def _rotated(self, image: Image, foreground: Mask | None, rng: np.random.Generator) -> tuple[Image, Mask | None]:
        """DeSTSeg's rotations: small is ±5 degrees, full is quarter turns and then ±5 degrees; corners grey (114)."""
        if self.rotation == "none":
            return image, foreground
        height, width = image.shape[:2]
        turns = int(rng.integers(4)) if self.rotation == "full" and height == width else 0
        angle = float(rng.uniform(-5, 5))
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)

        def turn(array: npt.NDArray[np.uint8], fill: int) -> npt.NDArray[np.uint8]:
            array = np.ascontiguousarray(np.rot90(array, turns))
            filling = (fill, fill, fill)
            return np.asarray(cv2.warpAffine(array, matrix, (width, height), borderValue=filling), np.uint8)

        mask = None if foreground is None else turn(foreground.astype(np.uint8), 0) > 0
        return turn(image, 114), mask


def batches(
    samples: TrainingSamples, first: int, batch: int, workers: int = 0, *, rank: int = 0, world: int = 1
) -> DataLoader[dict[str, Tensor]]:
    """Endless batches from sample `first` on; of every `batch` samples each of `world` processes takes its own part."""
    return DataLoader(
        samples,
        batch_size=batch // world,
        sampler=_Endless(first + rank, world),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )


class _Endless(Sampler[int]):
    def __init__(self, first: int, stride: int) -> None:
        self.first, self.stride = first, stride

    def __iter__(self) -> Iterator[int]:
        return count(self.first, self.stride)


def half_crops(batch: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """Windows of half the height and width, one per sample: around a pixel of the defect three times out of four.

    A step on them costs a quarter. Window corners lie on the stride of the coarsest feature map.
    """
    height, width = batch["mask"].shape[1:]
    window = (max(SIZE_MULTIPLE, height // 2), max(SIZE_MULTIPLE, width // 2))
    window = (window[0] // SIZE_MULTIPLE * SIZE_MULTIPLE, window[1] // SIZE_MULTIPLE * SIZE_MULTIPLE)
    pieces: dict[str, list[Tensor]] = {name: [] for name in batch}
    for i, mask in enumerate(batch["mask"]):
        corner = rng.integers(0, (height - window[0] + 1, width - window[1] + 1))
        defect = torch.nonzero(mask)
        if len(defect) and rng.random() < 0.75:
            pixel = defect[int(rng.integers(len(defect)))].numpy()
            jitter = rng.uniform(0.2, 0.8, 2) * window
            corner = np.clip(pixel - jitter, 0, (height - window[0], width - window[1])).astype(int)
        top, left = (int(c) for c in corner)
        for name, tensor in batch.items():
            pieces[name].append(tensor[i, top : top + window[0], left : left + window[1]])
    return {name: torch.stack(parts) for name, parts in pieces.items()}
