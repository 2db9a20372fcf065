"""Sanity values, brute-force references with ties, scikit-learn, and the resampling rule of the masks."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from segrd_edge.errors import OptionError
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.metrics import Metrics, antialiased_weights, downsample_mask, evaluate_maps

EXACT = 1e-12  # what different orders of float64 sums may differ by
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "aupro", "iap", "iap90")
EIGHT = np.ones((3, 3), int)

Maps = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]
Masks = list[npt.NDArray[np.bool_] | None]


def make_case(seed: int, levels: int, count: int = 6, size: int = 12) -> tuple[Maps, Masks, Labels]:
    """Half of the images defective, with blobs of several shapes; scores tied more the fewer `levels`."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) >= count // 2
    masks: Masks = [
        ndimage.binary_dilation(rng.random((size, size)) > 0.96, iterations=int(rng.integers(1, 3))) if label else None
        for label in labels
    ]
    signal = np.stack([np.zeros((size, size)) if mask is None else 1.0 * mask for mask in masks])
    maps = np.round((signal + rng.normal(0, 0.8, signal.shape)) * levels / 4) * 4 / levels
    return maps.astype(np.float32), masks, labels


def evaluate(maps: Maps, masks: Masks, labels: Labels) -> Metrics:
    return evaluate_maps(maps, masks, labels, maps.max(axis=(1, 2)))


def pooled(maps: Maps, masks: Masks) -> tuple[Labels, Maps]:
    truth = np.stack([np.zeros(maps.shape[1:], bool) if mask is None else mask for mask in masks])
    return truth, maps


def instance_pixels(maps: Maps, masks: Masks) -> list[Maps]:
    found = []
    for image, mask in zip(maps, masks, strict=True):
        if mask is not None:
            labelled, count = ndimage.label(mask, EIGHT)
            found += [image[labelled == number] for number in range(1, count + 1)]
    return found


def brute_auroc(truth: Labels, scores: Maps | npt.NDArray[np.float64]) -> float:
    positive: list[float] = scores[truth].tolist()
    negative: list[float] = scores[~truth].tolist()
    return float(np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]))


def brute_ap(truth: Labels, scores: Maps) -> float:
    total, recall_before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        found = scores >= threshold
        recall = (found & truth).sum() / truth.sum()
        total += (recall - recall_before) * (found & truth).sum() / found.sum()
        recall_before = recall
    return total


def brute_aupro(truth: Labels, scores: Maps, instances: list[Maps]) -> float:
    """Integrates the piecewise linear curve on a grid that holds every corner and the limit."""
    fpr, pro = [0.0], [0.0]
    for threshold in np.unique(scores)[::-1]:
        fpr.append(float(np.mean(scores[~truth] >= threshold)))
        pro.append(float(np.mean([np.mean(pixels >= threshold) for pixels in instances])))
    area = 0.0
    for (x0, x1), (y0, y1) in zip(itertools.pairwise(fpr), itertools.pairwise(pro), strict=True):
        if x0 >= 0.3:
            break
        end = min(x1, 0.3)
        y_end = y1 if x1 <= 0.3 else y0 + (y1 - y0) * (0.3 - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / 0.3


def brute_iap(truth: Labels, scores: Maps, instances: list[Maps]) -> tuple[float, float]:
    """DeSTSeg's definition, with recall counted from the instances and not from an index."""
    values = sorted(float(np.sort(pixels)[::-1][pixels.size // 2]) for pixels in instances)
    points = []
    for rank, value in enumerate(values):
        found = scores >= value
        points.append((1 - rank / len(values), (found & truth).sum() / found.sum()))
    envelope = [max(p for r, p in points if r >= recall - 1e-9) for recall, _ in points]
    at_90 = min((r, p) for (r, _), p in zip(points, envelope, strict=True) if r >= 0.9 - 1e-9)[1]
    return float(np.mean(envelope)), float(at_90)


@pytest.mark.parametrize("levels", [1, 4, 16, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_pixel_metrics_equal_brute_force_with_ties(seed: int, levels: int) -> None:
    maps, masks, labels = make_case(seed, levels)
    truth, scores = pooled(maps, masks)
    instances = instance_pixels(maps, masks)
    got = evaluate(maps, masks, labels)
    iap, iap90 = brute_iap(truth, scores, instances)
    assert got.defect_instances == len(instances) > 1
    assert got.pixel_auroc == pytest.approx(brute_auroc(truth, scores), abs=EXACT)
    assert got.pixel_ap == pytest.approx(brute_ap(truth, scores), abs=EXACT)
    assert got.aupro == pytest.approx(brute_aupro(truth, scores, instances), abs=EXACT)
    assert got.iap == pytest.approx(iap, abs=EXACT)
    assert got.iap90 == pytest.approx(iap90, abs=EXACT)


@pytest.mark.parametrize("levels", [3, 10_000])
def test_pixel_auroc_and_ap_equal_scikit_learn(levels: int) -> None:
    maps, masks, labels = make_case(seed=7, levels=levels, count=8, size=64)
    truth, scores = pooled(maps, masks)
    got = evaluate(maps, masks, labels)
    assert got.pixel_auroc == pytest.approx(roc_auc_score(truth.ravel(), scores.ravel()), abs=EXACT)
    assert got.pixel_ap == pytest.approx(average_precision_score(truth.ravel(), scores.ravel()), abs=EXACT)


@pytest.mark.parametrize("levels", [1, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_image_metrics_equal_brute_force_with_ties(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(40) > 0.6
    scores = np.round((labels + rng.normal(0, 1, 40)) * levels) / levels
    got = evaluate_maps(np.zeros((40, 2, 2), np.float32), [None] * 40, labels, scores)
    assert got.image_auroc == pytest.approx(brute_auroc(labels, scores), abs=EXACT)
    best = max(float(f1_score(labels, scores >= threshold)) for threshold in scores)
    assert got.f1 == pytest.approx(best, abs=EXACT)


def test_f1_is_zero_free_of_nan_when_the_best_scores_are_good_images() -> None:
    got = evaluate_maps(np.zeros((3, 2, 2), np.float32), [None] * 3, [False, False, True], [0.9, 0.8, 0.1])
    assert got.f1 == pytest.approx(0.5)
    assert got.image_auroc == 0.0


def test_perfect_map_scores_one_and_never_above() -> None:
    for seed in range(20):
        _, masks, labels = make_case(seed, levels=4)
        truth, _ = pooled(np.zeros((6, 12, 12), np.float32), masks)
        got = evaluate(truth.astype(np.float32), masks, labels)
        for name in ("image_auroc", "f1", *PIXEL_METRICS):
            assert getattr(got, name) == pytest.approx(1.0, abs=EXACT), name
            assert getattr(got, name) <= 1.0, name


@pytest.mark.parametrize("value", [0.0, -0.0, 0.5])
def test_constant_map(value: float) -> None:
    _, masks, labels = make_case(seed=3, levels=4)
    maps = np.full((6, 12, 12), value, np.float32)
    truth, _ = pooled(maps, masks)
    got = evaluate(maps, masks, labels)
    assert got.image_auroc == 0.5
    assert got.pixel_auroc == 0.5
    assert got.aupro == pytest.approx(0.15, abs=EXACT)
    # The trap in DeSTSeg's code: (score × mask >= 0) is true everywhere, which would give 1.
    assert got.pixel_ap == got.iap == got.iap90 == pytest.approx(truth.mean(), abs=EXACT)


def test_negative_and_positive_zero_tie() -> None:
    maps, masks, labels = make_case(seed=3, levels=4)
    signed = np.where(np.random.default_rng(0).random(maps.shape) > 0.5, 0.0, -0.0).astype(np.float32)
    assert evaluate(signed, masks, labels).pixel_auroc == 0.5


def test_random_map_is_at_chance() -> None:
    rng = np.random.default_rng(11)
    _, masks, labels = make_case(seed=11, levels=4, count=40, size=64)
    maps = rng.random((40, 64, 64), dtype=np.float32)
    truth, _ = pooled(maps, masks)
    got = evaluate_maps(maps, masks, labels, rng.random(40))
    assert got.pixel_auroc == pytest.approx(0.5, abs=0.01)  # standard error is below 0.002
    assert got.aupro == pytest.approx(0.15, abs=0.01)
    assert got.pixel_ap == pytest.approx(truth.mean(), abs=0.01)


def test_diagonal_neighbours_are_one_instance() -> None:
    mask = np.eye(8, dtype=bool)
    got = evaluate(np.ones((1, 8, 8), np.float32), [mask], np.array([True]))
    assert got.defect_instances == 1


def test_the_label_decides_not_the_mask() -> None:
    maps, masks, labels = make_case(seed=1, levels=10_000)
    everywhere = np.ones((12, 12), bool)
    misleading: Masks = [everywhere if not label else mask for label, mask in zip(labels, masks, strict=True)]
    assert evaluate(maps, misleading, labels) == evaluate(maps, masks, labels)
    vanished: Masks = [*masks[:-1], np.zeros((12, 12), bool)]
    assert evaluate(maps, vanished, labels).image_auroc == evaluate(maps, masks, labels).image_auroc


def test_defect_images_without_mask_leave_the_pixel_metrics_alone() -> None:
    maps, masks, labels = make_case(seed=2, levels=16)
    some: Masks = [*masks[:-1], None]
    got, without = evaluate(maps, some, labels), evaluate(maps[:-1], masks[:-1], labels[:-1])
    assert [getattr(got, name) for name in PIXEL_METRICS] == [getattr(without, n) for n in PIXEL_METRICS]
    assert (got.images_good, got.images_defect, got.images_with_mask, got.images_without_mask) == (3, 3, 2, 1)


@pytest.mark.parametrize(
    ("labels", "masks", "undefined"),
    [
        ([False, True], [None, None], PIXEL_METRICS),
        ([False, False], [None, None], ("image_auroc", "f1", *PIXEL_METRICS)),
        ([True, True], [np.ones((4, 4), bool)] * 2, ("image_auroc", "f1", *PIXEL_METRICS)),
        ([False, True], [None, np.zeros((4, 4), bool)], PIXEL_METRICS),
    ],
    ids=["no mask", "no defect", "no normal pixel", "empty mask"],
)
def test_undefined_metrics_are_none(labels: list[bool], masks: Masks, undefined: tuple[str, ...]) -> None:
    maps = np.random.default_rng(0).random((2, 4, 4), dtype=np.float32)
    got = json.loads(json.dumps(evaluate_maps(maps, masks, labels, [0.1, 0.2]).to_dict()))
    assert {name for name, value in got.items() if value is None} == set(undefined)


GOOD_MAPS = np.zeros((2, 4, 4), np.float32)
NAN_MAPS = np.where(np.arange(32).reshape(2, 4, 4) == 20, np.nan, 0).astype(np.float32)


@pytest.mark.parametrize(
    ("maps", "masks", "scores", "message"),
    [
        (NAN_MAPS, [None, None], [0, 1], "anomaly maps of 1 images, the first at index 1"),
        (GOOD_MAPS, [None, None], [0, np.inf], "anomaly scores"),
        (GOOD_MAPS[0], [None, None], [0, 1], r"shapes \[\(4,\)\]"),
        (GOOD_MAPS, [None], [0, 1], "1 masks"),
        (GOOD_MAPS, [None, None], [0, 1, 2], "scores of"),
        (GOOD_MAPS, [None, np.zeros((8, 8), bool)], [0, 1], "downsample_mask"),
        (GOOD_MAPS, [None, np.zeros((4, 4), np.uint8)], [0, 1], "mask 1 is uint8"),
    ],
)
def test_input_that_cannot_be_evaluated(maps: Maps, masks: Masks, scores: list[float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        evaluate_maps(maps, masks, [False, True], scores)


def test_a_hundred_images_take_less_than_three_seconds_of_one_core() -> None:
    """The issue's limit, in CPU time of this process, which other load on the machine does not change."""
    rng = np.random.default_rng(5)
    maps = rng.random((100, 256, 256), dtype=np.float32)
    labels = np.arange(100) >= 50
    blob = np.zeros((256, 256), bool)
    blob[40:90, 60:120] = blob[200:210, 30:200] = True
    masks: Masks = [blob if label else None for label in labels]
    start = time.process_time()
    evaluate(maps, masks, labels)
    assert time.process_time() - start < 3.0


@pytest.mark.parametrize(
    ("frame_hw", "size_hw"),
    [((700, 700), (256, 256)), ((278, 684), (256, 640)), ((97, 131), (64, 160)), ((64, 64), (64, 64))],
)
def test_masks_are_resampled_as_torch_does(frame_hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    mask = np.random.default_rng(0).random(frame_hw) > 0.5
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(mask[None, None].astype(np.float64)),  # float32 torch is 4e-5 off itself
        size=size_hw,
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )[0, 0].numpy()
    rows = antialiased_weights(frame_hw[0], size_hw[0])
    columns = antialiased_weights(frame_hw[1], size_hw[1])
    np.testing.assert_allclose(rows @ mask.astype(float) @ columns.T, expected, rtol=0, atol=1e-5)
    clear = np.abs(expected - 0.5) > 1e-5
    np.testing.assert_array_equal(downsample_mask(mask, size_hw)[clear], (expected >= 0.5)[clear])


def test_half_covered_pixels_are_defective() -> None:
    mask = np.zeros((700, 700), bool)
    mask[:, :350] = True  # the edge falls between two network pixels of 256, and on the middle of one of 255
    assert downsample_mask(mask, (256, 256))[:, :128].all()
    assert downsample_mask(mask, (255, 255)).sum(axis=1).tolist() == [128] * 255


def test_letterbox_border_is_normal_and_the_frame_lands_in_its_place() -> None:
    mask = np.ones((100, 200), bool)
    placement = Preprocess(size_hw=(64, 64), fit="letterbox").placement((100, 200))
    got = downsample_mask(mask, (64, 64), placement)
    assert got[16:48].all()
    assert not got[:16].any()
    assert not got[48:].any()


def test_uint8_and_bool_masks_agree() -> None:
    mask = np.random.default_rng(1).random((90, 70)) > 0.5
    u8 = mask.astype(np.uint8) * 255
    np.testing.assert_array_equal(downsample_mask(u8, (32, 32)), downsample_mask(mask, (32, 32)))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((8, 8), np.uint8), "pass mask > 0"),
        (np.zeros((8, 8), np.float32), "float32"),
        (np.zeros((8, 8, 3), np.uint8), r"\(8, 8, 3\)"),
    ],
)
def test_masks_that_are_refused(mask: npt.NDArray[np.uint8], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        downsample_mask(mask, (4, 4))


def test_a_placement_of_another_frame_is_refused() -> None:
    placement = Preprocess(size_hw=(64, 64)).placement((100, 200))
    with pytest.raises(OptionError, match="placement"):
        downsample_mask(np.zeros((50, 50), bool), (64, 64), placement)
