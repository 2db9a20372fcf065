"""The budget's logic, on figures that nobody measured."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from segrd_edge.benchmarks.choice import Contestant, Scored, auroc_noise, choose, pixel_ap_noise

from .made_up import contestant


def names(contestants: list[Contestant]) -> list[str]:
    return [found.name for found in contestants]


def test_without_a_budget_the_most_accurate_is_chosen_however_slow() -> None:
    choice = choose([contestant("fast", 10, missed=8), contestant("slow", 100)])
    assert choice.best is not None
    assert choice.best.model == "slow"
    assert choice.equal == []


def test_the_budget_is_held_against_p95() -> None:
    found = [contestant("fast", 10, missed=8), contestant("slow", 50, p95_ms=61)]
    choice = choose(found, budget_ms=60)
    assert choice.best is found[0]
    assert names(choice.fitting) == ["fast at fp32"]
    assert choose(found, budget_ms=61).best is found[1]
    unknown = [found[0], replace(found[1], p95_ms=None)]
    assert choose(unknown, budget_ms=60).best is unknown[1]  # by the median where the samples were too few


def test_nothing_keeps_the_budget() -> None:
    choice = choose([contestant("a", 30), contestant("b", 20)], budget_ms=5)
    assert choice.best is None
    assert choice.fitting == []
    assert choice.fastest.model == "b"


def test_of_what_the_images_cannot_tell_apart_the_fastest_is_chosen() -> None:
    found = [contestant("slow", 90, 0, 0.71), contestant("fast", 30, 1, 0.70), contestant("bad", 10, 10, 0.7)]
    choice = choose(found)
    assert choice.best is found[1]
    assert choice.leader is found[0]
    assert names(choice.near) == ["fast at fp32", "slow at fp32"]
    assert names(choice.equal) == ["slow at fp32"]


def test_pixel_ap_decides_between_equal_image_auroc() -> None:
    found = [contestant("blurred", 10, 0, 0.4), contestant("sharp", 80, 1, 0.7)]
    choice = choose(found)
    assert choice.best is found[1]
    assert choice.leader_ap is found[1]
    assert names(choice.near) == ["blurred at fp32", "sharp at fp32"]
    assert choice.equal == []


def test_without_masks_image_auroc_decides_alone() -> None:
    found = [contestant("a", 80, 0, None), contestant("b", 10, 1, None), contestant("c", 5, 9, None)]
    choice = choose(found)
    assert choice.best is found[1]
    assert choice.leader_ap is None


def test_without_an_evaluation_nothing_is_chosen() -> None:
    found = [replace(contestant("a", 80), image_auroc=None, pixel_ap=None, images=None)]
    choice = choose(found)
    assert choice.best is None
    assert choice.fitting == found


def test_image_auroc_noise_is_what_resampled_images_give() -> None:
    """DeLong's formula against a bootstrap over the same images, within 10 %."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) >= 200
    common = rng.normal(size=400) + 1.2 * labels
    pair = [Scored(labels, common + rng.normal(0, 0.7, 400), np.full(400, np.nan)) for _ in range(2)]
    a, b = (Contestant("m", "fp32", 0.8, None, 1, 1, images) for images in pair)

    def auroc(scores: np.ndarray, picked: np.ndarray) -> float:
        good, bad = scores[picked[picked < 200]], scores[picked[picked >= 200]]
        return float((bad[:, None] > good[None, :]).mean())

    differences = []
    for _ in range(1500):
        picked = np.concatenate([rng.integers(0, 200, 200), rng.integers(200, 400, 200)])
        differences.append(auroc(pair[0].scores, picked) - auroc(pair[1].scores, picked))
    assert auroc_noise(a, b) == pytest.approx(2 * np.std(differences), rel=0.1)


def test_pixel_ap_noise_is_twice_the_standard_error_of_the_mean_difference() -> None:
    a, b = contestant("a", 10, 0, 0.7), contestant("b", 10, 0, 0.7)
    assert a.images is not None
    assert b.images is not None
    rng = np.random.default_rng(1)
    a.images.pixel_ap[20:] = rng.uniform(0.3, 0.9, 20)
    differences = (a.images.pixel_ap - b.images.pixel_ap)[20:]
    assert pixel_ap_noise(a, b) == pytest.approx(2 * np.std(differences, ddof=1) / math.sqrt(20))


def test_noise_has_a_floor_and_is_endless_with_too_few_images() -> None:
    a = contestant("a", 10)
    assert auroc_noise(a, a) == 0.005
    assert pixel_ap_noise(a, a) == 0.02
    assert a.images is not None
    keep = slice(0, 21)  # one defect
    few = Scored(a.images.defective[keep], a.images.scores[keep], a.images.pixel_ap[keep])
    lone = replace(a, images=few)
    assert auroc_noise(lone, lone) == math.inf
    assert pixel_ap_noise(lone, lone) == math.inf
