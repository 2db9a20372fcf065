"""What cannot work is refused before any work is done."""

from __future__ import annotations

from typing import Any

import pytest

from segrd_edge import engines
from segrd_edge.errors import OptionError
from segrd_edge.export.target import CPU, LARGEST_BATCH, Target
from segrd_edge.preprocess import Preprocess


class Usable:
    """Stands in for an engine's class."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, name: str) -> Any:
        return type("FakeEngine", (), {"is_available": staticmethod(lambda: name in self.names)})


@pytest.mark.parametrize(
    ("usable", "chosen"),
    [((), "cpu"), (("tensorrt-rtx",), "tensorrt-rtx"), (("tensorrt-rtx", "tensorrt"), "tensorrt")],
)
def test_auto_is_the_tensorrt_that_works_here(
    usable: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {**engines.ENGINES, "tensorrt": "", "tensorrt-rtx": ""}
    monkeypatch.setattr(engines, "ENGINES", known)
    monkeypatch.setattr(engines, "engine_class", Usable(*usable))
    assert Target.choose() == Target(chosen)  # type: ignore[arg-type]
    assert Target.choose("cpu") == CPU
    assert Target.choose("tensorrt", (2048, 2448), 4) == Target("tensorrt", (2048, 2448), 4)  # to be built elsewhere


@pytest.mark.parametrize(
    ("engine", "frame_hw", "batch", "message"),
    [
        ("openvino", None, 1, "unknown engine 'openvino'"),
        ("cpu", (2048, 2448), 1, "--frame 2448x2048 for the engine cpu"),
        ("cpu", None, 4, "--batch 4 for the engine cpu"),
        ("tensorrt", None, 0, "--batch 0"),
        ("tensorrt", None, LARGEST_BATCH + 1, f"--batch {LARGEST_BATCH + 1}"),
        ("tensorrt", (0, 2448), 1, "--frame 2448x0"),
        ("tensorrt-rtx", (2048, 244800), 1, "--frame 244800x2048"),
        ("tensorrt", (16000, 16000), 3, r"--frame 16000x16000 with --batch 3: 2304000000 values"),
    ],
)
def test_impossible_targets(engine: str, frame_hw: tuple[int, int] | None, batch: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Target.choose(engine, frame_hw, batch)


def test_the_crop_must_lie_inside_the_frame() -> None:
    cropped = Preprocess((64, 64), crop_xywh=(100, 0, 1800, 1800))
    Target("tensorrt", (1800, 1900)).check(cropped)
    Target("tensorrt").check(cropped)
    with pytest.raises(OptionError, match=r"--frame 1899x1800: .* the crop 100,0,1800,1800") as caught:
        Target("tensorrt", (1800, 1899)).check(cropped)
    assert caught.value.expected == "at least 1900×1800 pixels"


@pytest.mark.parametrize(
    ("frame_hw", "crop", "is_said"),
    [
        (None, None, False),
        ((2048, 2448), None, False),  # the same shape, more pixels
        ((411, 490), None, False),  # rounded
        ((2048, 2048), None, True),
        ((2048, 2048), (0, 0, 700, 700), False),  # the crop is cut out of frames as it was out of photographs
    ],
)
def test_frames_of_another_shape_are_remarked_on(
    frame_hw: tuple[int, int] | None, crop: tuple[int, int, int, int] | None, is_said: bool
) -> None:
    notice = Target("tensorrt", frame_hw).notice(Preprocess((64, 64), crop_xywh=crop), (1024, 1224))
    assert ("--frame 2048x2048 has another shape than the photographs of training, 1224x1024" in notice) == is_said
    assert bool(notice) == is_said
