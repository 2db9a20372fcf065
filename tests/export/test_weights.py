"""What may be done to the weights for INT8, on its way from the options to the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from segrd_edge.calibration.bias import correct_biases
from segrd_edge.calibration.fine_tuning import Tuned
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.grids import grids_of
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.export.graphs import build_graphs
from segrd_edge.export.target import CPU
from segrd_edge.manifest import FineTuningRecord
from segrd_edge.preprocess import Preprocess

from ..calibration.conftest import build_small

SIZE_HW = (32, 64)
Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build_small(SIZE_HW)


@pytest.fixture(scope="module")
def frames() -> Callable[[], Sequence[CalibrationFrame]]:
    rng = np.random.default_rng(3)
    images = [np.kron(rng.integers(0, 256, (4, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(4)]
    return lambda: [CalibrationFrame(image, Path("photo.png"), "0" * 64, "good") for image in images]


def test_a_fine_tune_is_given_the_int8_graph_and_not_taken_where_it_is_worse(
    model: onnx.ModelProto, frames: Any
) -> None:
    given: list[onnx.ModelProto] = []
    lines: list[str] = []

    def tune(int8: onnx.ModelProto) -> Tuned:
        given.append(int8)
        return Tuned(correct_biases(model, {"head.fuse": np.full(16, 0.5)}), minutes=0.5, steps=3)

    graphs, calibration = build_graphs(
        model,
        Preprocess(SIZE_HW),
        CPU,
        frames,
        int8=True,
        settings=Int8Settings(scope="head"),
        tune=tune,
        said=lines.append,
    )
    assert calibration is not None
    assert calibration.fine_tuning is not None
    assert not calibration.fine_tuning.is_taken
    assert graphs["int8"].model is given[0]
    assert list(grids_of(given[0]).inputs) == ["head.fuse"]
    assert lines[-1].startswith("3 steps of fine-tuning with INT8: mean |Δscore| ")
    assert lines[-1].endswith("the INT8 graph without it stays")
    record = FineTuningRecord.model_validate(calibration.fine_tuning.to_dict())
    assert record.before["score_mean"] < record.after["score_mean"]


def test_improvements_reach_the_calibration(model: onnx.ModelProto, frames: Any) -> None:
    preprocess = Preprocess(SIZE_HW)
    plain, improved = (
        build_graphs(model, preprocess, CPU, frames, int8=True, settings=Int8Settings(scope="all", improve=improve))[1]
        for improve in ((), ("levels", "bias"))
    )
    assert plain is not None
    assert improved is not None
    assert plain.improved == []
    assert improved.improved[0] == "levels"
    assert improved.ranges.largest["block.conv1.relu.out"] != plain.ranges.largest["block.conv1.relu.out"]
