from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from segrd_edge.errors import EngineError
from segrd_edge.tensorrt.build import build
from segrd_edge.tensorrt.run_once import run_once

from ..fakes.machine import FakeGpu

WHITE = np.full((1, 64, 96, 3), 255, np.uint8)
WHITE_ANOMALY = (215 + 135 + 55) / 3 / 255


@pytest.fixture
def plan(fake_gpu: FakeGpu, deploy_graph: Callable[..., bytes]) -> bytes:
    return build(deploy_graph()).plan


def test_every_output_comes_back(plan: bytes, fake_gpu: FakeGpu) -> None:
    outputs = run_once(plan, {"image": WHITE}, flavour="tensorrt")
    assert list(outputs) == ["score", "anomaly_map"]
    assert outputs["score"] == pytest.approx(WHITE_ANOMALY)
    assert outputs["anomaly_map"].shape == (1, 64, 96)
    order = [kind for kind in fake_gpu.destroyed if kind in ("execution_context", "engine", "runtime")]
    assert order == ["execution_context", "engine", "runtime"]
    assert fake_gpu.leaks() == {}


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ({}, "input image is missing"),
        ({"image": WHITE[:, 1:]}, r"input image is uint8 \[1, 63, 96, 3\]"),
        ({"image": WHITE.astype(np.float32)}, "input image is float32"),
    ],
)
def test_inputs_that_do_not_fit_are_named(plan: bytes, inputs: dict[str, np.ndarray], what: str) -> None:
    with pytest.raises(EngineError, match=what) as caught:
        run_once(plan, inputs, flavour="tensorrt")
    assert "uint8 [1, 64, 96, 3]" in caught.value.expected


def test_what_tensorrt_refuses_carries_its_log(plan: bytes, fake_gpu: FakeGpu) -> None:
    fake_gpu.faults.enqueue = lambda count: True
    with pytest.raises(EngineError, match=r"cannot run the engine: it refuses to start\n.*invalid argument"):
        run_once(plan, {"image": WHITE}, flavour="tensorrt")
    fake_gpu.faults.create_context = "no memory for it"
    with pytest.raises(EngineError, match=r"gives no execution context\n.*no memory for it"):
        run_once(plan, {"image": WHITE}, flavour="tensorrt")
