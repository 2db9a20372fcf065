"""Synthetic defects and the samples made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segrd_edge.errors import DataError
from segrd_edge.training.samples import GoodImages, TrainingSamples, batches, half_crops
from segrd_edge.training.synthesis import (
    FIELD_THRESHOLD,
    PerlinDefects,
    SelfTextures,
    TextureFolder,
    foreground_mask,
    perlin_field,
)

from ..conftest import texture


def good_images(count: int = 3, size_hw: tuple[int, int] = (64, 96)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [texture(rng, size_hw) for _ in range(count)]


def samples(seed: int = 0, rotation: str = "none") -> TrainingSamples:
    images = good_images()
    good = GoodImages(images, [None] * len(images))
    return TrainingSamples(good, PerlinDefects(SelfTextures(images)), seed, rotation)  # type: ignore[arg-type]


def test_empty_masks_are_as_rare_as_in_the_reference() -> None:
    rng = np.random.default_rng(0)
    masks = [perlin_field((256, 256), rng) > FIELD_THRESHOLD for _ in range(2000)]
    empty = np.mean([not m.any() for m in masks])
    assert 0.03 < empty < 0.06
    assert 0.04 < np.mean([m.mean() for m in masks]) < 0.06  # 5.0 % of the area


@pytest.mark.parametrize("size_hw", [(256, 640), (96, 32), (160, 224)])
def test_fields_of_any_size(size_hw: tuple[int, int]) -> None:
    field = perlin_field(size_hw, np.random.default_rng(1))
    assert field.shape == size_hw
    assert np.abs(field).max() <= 1.5


def test_only_masked_pixels_change() -> None:
    image = good_images(1)[0]
    defects = PerlinDefects(SelfTextures(good_images()))
    for seed in range(20):
        corrupted, mask = defects(image, np.random.default_rng(seed))
        assert np.array_equal(corrupted[~mask], image[~mask])
        if mask.sum() > 50:
            assert (corrupted[mask] != image[mask]).any()


def test_defects_stay_on_the_foreground() -> None:
    image = good_images(1)[0]
    foreground = np.zeros(image.shape[:2], bool)
    foreground[16:48, 30:60] = True
    defects = PerlinDefects(SelfTextures(good_images()))
    masks = [defects(image, np.random.default_rng(s), foreground)[1] for s in range(40)]
    assert not any((m & ~foreground).any() for m in masks)
    assert np.mean([m.any() for m in masks]) > 0.5


def test_foreground_of_an_object_on_a_plain_background() -> None:
    image = np.full((96, 96, 3), 30, np.uint8)
    image[20:70, 25:80] = (140, 160, 150)
    mask = foreground_mask(image)
    assert mask is not None
    assert mask[30:60, 35:70].all()
    assert mask.mean() < 0.5
    assert foreground_mask(good_images(1)[0]) is None  # a texture has no background


def test_sample_k_depends_on_seed_and_k_alone() -> None:
    a, b = samples(), samples()
    b[7], b[3]  # what was asked before does not matter
    for name in ("clean", "corrupted", "mask"):
        assert np.array_equal(a[5][name], b[5][name])
    assert not np.array_equal(a[5]["corrupted"], samples(seed=1)[5]["corrupted"])


def test_workers_do_not_change_the_samples() -> None:
    alone, parallel = iter(batches(samples(), 4, 2)), iter(batches(samples(), 4, 2, workers=2))
    for _ in range(3):
        assert np.array_equal(next(alone)["corrupted"], next(parallel)["corrupted"])


def test_processes_share_a_batch() -> None:
    whole = next(iter(batches(samples(), 0, 4)))["clean"].numpy()
    parts = [next(iter(batches(samples(), 0, 4, rank=r, world=2)))["clean"].numpy() for r in range(2)]
    assert np.array_equal(whole[0::2], parts[0])
    assert np.array_equal(whole[1::2], parts[1])


def test_three_images_fill_a_batch_of_32() -> None:
    assert next(iter(batches(samples(), 0, 32)))["clean"].shape == (32, 64, 96, 3)


def test_an_epoch_shows_every_image_once() -> None:
    seen = {samples()[k]["clean"].numpy().tobytes() for k in range(3)}
    assert len(seen) == 3


def test_half_crops_are_windows_of_the_batch() -> None:
    batch = next(iter(batches(samples(), 0, 4)))
    crops = half_crops(batch, np.random.default_rng(0))
    assert crops["corrupted"].shape == (4, 32, 32, 3)
    assert crops["mask"].shape == (4, 32, 32)


@pytest.mark.parametrize("rotation", ["small", "full"])
def test_rotation_keeps_the_size(rotation: str) -> None:
    assert samples(rotation=rotation)[0]["clean"].shape == (64, 96, 3)


def test_empty_texture_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures in the texture folder"):
        TextureFolder(tmp_path)
