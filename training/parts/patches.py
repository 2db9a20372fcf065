"""A feature extractor that sees an image in patches and never across their borders: the student of ADPS."""

from __future__ import annotations

from torch import Tensor

from segrd_edge.errors import OptionError

from ..backbone import ResNetFeatures


class PatchwiseFeatures(ResNetFeatures):
    """A ResNet that runs on every square patch by itself, its outputs put back in place.

    `forward(images N×3×h×w)` returns the levels with the shapes that the ResNet has for whole images. Each patch is
    padded with zeros in every convolution, as an image is.

    Args:
        name: backbone.
        patch_px: side of a patch, a multiple of the stride of the coarsest level.
    """

    def __init__(self, name: str, stages: int = 3, patch_px: int = 32) -> None:
        super().__init__(name, stages)
        stride = 2 ** (stages + 1)
        if patch_px < stride or patch_px % stride:
            raise OptionError(f"patches of {patch_px} pixels", expected=f"a multiple of {stride}")
        self.patch_px = patch_px

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[2:]
        if height % self.patch_px or width % self.patch_px:
            raise OptionError(
                f"an image of {height}×{width} cannot be cut into patches of {self.patch_px} pixels",
                expected=f"both sides multiples of {self.patch_px}; training with --minutes sees half of each too",
                fix="smaller patches, or another --size",
            )
        grid_hw = (height // self.patch_px, width // self.patch_px)
        return [from_patches(level, grid_hw) for level in super().forward(to_patches(images, grid_hw))]


def to_patches(images: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """N×C×h×w → the patches of a grid of rows×columns, row by row and image by image: N·rows·columns×C×h'×w'."""
    rows, columns = grid_hw
    count, channels, height, width = images.shape
    cut = images.reshape(count, channels, rows, height // rows, columns, width // columns)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height // rows, width // columns)


def from_patches(patches: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Back from `to_patches`, also when the patches have become smaller or have other channels."""
    rows, columns = grid_hw
    channels, height, width = patches.shape[1:]
    placed = patches.reshape(-1, rows, columns, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return placed.reshape(-1, channels, rows * height, columns * width)
