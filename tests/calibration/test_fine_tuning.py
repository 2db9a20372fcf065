"""Of two INT8 graphs the one nearer to the first float graph is taken, and the record says which."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from segrd_edge.calibration.bias import correct_biases
from segrd_edge.calibration.calibrate import Calibration, calibrate
from segrd_edge.calibration.drift import measure_drift
from segrd_edge.calibration.fine_tuning import nearer
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.session import run_engine
from segrd_edge.calibration.settings import Int8Settings


@pytest.fixture(scope="module")
def frames(images: list[np.ndarray]) -> list[CalibrationFrame]:
    return [CalibrationFrame(image, Path("photo.png"), "0" * 64, "good") for image in images]


@pytest.fixture(scope="module")
def plain(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> Calibration:
    return calibrate(model, frames, Int8Settings(scope="all"), engine="onnxruntime")


@pytest.fixture(scope="module")
def worse(model: onnx.ModelProto, frames: list[CalibrationFrame], plain: Calibration) -> Calibration:
    """Of a network that has changed in one bias, measured from the network before."""
    changed = correct_biases(model, {"head.fuse": np.full(16, 0.3)})
    choices, reference = plain.plan.to_dict(), plain.reference
    return calibrate(changed, frames, Int8Settings(plan=choices), reference=reference, engine="onnxruntime")


def test_drift_is_measured_from_the_network_before(plain: Calibration, worse: Calibration) -> None:
    outputs = list(run_engine("onnxruntime", worse.model, [frame.image_bgr_u8 for frame in worse.frames]))
    assert worse.drift.score_mean == pytest.approx(measure_drift(plain.reference, outputs).score_mean, rel=1e-3)
    assert worse.drift.score_mean > 2 * plain.drift.score_mean
    assert worse.reference is plain.reference


def test_the_graph_without_it_stays_where_it_is_nearer(plain: Calibration, worse: Calibration) -> None:
    kept = nearer(plain, worse, 1.5, 7)
    assert kept.model is plain.model
    assert kept.drift == plain.drift
    assert kept.fine_tuning is not None
    assert kept.fine_tuning.to_dict() == {
        "minutes": 1.5, "steps": 7, "is_taken": False,
        "before": plain.drift.to_dict(), "after": worse.drift.to_dict(),
    }  # fmt: skip
    assert str(kept.fine_tuning).endswith("; the INT8 graph without it stays")


def test_the_tuned_one_is_taken_under_the_first_ones_scope(plain: Calibration, worse: Calibration) -> None:
    taken = nearer(replace(worse, choice=replace(worse.choice)), plain, 1, 1)
    assert taken.model is plain.model
    assert taken.scope == worse.scope
    assert taken.drift == plain.drift
    assert taken.trials[worse.scope] == plain.drift
    assert taken.fine_tuning is not None
    assert taken.fine_tuning.is_taken
    both = (
        (plain.prepared.largest["head.fuse.out"], worse.prepared.largest["head.fuse.out"])
        if "head.fuse.out" in plain.prepared.largest
        else ()
    )
    assert not both or taken.prepared.largest["head.fuse.out"] == max(both)
