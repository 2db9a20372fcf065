"""What an export is for: an engine, and what that engine is given at once. Refused here, before minutes of work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from segrd_edge import engines
from segrd_edge.errors import FrameError, OptionError
from segrd_edge.preprocess import Preprocess

EngineName = Literal["cpu", "tensorrt", "tensorrt-rtx"]
_TENSORRT: tuple[EngineName, ...] = ("tensorrt", "tensorrt-rtx")  # that build; the first that works is "auto"
# More at once than any line needs, and it keeps a slip of the finger from an export that runs out of memory.
LARGEST_BATCH = 64
LARGEST_SIDE = 32_768  # pixels; a line-scan camera's longest rows have 16,384
SHAPE_TOLERANCE = 0.01  # of width / height; rounded sizes differ by less
LARGEST_TENSOR = 2**31 - 1  # elements that TensorRT allows in one tensor


@dataclass(frozen=True)
class Target:
    """The graphs of a bundle beside fp32 and int8, which serve the engines of a processor on every machine.

    For TensorRT these are fp16 and mixed, and they alone take frames or several items.

    Raises:
        OptionError: a frame size or a batch without TensorRT, or an impossible one.
    """

    engine: EngineName = "cpu"
    frame_hw: tuple[int, int] | None = None  # of the frames that the graphs take; None: network images
    batch: int = 1  # items at once

    def __post_init__(self) -> None:
        if self.engine not in get_args(EngineName):
            raise OptionError(f"unknown engine {self.engine!r}", expected="auto, " + ", ".join(get_args(EngineName)))
        if not 1 <= self.batch <= LARGEST_BATCH:
            raise OptionError(f"--batch {self.batch}", expected=f"1 to {LARGEST_BATCH} items in one run")
        if not self.is_tensorrt and (self.frame_hw is not None or self.batch != 1):
            option = f"--batch {self.batch}" if self.frame_hw is None else self._frame
            raise OptionError(
                f"{option} for the engine {self.engine}",
                expected="an engine that resizes on the GPU and takes several items: " + " or ".join(_TENSORRT),
                fix=f"add --engine tensorrt, or leave {option.split()[0]} out",
            )
        if self.frame_hw is not None:
            self._check_frame(self.frame_hw)

    @classmethod
    def choose(cls, engine: str = "auto", frame_hw: tuple[int, int] | None = None, batch: int = 1) -> Target:
        """A target by an engine's name. "auto" is the TensorRT that works on this machine, or "cpu".

        Raises:
            OptionError: see the class; or an unknown engine.
        """
        usable = [name for name in _TENSORRT if name in engines.ENGINES and engines.engine_class(name).is_available()]
        name = next(iter(usable), "cpu") if engine == "auto" else engine
        return cls(name, frame_hw, batch)  # type: ignore[arg-type]  # checked in __post_init__

    @property
    def is_tensorrt(self) -> bool:
        return self.engine in _TENSORRT

    def check(self, preprocess: Preprocess) -> None:
        """Raises:
        OptionError: the frames are smaller than what this preprocessing cuts out of them.
        """
        if self.frame_hw is None:
            return
        if preprocess.tile_hw is not None:
            raise OptionError(
                f"{self._frame} of a network with tiles",
                expected="network images: the processor cuts the tiles",
                fix="leave --frame out; --batch lets several tiles share a run",
            )
        try:
            preprocess.placement(self.frame_hw)
        except FrameError as error:
            raise OptionError(
                f"{self._frame}: {error.what}",
                expected=error.expected,
                fix="give the size of the whole frame, as the camera delivers it",
            ) from error

    def notice(self, preprocess: Preprocess, photograph_hw: tuple[int, int]) -> str:
        """What to think about before trusting these frames, given the size of a photograph of training; "" if nothing.

        Another resolution does no harm. Another shape does, where all of it is made to fit the network: parts then
        look as none of training did.
        """
        if self.frame_hw is None or preprocess.crop_xywh is not None:
            return ""
        shape, trained = (width / height for height, width in (self.frame_hw, photograph_hw))
        if abs(shape / trained - 1) <= SHAPE_TOLERANCE:
            return ""
        return (
            f"{self._frame} has another shape than the photographs of training, {photograph_hw[1]}x{photograph_hw[0]}: "
            "the network will see parts stretched or at another size; train on whole frames, or with --crop"
        )

    def _check_frame(self, frame_hw: tuple[int, int]) -> None:
        if not all(1 <= side <= LARGEST_SIDE for side in frame_hw):
            raise OptionError(self._frame, expected=f"a width and a height of 1 to {LARGEST_SIDE} pixels")
        elements = self.batch * math.prod(frame_hw) * 3
        if elements > LARGEST_TENSOR:
            raise OptionError(
                f"{self._frame} with --batch {self.batch}: {elements} values in one tensor",
                expected=f"at most {LARGEST_TENSOR}, TensorRT's limit",
                fix="use a smaller --batch",
            )

    @property
    def _frame(self) -> str:
        height, width = self.frame_hw or (0, 0)
        return f"--frame {width}x{height}"


CPU = Target()
