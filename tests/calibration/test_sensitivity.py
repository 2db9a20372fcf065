from __future__ import annotations

import numpy as np
import onnx
import pytest

from segrd_edge.calibration.blocks import blocks_of
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
    return Trial(model, to_ranges(observed.histograms, "max"), many, observed.outputs, Scale(), truth, "onnxruntime")


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

    found = measure_sensitivity(trial, everything, blocks, track=track)  # type: ignore[arg-type]
    assert [one.block for one in found] == blocks
    for one in found:
        assert one.drift.map_max > 0
        assert one.drift.flip_rate is not None
    up = next(one for one in found if one.block.name == "up")
    alone = everything.only("up")
    assert up.drift == trial.on(FRAMES)(alone)
    assert up.to_dict()["drift"] == up.drift.to_dict()
    assert shown == ["each block alone in INT8"]
