"""Large frames: a resized frame as tiles of the network size, and their maps as one again.

Every tile is what any network image is, so training, calibration and engines know nothing of tiles. Rows and columns of
tiles are spread evenly, from edge to edge, so that none is padded and neighbours share at least the overlap. Over what
they share a tile's map fades out linearly towards its own edge, where the network sees its zero padding instead of the
part, while the neighbour, which sees what comes after, fades in. The weights of a pixel add up to 1, so the map stays
in [0, 1] and has no seams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .engines.base import EngineOutput
from .mapspec import MapSpec

Image = npt.NDArray[np.uint8]
_IMAGE_BYTES, _MAP_BYTES = 3, 4  # per pixel: uint8 BGR, float32
_HOT_BYTES = 32  # per pixel: what finding regions takes of a map that is hot everywhere, above all in sums of 64 bits


@dataclass(frozen=True)
class TileGrid:
    """Where the tiles of an image lie: at every one of `tops` one at each of `lefts`, row by row."""

    image_hw: tuple[int, int]
    tile_hw: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def cut(self, picture: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The tiles (h×w or h×w×c) of a picture of `image_hw` pixels: views of it."""
        return [picture[window] for window in self._windows]

    def stitch(self, maps: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """One map of `image_hw` (float32, newly allocated) from the tiles' own, each at `tile_hw`."""
        whole = np.zeros(self.image_hw, np.float32)
        for window, (rows, columns), tile in zip(self._windows, self._weights, maps, strict=True):
            whole[window] += rows * columns * tile
        return np.minimum(whole, 1, out=whole)  # the weights may add up to 1 and a rounding error

    @property
    def needed_bytes(self) -> int:
        """Memory for an image of tiles, at its worst, which is a defect everywhere: the image, the tiles' maps, the map
        of the whole, and its regions. Not the frame, nor the engine, nor what the resize takes before: less than the
        frame."""
        pixels, tile_pixels = math.prod(self.image_hw), len(self) * math.prod(self.tile_hw)
        return (_IMAGE_BYTES + _MAP_BYTES + _HOT_BYTES) * pixels + _MAP_BYTES * tile_pixels

    @cached_property
    def _windows(self) -> list[tuple[slice, slice]]:
        height, width = self.tile_hw
        return [(slice(top, top + height), slice(left, left + width)) for top in self.tops for left in self.lefts]

    @cached_property
    def _weights(self) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Of each tile, as a column and a row whose product they are."""
        rows, columns = (
            _fade(starts, tile, image)
            for starts, tile, image in zip((self.tops, self.lefts), self.tile_hw, self.image_hw, strict=True)
        )
        return [(row[:, np.newaxis], column) for row in rows for column in columns]


@lru_cache(maxsize=64)
def tile_grid(image_hw: tuple[int, int], tile_hw: tuple[int, int], overlap: float) -> TileGrid:
    """The fewest tiles that cover an image, neighbours sharing at least the share `overlap` (0 to 1) of a tile.

    The image is at least as high and wide as a tile.
    """
    tops, lefts = (_spread(image, tile, overlap) for image, tile in zip(image_hw, tile_hw, strict=True))
    return TileGrid(image_hw, tile_hw, tops, lefts)


def on_tiles(
    run: Callable[[Sequence[Image]], Sequence[EngineOutput]], image: Image, grid: TileGrid, spec: MapSpec
) -> EngineOutput:
    """Score and map of an image of one tile or many; `run` gives those of network images."""
    return join(grid, run(grid.cut(image)), spec)


def join(grid: TileGrid, outputs: Sequence[EngineOutput], spec: MapSpec) -> EngineOutput:
    """The tiles' outputs as one: of a single tile its own, of many the stitched map and the score that follows from it.

    The score is the mean of as many largest pixels as in a tile: a defect counts the same in a frame of any size.
    """
    if len(grid) == 1:
        return outputs[0]
    anomaly_map = grid.stitch([output.anomaly_map for output in outputs])
    return EngineOutput(spec.score(anomaly_map), anomaly_map)


def _spread(image: int, tile: int, overlap: float) -> tuple[int, ...]:
    """First pixels of the tiles along one axis."""
    step = max(1, math.floor(tile * (1 - overlap)))
    count = 1 + math.ceil((image - tile) / step)
    return tuple(round(k * (image - tile) / (count - 1)) for k in range(count)) if count > 1 else (0,)


def _fade(starts: Sequence[int], tile: int, image: int) -> list[npt.NDArray[np.float32]]:
    """Weights along one axis: per tile one for each of its pixels; those of all tiles add up to 1 at every pixel."""
    centres = np.arange(tile) + 0.5
    weights = []
    for k, start in enumerate(starts):
        weight = np.ones(tile)
        if k > 0 and (shared := starts[k - 1] + tile - start) > 0:
            weight *= np.minimum(1, centres / shared)
        if k + 1 < len(starts) and (shared := start + tile - starts[k + 1]) > 0:
            weight *= np.minimum(1, centres[::-1] / shared)
        weights.append(weight)
    total = np.zeros(image)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    return [
        (weight / total[start : start + tile]).astype(np.float32) for start, weight in zip(starts, weights, strict=True)
    ]
