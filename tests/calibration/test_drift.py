from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from segrd_edge.calibration.drift import MAP_STEP, SMALLEST_SPAN, Drift, Scale, Truth, measure_drift
from segrd_edge.engines import EngineOutput


def output(score: float, *pixels: float) -> EngineOutput:
    return EngineOutput(score, np.array([pixels], np.float32))


def test_figures() -> None:
    drift = measure_drift(
        [output(0.5, 0.6, 0.0), output(0.2, 0.3, 0.4)],
        [output(0.6, 0.0, 0.6), output(0.2, 0.6, 0.8)],
    )
    assert drift.score_mean == pytest.approx(0.05)
    assert drift.score_max == pytest.approx(0.1)
    assert drift.map_cosine_mean == pytest.approx(0.5)  # one map turned by 90 degrees, one doubled
    assert drift.map_cosine_min == pytest.approx(0)
    assert drift.map_max == pytest.approx(0.6)


def test_maps_that_show_nothing_are_not_compared() -> None:
    drift = measure_drift([output(0, 1e-9, 0)], [output(0, 0, 1e-9)])
    assert drift.map_cosine_mean == 1
    drift = measure_drift([output(0, 0, 0)], [output(1, 1, 1)])
    assert drift.map_cosine_mean == 0


def graph(activation: str) -> onnx.ModelProto:
    node = onnx.helper.make_node(activation, ["raw"], ["map"])
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))


def test_probabilities_are_compared_as_they_are() -> None:
    assert Scale.of(graph("Sigmoid"), [output(0.3, 0.2, 0.3)]) == Scale(0, 1)


def test_distances_are_compared_by_how_far_good_frames_and_defects_are_apart() -> None:
    """The same differences count the same whatever a model's distances are: here a hundredth of the span."""
    figures = []
    for floor, span in ((0.0, 1.0), (0.25, 0.1), (0.02, 0.005)):
        reference = [
            output(floor + 0.1 * span, floor, floor, floor + 0.1 * span),
            output(floor + span, floor, floor, floor + span),
        ]
        moved = [output(o.score + 0.01 * span, *(o.anomaly_map[0] + [0, 0.01 * span, 0])) for o in reference]
        scale = Scale.of(graph("Clip"), reference)
        assert (scale.floor, scale.span) == (pytest.approx(floor), pytest.approx(span))
        figures.append(measure_drift(reference, moved, scale))
    for drift in figures:
        assert drift.score_mean == pytest.approx(0.01, rel=1e-3)
        assert drift.map_max == pytest.approx(0.01, rel=1e-2)
        assert drift.map_cosine_mean == pytest.approx(figures[0].map_cosine_mean, abs=1e-4)
        assert drift.map_cosine_mean < 0.9999  # the level that all pixels share hides nothing


def test_frames_that_are_all_alike_leave_a_scale() -> None:
    assert Scale.of(graph("Clip"), [output(0.1, 0.1, 0.1)]).span == SMALLEST_SPAN


def test_what_defects_and_verdicts_lose() -> None:
    """Two good images and two with a defect on their left half, at the resolution that counts."""
    left = np.zeros((MAP_STEP, 4 * MAP_STEP), bool)
    left[:, : 2 * MAP_STEP] = True
    truth = Truth([None, None, left, left], threshold=0.5)

    def outputs(*scores: float, defect: float) -> list[EngineOutput]:
        maps = [np.full(left.shape, 0.1, np.float32), np.full(left.shape, 0.1, np.float32)]
        maps += [np.where(left, defect, 0.1).astype(np.float32)] * 2
        return [EngineOutput(score, anomaly_map) for score, anomaly_map in zip(scores, maps, strict=True)]

    reference = outputs(0.1, 0.2, 0.6, 0.7, defect=0.9)
    same = measure_drift(reference, reference, truth=truth)
    assert (same.image_auroc_drop, same.pixel_ap_drop, same.flip_rate, same.pairs_turned) == (0, 0, 0, 0)
    moved = measure_drift(reference, outputs(0.1, 0.65, 0.6, 0.45, defect=0.0), truth=truth)
    assert moved.image_auroc_drop == 0.5  # the second good image scores above both defects
    assert moved.pixel_ap_drop == pytest.approx(1 - 4 / 16)  # 4 of 16 pixels are defects, and all come last
    assert moved.flip_rate == 0.5
    assert moved.pairs_turned == 0.5
    without = measure_drift(reference, outputs(0.1, 0.65, 0.6, 0.45, defect=0.0))
    assert (without.image_auroc_drop, without.pixel_ap_drop, without.flip_rate) == (None, None, None)
    assert without.pairs_turned is None
    assert set(moved.to_dict()) - set(without.to_dict()) == {
        "image_auroc_drop", "pixel_ap_drop", "flip_rate", "pairs_turned",
    }  # fmt: skip
    assert measure_drift(reference, reference, truth=Truth(truth.masks)).flip_rate is None  # no threshold


def test_auroc_needs_good_images_and_defects() -> None:
    good = [output(0.1, 0.1, 0.2), output(0.3, 0.1, 0.2)]
    drift = measure_drift(good, good, truth=Truth([None, None], 0.2))
    assert (drift.image_auroc_drop, drift.pixel_ap_drop, drift.flip_rate) == (None, None, 0)
    assert drift.pairs_turned is None


def test_pairs_that_turn_bound_what_image_auroc_can_change() -> None:
    """Swaps in both directions: the AUROC shows their difference, the pairs their sum. A common shift turns none."""
    truth = Truth([None, None, np.ones((1, 3), bool), np.ones((1, 3), bool)])

    def outputs(*scores: float) -> list[EngineOutput]:
        return [output(score, 0.1, 0.2) for score in scores]

    reference = outputs(0.1, 0.5, 0.4, 0.6)
    shifted = measure_drift(reference, outputs(0.2, 0.6, 0.5, 0.7), truth=truth)
    assert (shifted.pairs_turned, shifted.image_auroc_drop) == (0, 0)
    swapped = measure_drift(reference, outputs(0.1, 0.45, 0.46, 0.44), truth=truth)
    assert (swapped.pairs_turned, swapped.image_auroc_drop) == (0.5, 0)
    tied = measure_drift(reference, outputs(0.1, 0.4, 0.4, 0.6), truth=truth)
    assert (tied.pairs_turned, tied.image_auroc_drop) == (1 / 8, -1 / 8)
    assert str(swapped).endswith(", pairs turned 0.5000")


@pytest.mark.parametrize(
    ("worse", "expected"),
    [
        ({}, True),
        ({"score_mean": 0.02}, False),
        ({"map_cosine_mean": 0.98}, False),
        ({"pairs_turned": 0.002}, False),
        ({"pixel_ap_drop": 0.1}, False),
        ({"flip_rate": 0.2}, False),
        ({"flip_rate": None}, True),  # not known of both
        ({"score_max": 1.0}, True),  # no limit is about it
    ],
)
def test_nowhere_worse(worse: dict[str, float | None], expected: bool) -> None:
    one = Drift(0.01, 0.02, 0.99, 0.98, 0.1, 0.0, 0.0, 0.1, 0.001)
    assert replace(one, **worse).is_nowhere_worse(one) == expected
