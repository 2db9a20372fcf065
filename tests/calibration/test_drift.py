from __future__ import annotations

import numpy as np
import pytest

from segrd_edge.calibration.drift import measure_drift
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
