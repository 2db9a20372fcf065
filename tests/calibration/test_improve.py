"""Improvements are asked for by name, and corrected biases are taken where they help."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from segrd_edge.calibration import improve, ranges
from segrd_edge.calibration.bias import correct_biases
from segrd_edge.calibration.budget import Budget
from segrd_edge.calibration.cache import ObservationCache
from segrd_edge.calibration.calibrate import calibrate
from segrd_edge.calibration.drift import Scale, Truth
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.improve import levelled
from segrd_edge.calibration.ladder import Attempt, Choice
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import tensors_to_calibrate
from segrd_edge.calibration.ranges import observe, to_ranges
from segrd_edge.calibration.session import run_engine
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.calibration.trial import Trial

WRONG = 0.5


@pytest.fixture
def off(model: onnx.ModelProto, images: list[np.ndarray]) -> tuple[Trial, Choice]:
    """A trial of everything in INT8 in which one convolution is off by WRONG."""
    plan = Plan.of(model)
    observed = observe(model, tensors_to_calibrate(model, plan), images)
    seen = to_ranges(observed.histograms, "max")
    truth = Truth([None, *[np.zeros(image.shape[:2], bool) for image in images[1:]]])
    wrong = correct_biases(model, {"head.fuse": np.full(16, WRONG)})
    trial = Trial(wrong, seen, images, observed.outputs, Scale(), truth, "onnxruntime")
    return trial, Choice("all", {"all": Attempt(plan, trial(plan), 0.5)})


@pytest.mark.parametrize(("shift", "is_taken"), [(-WRONG, True), (WRONG, False)])
def test_corrected_biases_are_taken_where_int8_comes_nearer(
    off: tuple[Trial, Choice], monkeypatch: pytest.MonkeyPatch, shift: float, is_taken: bool
) -> None:
    monkeypatch.setattr(improve, "output_shifts", lambda *_, **__: {"head.fuse": np.full(16, shift)})
    trial, choice = improve.with_corrected_biases(*off, Budget())
    assert (trial is not off[0]) == is_taken
    cost = Budget().cost
    assert (cost(choice.taken.drift) < cost(off[1].taken.drift) / 4) == is_taken
    assert choice.taken.drift == trial(choice.taken.plan)


def test_levels_do_not_look_again_at_what_a_cache_has(
    model: onnx.ModelProto, images: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [CalibrationFrame(image, Path("photo.png"), "0" * 64, "good") for image in images]
    settings, cache = Int8Settings(scope="head", improve=("levels",)), ObservationCache(tmp_path)
    first = calibrate(model, frames, settings, cache=cache)
    session = SimpleNamespace(run=lambda image: pytest.fail("a frame was observed again"))
    monkeypatch.setattr(ranges, "GraphSession", lambda *args: session)
    again = calibrate(model, frames, settings, cache=cache)
    assert again.model.SerializeToString(deterministic=True) == first.model.SerializeToString(deterministic=True)


def test_levelled_computes_the_same(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    even, largest = levelled(model, Plan.of(model), images, ["stem.out"])
    assert even != model
    inner = "block.conv1.relu.out"
    assert largest["stem.out"] == observe(model, [], images, also=["stem.out"]).largest["stem.out"]
    assert largest[inner] != observe(even, [], images, also=[inner]).largest[inner]
    for before, after in zip(*(run_engine("onnxruntime", graph, images) for graph in (model, even)), strict=True):
        np.testing.assert_allclose(after.anomaly_map, before.anomaly_map, atol=2e-6)
