from __future__ import annotations

import subprocess
import sys

import pytest

from segrd_edge.errors import EngineError
from segrd_edge.tensorrt import driver
from segrd_edge.tensorrt.build import build
from segrd_edge.tensorrt.plan import deserialise

RTX = "tensorrt-rtx"
trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


def without_driver() -> None:
    if driver.gpu_or_none() is not None:
        pytest.skip("this machine has a GPU")


def test_without_a_driver_no_tensorrt_object_is_made(fp32_graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(index: int = 0) -> None:
        raise EngineError("no NVIDIA driver", fix="install it")

    monkeypatch.setattr(driver, "gpu", no_driver)
    monkeypatch.setattr(trt, "Runtime", lambda logger: pytest.fail("a Runtime was made before the driver was asked"))
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        deserialise(b"a plan", flavour=RTX)


def test_the_card_asked_about_is_the_one_that_the_plan_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = (driver.Gpu("RTX A2000", "8.6", "13.2", ""), driver.Gpu("H200", "9.0", "13.2", ""))
    monkeypatch.setattr(driver, "gpu", lambda index=0: cards[index])
    with pytest.raises(EngineError, match=r"TensorRT-RTX has no engines for H200"):
        deserialise(b"a plan", flavour=RTX, device=1)


def test_the_process_lives_on_without_a_driver() -> None:
    without_driver()
    code = f"from segrd_edge.tensorrt.plan import deserialise; deserialise(b'a plan', flavour={RTX!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1  # an exception, not a signal
    assert "EngineError: no NVIDIA driver" in done.stderr


def test_what_tensorrt_says_of_a_missing_driver_becomes_advice(
    fp32_graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the probe ever be satisfied where TensorRT is not: the real runtime, its real lines, our advice."""
    without_driver()
    plan = build(fp32_graph, flavour=RTX).plan
    monkeypatch.setattr(driver, "gpu", lambda index=0: driver.Gpu("any RTX card", "8.9", "13.2", ""))
    with pytest.raises(EngineError, match="cudaError 35") as caught:
        deserialise(plan, flavour=RTX)
    assert "r580" in caught.value.fix
    with pytest.raises(EngineError, match=r"cannot load the engine \(4 bytes\)") as caught:
        deserialise(b"junk", flavour=RTX)
    assert "no engine or cut short" in caught.value.fix
