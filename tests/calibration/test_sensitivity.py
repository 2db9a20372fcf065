from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from segrd_edge.calibration.blocks import blocks_of
from segrd_edge.calibration.budget import Budget
from segrd_edge.calibration.drift import Scale, Truth
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import tensors_to_calibrate
from segrd_edge.calibration.ranges import observe, to_ranges
from segrd_edge.calibration.sensitivity import FRAMES, measure_sensitivity
from segrd_edge.calibration.trial import Trial


@pytest.fixture(scope="module")
def trial(model: onnx.ModelProto, images: list[np.ndarray]) -> Trial:
    """Of few good images and many with defects."""
    many = images * 3
    everything = Plan.of(model)
    alone = [everything.only(block.name) for block in blocks_of(model, everything)]
    observed = observe(model, tensors_to_calibrate(model, *alone), many)
    mask = np.ones(images[0].shape[:2], bool)
    truth = Truth([None] * 4 + [mask] * 14, 0.5)
    ranges = replace(to_ranges(observed.histograms, "max"), reach=observed.largest)
    return Trial(model, ranges, many, observed.outputs, Scale(), truth, "onnxruntime")


def test_some_frames_are_of_both_kinds_and_spread(trial: Trial) -> None:
    few = trial.on(6)
    assert [mask is None for mask in few.truth.masks] == [True] * 3 + [False] * 3
    wanted = [0, 1, 2, 4, 8, 13]
    assert [output.score for output in few.reference] == [trial.reference[i].score for i in wanted]
    assert few.truth.threshold == 0.5
    many = trial.on(12)  # there are but four good ones
    assert sum(mask is None for mask in many.truth.masks) == 4
    assert len(many.images_bgr_u8) == 12
    assert len(trial.on(100).images_bgr_u8) == 18


def test_each_block_alone(trial: Trial, model: onnx.ModelProto) -> None:
    everything = Plan.of(model)
    blocks = blocks_of(model, everything)
    shown: list[str] = []

    def track(items: list[object], text: str) -> list[object]:
        shown.append(text)
        return items

    found = measure_sensitivity(trial, everything, blocks, Budget(), track=track)  # type: ignore[arg-type]
    assert [one.block for one in found] == blocks
    for one in found:
        assert one.drift.map_max > 0
        assert one.drift.flip_rate is not None
    up = next(one for one in found if one.block.name == "up")
    alone = everything.only("up")
    assert up.drift == trial.on(FRAMES)(alone)
    assert up.to_dict()["drift"] == up.drift.to_dict()
    assert shown == ["each block alone in INT8", "those that cost much, in two terms"]


def test_blocks_that_cost_much_are_tried_in_two_terms(trial: Trial, model: onnx.ModelProto) -> None:
    everything = Plan.of(model)
    blocks = blocks_of(model, everything)
    generous = measure_sensitivity(trial, everything, blocks, Budget(score_shift=1, map_cosine=0))
    assert all(one.two_term is None for one in generous)
    strict = Budget(score_shift=1e-5, map_cosine=0.999999)
    found = measure_sensitivity(trial, everything, blocks, strict)
    tried = [one for one in found if one.two_term is not None]
    assert tried
    for one in tried:
        assert one.two_term is not None
        assert one.two_term == trial.on(FRAMES)(
            everything.narrowed(one.block.nodes, dict.fromkeys(everything.quantised, "")).in_two_terms(
                dict.fromkeys(one.block.nodes, "")
            )
        )
        assert one.to_dict()["two_term_drift"] == one.two_term.to_dict()
