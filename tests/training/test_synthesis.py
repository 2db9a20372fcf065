"""Synthetic defects and the samples made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segrd_edge.errors import DataError, OptionError
from segrd_edge.training.samples import GoodImages, TrainingSamples, batches, half_crops
from segrd_edge.training.synthesis import (
    DEFECTS,
    FIELD_THRESHOLD,
    Defects,
    MixedDefects,
    PatchDefects,
    PerlinDefects,
    SelfTextures,
    SimplexDefects,
    TextureFolder,
    create_defects,
    foreground_mask,
    perlin_field,
)
from segrd_edge.training.synthesis.patches import VISIBLE_CHANGE
from segrd_edge.training.synthesis.simplex import octaves, simplex_noise

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


def defects_named(*names: str, size_hw: tuple[int, int] = (64, 96)) -> Defects:
    images = good_images(5, size_hw)
    return create_defects(names, images[1:], SelfTextures(images))


@pytest.mark.parametrize("name", DEFECTS)
def test_the_mask_is_where_pixels_change(name: str) -> None:
    image = good_images(1)[0]
    before, defects = image.copy(), defects_named(name)
    for seed in range(20):
        corrupted, mask = defects(image, np.random.default_rng(seed))
        assert corrupted.shape == image.shape
        assert corrupted.dtype == np.uint8
        assert mask.shape == image.shape[:2]
        change = np.abs(corrupted.astype(int) - image).max(axis=2)
        if name == "nsa":  # all of a patch changes a little; a label of single pixels is smoothed away
            assert (change[~mask] >= VISIBLE_CHANGE).mean() < 0.02
        else:
            assert not change[~mask].any()
        if mask.sum() > 50:
            assert (change[mask] > 0).mean() > 0.5
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_stay_on_the_foreground(name: str) -> None:
    size_hw = (192, 288)  # patches are so small on a small image that few of them show
    image, defects = good_images(1, size_hw)[0], defects_named(name, size_hw=size_hw)
    foreground = np.zeros(size_hw, bool)
    foreground[48:144, 90:180] = True
    foreground[48:90, 90:120] = False
    drawn = [defects(image, np.random.default_rng(s), foreground) for s in range(40)]
    for corrupted, mask in drawn:
        assert np.array_equal(corrupted[~foreground], image[~foreground])
        assert not (mask & ~foreground).any()
    assert np.mean([mask.any() for _, mask in drawn]) > 0.5


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_a_function_of_its_generator(name: str) -> None:
    image, defects = good_images(1)[0], defects_named(name)
    draws = [defects(image, np.random.default_rng([3, k])) for k in (1, 1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))
    assert not np.array_equal(draws[0][0], draws[2][0])


def test_patches_are_cloned_without_a_seam_and_labelled_where_they_show() -> None:
    image = np.full((128, 192, 3), 120, np.uint8)
    stripes = np.where(np.arange(192) % 8 < 4, 60, 180).astype(np.uint8)
    source = np.broadcast_to(stripes[None, :, None], image.shape).copy()
    shares = []
    for seed in range(20):
        corrupted, mask = PatchDefects([source])(image, np.random.default_rng(seed))
        change = np.abs(corrupted.astype(int) - image).max(axis=2)
        shares.append(mask.mean())
        if mask.mean() > 0.01:
            assert change[mask].mean() > 20
            assert change[~mask].mean() < 2
    assert 0.01 < np.mean(shares) < 0.3
    # The gradients are the patch's, the level is the image's: a patch that differs in brightness alone vanishes.
    brighter, mask = PatchDefects([image + 60])(image, np.random.default_rng(0))
    assert not mask.any()
    assert np.abs(brighter.astype(int) - image).max() <= 2


def test_simplex_noise_is_smooth_spread_and_seeded() -> None:
    rng = np.random.default_rng(0)
    points, permutation = rng.uniform(-20, 20, (50_000, 3)), rng.permutation(256)
    values = simplex_noise(points, permutation)
    assert 0.9 < values.max() <= 1
    assert -1 <= values.min() < -0.9
    assert abs(values.mean()) < 0.01
    step = 1e-5
    for axis in np.eye(3):  # no jump anywhere: the slope is bounded
        assert np.abs(simplex_noise(points + step * axis, permutation) - values).max() < 10 * step
    assert not np.allclose(simplex_noise(points[:9], rng.permutation(256)), values[:9])
    assert np.abs(simplex_noise(np.arange(27.0).reshape(9, 3) * 0, permutation)).max() == 0  # zero on the lattice


def test_octaves_are_alike_across_channels_where_slow_and_different_where_fast() -> None:
    noise = octaves((31, 31), (1, 1), np.random.default_rng(0))
    assert noise.shape == (31, 31, 3)
    correlation = np.corrcoef(noise[..., 0].ravel(), noise[..., 2].ravel())[0, 1]
    assert 0.2 < correlation < 0.99


def test_simplex_patches_grow_with_the_image() -> None:
    small, large = (
        [SimplexDefects()(np.full((s, s, 3), 99, np.uint8), np.random.default_rng(k))[1].sum() for k in range(30)]
        for s in (128, 256)
    )
    assert np.mean(large) == pytest.approx(4 * np.mean(small), rel=0.1)
    assert 10 * 10 <= min(large) <= max(large) <= 31 * 31


def test_mixed_defects_are_drawn_as_often_as_they_are_named() -> None:
    calls: list[str] = []

    def kind(name: str) -> Defects:
        return lambda image, rng, foreground=None: (calls.append(name), (image, image[..., 0] > 0))[1]

    mixed = MixedDefects([kind("a"), kind("a"), kind("b")])
    for seed in range(300):
        mixed(good_images(1)[0], np.random.default_rng(seed))
    assert 0.55 < calls.count("a") / 300 < 0.78


def test_defects_by_name() -> None:
    assert isinstance(defects_named("nsa"), PatchDefects)
    assert isinstance(defects_named("perlin", "nsa"), MixedDefects)
    with pytest.raises(OptionError, match=r"'smudge'\nexpected: one or more of perlin, nsa, simplex"):
        defects_named("perlin", "smudge")
    with pytest.raises(OptionError, match="no synthetic defects"):
        defects_named()


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
