from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from segrd_edge.calibration import calibrate as station
from segrd_edge.calibration.calibrate import calibrate
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.ranges import observe
from segrd_edge.calibration.session import run_engine
from segrd_edge.errors import OptionError


@pytest.fixture(scope="module")
def frames(images: list[np.ndarray]) -> list[CalibrationFrame]:
    return [CalibrationFrame(image, Path("photo.png"), "0" * 64, "good") for image in images]


def limits(monkeypatch: pytest.MonkeyPatch, score: float, cosine: float) -> None:
    monkeypatch.setattr(station, "SCORE_DRIFT_LIMIT", score)
    monkeypatch.setattr(station, "MAP_COSINE_LIMIT", cosine)


def test_auto_takes_all_where_the_drift_is_small(
    model: onnx.ModelProto, frames: list[CalibrationFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, 1, 0)
    calibration = calibrate(model, frames)
    assert calibration.scope == "all"
    assert list(calibration.trials) == ["all"]
    assert calibration.plan.quantised == Plan.of(model).quantised
    assert calibration.is_safe
    assert calibration.equalised == ["concat.out"]
    assert calibration.decision.startswith("scope all (all: mean |Δscore| 0.0")


def test_one_pass_serves_float16_too(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    calibration = calibrate(model, frames, method="percentile", percentile=99, also=["stem.out"])
    assert "stem.out" not in calibration.ranges.largest  # it gets no scale
    images = [frame.image_bgr_u8 for frame in frames]
    assert calibration.largest["stem.out"] == observe(model, [], images, also=["stem.out"]).largest["stem.out"]
    clipped = calibration.ranges.largest["block.conv1.relu.out"]
    assert calibration.largest["block.conv1.relu.out"] > clipped  # float16 need not clip
    assert calibration.largest["concat.out.equalised"] == calibration.ranges.largest["concat.out.equalised"]
    outputs = list(run_engine("onnxruntime", model, images))
    assert [output.score for output in calibration.reference] == pytest.approx([o.score for o in outputs], abs=1e-6)


@pytest.mark.parametrize(("score", "cosine"), [(1e-9, 0), (1, 1 + 1e-9)])
def test_auto_falls_back_to_the_head_and_records_why(
    model: onnx.ModelProto, frames: list[CalibrationFrame], monkeypatch: pytest.MonkeyPatch, score: float, cosine: float
) -> None:
    limits(monkeypatch, score, cosine)
    calibration = calibrate(model, frames)
    assert calibration.scope == "head"
    assert list(calibration.trials) == ["all", "head"]
    assert calibration.drift is calibration.trials["head"]
    assert not calibration.is_safe
    assert calibration.decision.endswith("fp32 stays the default")
    assert calibration.plan.quantised == ("head.fuse",)
    assert f"all: {calibration.trials['all']}" in calibration.plan.left_float["stem"]


def test_the_ladder_goes_from_everything_to_the_head_in_steps(
    model: onnx.ModelProto, frames: list[CalibrationFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, 0, 2)
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for node in renamed.graph.node:
        node.name = node.name.replace("block.", "student.encoder.").replace("down.conv1", "student.decoder.stage4.0")
        node.name = node.name.replace("down.", "student.decoder.stage1.")
    calibration = calibrate(renamed, frames)
    assert list(calibration.trials) == ["all", "no-fine", "no-decoder", "head"]
    coarse = calibrate(renamed, frames, scope="no-fine").plan
    assert set(coarse.quantised) == {
        "student.encoder.conv1", "student.encoder.conv2", "student.decoder.stage4.0", "head.fuse",
    }  # fmt: skip
    encoder = calibrate(renamed, frames, scope="encoder").plan
    assert set(encoder.quantised) == {"student.encoder.conv1", "student.encoder.conv2"}
    without = calibrate(renamed, frames, scope="no-decoder").plan
    assert set(without.quantised) == {"student.encoder.conv1", "student.encoder.conv2", "head.fuse"}


def test_without_a_head_the_ladder_ends_at_the_encoder(
    model: onnx.ModelProto, frames: list[CalibrationFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, 0, 2)
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for node in renamed.graph.node:
        node.name = node.name.replace("stem", "teacher.conv1").replace("block.", "student.encoder.")
        node.name = node.name.replace("down.", "student.decoder.stage3.").replace("head.", "student.decoder.stage1.")
    calibration = calibrate(renamed, frames)
    assert list(calibration.trials) == ["all", "no-fine", "no-decoder", "encoder"]
    assert set(calibration.plan.quantised) == {"student.encoder.conv1", "student.encoder.conv2"}


def test_a_named_scope_is_taken_whatever_its_drift(
    model: onnx.ModelProto, frames: list[CalibrationFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, 0, 2)
    assert calibrate(model, frames, scope="all").scope == "all"
    head = calibrate(model, frames, scope="head")
    assert list(head.trials) == ["head"]
    assert head.plan.left_float["stem"] == "scope head: only head. is quantised"


def test_method_and_percentile_are_passed_on(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    wide, narrow = (
        calibrate(model, frames, scope="all", method=method, percentile=90).ranges  # type: ignore[arg-type]
        for method in ("max", "percentile")
    )
    assert (narrow.method, narrow.percentile) == ("percentile", 90)
    clipped = {name for name in wide.largest if narrow.largest[name] < wide.largest[name]}
    assert set(wide.largest) - clipped == {"concat.out.equalised"}  # never clipped


def test_scopes_that_cannot_work(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    with pytest.raises(OptionError, match="unknown INT8 scope 'some'"):
        calibrate(model, frames, scope="some")  # type: ignore[arg-type]
    headless = onnx.ModelProto()
    headless.CopyFrom(model)
    for node in headless.graph.node:
        node.name = node.name.replace("head.", "tail.")
    with pytest.raises(OptionError, match="'head' leaves no convolution to quantise"):
        calibrate(headless, frames, scope="head")
    assert calibrate(headless, frames[:2]).scope == "all"
