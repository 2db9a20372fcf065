from __future__ import annotations

import numpy as np
import onnx
import pytest

from segrd_edge import engines
from segrd_edge.calibration import speed
from segrd_edge.calibration.speed import ROUNDS, measure_speedup


class Clock:
    """Stands in for the module `time`, and is advanced by the engines."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_the_two_take_turns_and_medians_are_compared(
    model: onnx.ModelProto, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, order, closed = Clock(), [], []

    class Timed:
        def __init__(self, seconds: float) -> None:
            self.seconds, self.runs = seconds, 0

        def run(self, image: np.ndarray) -> None:
            self.runs += 1
            clock.now += self.seconds * (100 if self.runs == 8 else 1)  # one outlier
            order.append(self.seconds)

        def close(self) -> None:
            closed.append(self.seconds)

    made = iter([Timed(3.0), Timed(1.0)])
    monkeypatch.setattr(engines, "create", lambda *_: next(made))
    monkeypatch.setattr(speed, "time", clock)
    assert measure_speedup("openvino", model, model, images[0]) == pytest.approx(3)
    measured = order[-2 * ROUNDS :]
    assert measured[:4] == [1.0, 3.0, 3.0, 1.0]
    assert closed == [3.0, 1.0]
