"""The runtime's one object: frames in, inspections out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import engines
from .bundle import Bundle
from .errors import EngineError, OptionError
from .frames import PixelOrder, as_frame
from .inspection import Inspection, Region
from .manifest import Precision
from .mapspec import MapSpec
from .preprocess import Placement, Preprocess
from .regions import find_regions

# How far a golden score may move from ONNX Runtime's at export. Engines order float sums differently; with INT8 a
# rounding tie can also fall the other way, and the teacher-student difference carries that on.
SELF_TEST_TOLERANCE: dict[str, float] = {"fp32": 1e-3, "fp16": 1e-2, "mixed": 0.05, "int8": 0.05}


class SelfTest(NamedTuple):
    """What `Detector.self_test` found."""

    frames: int
    max_score_difference: float
    tolerance: float


class Detector:
    """Inspects frames with a bundle.

        with Detector("bottle.segrd") as detector:
            inspection = detector.inspect(frame)

    Results never share memory with the engine or with each other, and equal frames give equal results. Safe to call
    from several threads: preprocessing and postprocessing run in the caller's thread, and one lock lets one frame at
    a time through the engine, which uses all processor cores anyway.

    Args:
        bundle: a `.segrd` file, or an opened `Bundle`.
        engine: "auto" (the fastest installed), "openvino" or "onnxruntime".
        precision: "auto" (the bundle's default, or fp32 where the engine runs INT8 slower than that), or one of the
            bundle's own.
        threshold: scores at or above it are defects; None is the threshold that the bundle states for the precision.
        min_area_px: with a value above 0, a frame is a defect only if a region of at least this many frame pixels
            remains; smaller regions are not reported.
        roi_xywh: region of interest in frame pixels (left, top, width, height); nothing outside counts.
        ignore_mask: H×W bool or uint8 of the frame's size; pixels that are not zero do not count.
        mm_per_px: size of a frame pixel in mm, for areas in mm².
        threads: processor threads of one engine run; None is the engine's own choice.
        pixel_order: channel order of the frames, "bgr" (OpenCV, most cameras) or "rgb".
        value_range: (black, white) of 16-bit frames; None takes the bundle's, if it has one.

    Raises:
        BundleError: the bundle is damaged, edited or foreign.
        EngineError: the engine is missing or cannot load the graph.
        OptionError: an argument that cannot work.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threshold: float | None = None,
        min_area_px: float = 0,
        roi_xywh: tuple[int, int, int, int] | None = None,
        ignore_mask: npt.NDArray[Any] | None = None,
        mm_per_px: float | None = None,
        threads: int | None = None,
        pixel_order: PixelOrder = "bgr",
        value_range: tuple[int, int] | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = self.bundle.manifest
        self.preprocess = Preprocess.from_dict(manifest.preprocess)
        self._map_spec = MapSpec(**manifest.map_spec)
        self._min_area_px = _positive("min_area_px", min_area_px, or_zero=True)
        self._mm_per_px = None if mm_per_px is None else _positive("mm_per_px", mm_per_px)
        self._counting = _Counting(roi_xywh, ignore_mask)
        self.pixel_order = _pixel_order(pixel_order)
        self.value_range = value_range or self.preprocess.value_range

        engine_class = engines.engine_class(engine)
        self.precision = _choose_precision(self.bundle, precision, engine_class)
        recorded = manifest.graphs[self.precision].threshold.value
        self.threshold = recorded if threshold is None else _finite("threshold", threshold)
        self._engine = engine_class(self.bundle.graph(self.precision), threads=threads)
        self._lock = Lock()
        if self._engine.size_hw != self.preprocess.size_hw:
            raise EngineError(
                f"{self.bundle.path}: the {self.precision} graph takes {self._engine.size_hw} pixels (height, width)",
                expected=f"{self.preprocess.size_hw}, as the manifest's preprocessing gives",
                fix="export the bundle again",
            )

    @property
    def engine(self) -> str:
        """Name of the engine in use."""
        return self._engine.name

    @property
    def engine_version(self) -> str | None:
        """Version of the package behind the engine."""
        return self._engine.version()

    def inspect(self, frame: npt.NDArray[Any]) -> Inspection:
        """Inspect one frame.

        Args:
            frame: uint8 H×W×3 (in `pixel_order`) or H×W grey, any size and memory layout; uint16 where a value range
                is stated. It is not changed and not kept.

        Returns:
            An `Inspection` that owns its memory. `timings_ms["total"]` includes waiting for other threads.

        Raises:
            FrameError: the frame does not meet the contract (see `segrd_edge.frames`).
            OptionError: the region of interest or the ignore mask does not fit a frame of this size.
            EngineError: the Detector is closed, or the engine failed.
        """
        start = perf_counter()
        frame_bgr = as_frame(frame, pixel_order=self.pixel_order, value_range=self.value_range)
        placement = self.preprocess.placement((frame_bgr.shape[0], frame_bgr.shape[1]))
        counted = self._counting.at_network_size(placement)
        image = self.preprocess.resize(frame_bgr)[np.newaxis]
        prepared = perf_counter()
        score, anomaly_map, engine_ms = self._run(image)
        executed = perf_counter()
        if counted is not None:
            score = self._map_spec.score(anomaly_map[counted])
        if not math.isfinite(score):  # NaN would compare as good
            raise EngineError(f"{self.engine} gave the score {score}", fix="run segrd-doctor; export the bundle again")
        regions = self._regions(anomaly_map, placement, counted) if score >= self.threshold else ()
        is_defect = score >= self.threshold and (bool(regions) or self._min_area_px == 0)
        end = perf_counter()
        timings_ms = {
            "preprocess": (prepared - start) * 1e3,
            "engine": engine_ms,
            "postprocess": (end - executed) * 1e3,
            "total": (end - start) * 1e3,
        }
        return Inspection(
            verdict="defect" if is_defect else "good",
            score=score,
            threshold=self.threshold,
            anomaly_map=anomaly_map,
            placement=placement,
            regions=regions,
            timings_ms=timings_ms,
        )

    def inspect_many(self, frames: Iterable[npt.NDArray[Any]]) -> Iterator[Inspection]:
        """Inspect frames one after the other, lazily: a list, a generator, or a batch N×H×W×3."""
        return (self.inspect(frame) for frame in frames)

    def run_engine(self, image: npt.NDArray[np.uint8]) -> engines.EngineOutput:
        """The engine alone on a network image (uint8 1×h×w×3 BGR): what the cost of `inspect` is measured against.

        The map may be the engine's own buffer, valid until its next run.
        """
        with self._lock:
            return self._engine.run(image)

    def self_test(self) -> SelfTest:
        """Run the bundle's golden images and compare their scores with those stored at export.

        Raises:
            EngineError: a score differs by more than `SELF_TEST_TOLERANCE` of the precision, so that the threshold
                does not hold on this machine.
        """
        golden = self.bundle.golden()
        expected = golden[f"score_{self.precision}"]
        scores = [self._run(image[np.newaxis])[0] for image in golden["images"]]
        difference = float(np.abs(np.array(scores) - expected).max())
        tolerance = SELF_TEST_TOLERANCE[self.precision]
        if not difference <= tolerance:  # NaN fails too
            raise EngineError(
                f"{self.engine} {self.engine_version} gives golden scores that differ by {difference:.4f} at "
                f"{self.precision}",
                expected=f"at most {tolerance} from the scores stored at export",
                fix="try another engine or precision, for example precision='fp32'; report it with segrd-doctor --json",
            )
        return SelfTest(len(scores), difference, tolerance)

    def close(self) -> None:
        """Free the engine, after a run in progress. A second call does nothing."""
        with self._lock:
            self._engine.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, image: npt.NDArray[np.uint8]) -> tuple[float, npt.NDArray[np.float32], float]:
        """Score, map (a copy) and milliseconds of one engine run."""
        with self._lock:
            start = perf_counter()
            score, view = self._engine.run(image)
            engine_ms = (perf_counter() - start) * 1e3
            anomaly_map = view.copy()
        return score, anomaly_map, engine_ms

    def _regions(
        self, anomaly_map: npt.NDArray[np.float32], placement: Placement, counted: npt.NDArray[np.bool_] | None
    ) -> tuple[Region, ...]:
        # The mean of the highest pixels reaches the threshold, so the highest does, but for rounding in the mean.
        peak = float((placement.crop(anomaly_map) if counted is None else anomaly_map[counted]).max())
        return find_regions(
            anomaly_map,
            placement,
            min(self.threshold, peak),
            counted=counted,
            min_area_px=self._min_area_px,
            mm_per_px=self._mm_per_px,
        )


class _Counting:
    """Which network pixels count, worked out once per frame size."""

    def __init__(self, roi_xywh: tuple[int, int, int, int] | None, ignore_mask: npt.NDArray[Any] | None) -> None:
        if roi_xywh is not None and (len(roi_xywh) != 4 or min(roi_xywh[:2]) < 0 or min(roi_xywh[2:]) < 1):
            raise OptionError(
                f"roi_xywh={roi_xywh}", expected="left >= 0, top >= 0, width >= 1, height >= 1, in frame pixels"
            )
        if ignore_mask is not None and not _is_mask(ignore_mask):
            raise OptionError(
                f"an ignore mask of dtype {ignore_mask.dtype} and shape {ignore_mask.shape}",
                expected="bool or uint8, H×W of the frame's size; not zero where the frame is to be ignored",
            )
        self._roi_xywh = roi_xywh
        self._ignored = None if ignore_mask is None else ignore_mask != 0  # a copy: the caller's may change
        self._latest: tuple[Placement, npt.NDArray[np.bool_]] | None = None

    def at_network_size(self, placement: Placement) -> npt.NDArray[np.bool_] | None:
        """Bool h×w, or None where every pixel counts. Not to be written to."""
        if self._roi_xywh is None and self._ignored is None:
            return None
        latest = self._latest  # read once: another thread may replace it
        if latest is None or latest[0] != placement:
            latest = placement, placement.mask_to_network(self._in_frame(placement.frame_hw))
            if not latest[1].any():
                raise OptionError(
                    "the region of interest and the ignore mask leave no pixel to inspect",
                    expected=f"at least one pixel of the network's {placement.size_hw} (height, width)",
                    fix="enlarge the region of interest, or train with a larger --size",
                )
            self._latest = latest
        return latest[1]

    def _in_frame(self, frame_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
        counted = np.ones(frame_hw, bool)
        if self._roi_xywh is not None:
            left, top, width, height = self._roi_xywh
            if left + width > frame_hw[1] or top + height > frame_hw[0]:
                raise OptionError(
                    f"roi_xywh={self._roi_xywh} reaches outside a frame of {frame_hw[1]}×{frame_hw[0]} pixels",
                    expected=f"left + width <= {frame_hw[1]} and top + height <= {frame_hw[0]}",
                )
            counted[...] = False
            counted[top : top + height, left : left + width] = True
        if self._ignored is not None:
            if self._ignored.shape != frame_hw:
                raise OptionError(
                    "an ignore mask of {1}×{0} pixels".format(*self._ignored.shape)
                    + f" for a frame of {frame_hw[1]}×{frame_hw[0]}",
                    expected="a mask of the frame's own size",
                )
            counted &= ~self._ignored
        return counted


def _choose_precision(bundle: Bundle, wanted: str, engine_class: type[engines.Engine]) -> Precision:
    manifest = bundle.manifest
    if wanted == "auto":
        slow_int8 = manifest.default_precision in ("int8", "mixed") and not engine_class.int8_is_faster
        return "fp32" if slow_int8 and "fp32" in manifest.graphs else manifest.default_precision
    for name in manifest.graphs:
        if name == wanted:
            return name
    raise OptionError(
        f"{bundle.path}: no {wanted} graph",
        expected="auto, " + ", ".join(manifest.graphs),
        fix="export again with that precision, for example segrd-export --int8",
    )


def _pixel_order(pixel_order: PixelOrder) -> PixelOrder:
    if pixel_order not in ("bgr", "rgb"):
        raise OptionError(f"pixel_order={pixel_order!r}", expected="'bgr' or 'rgb'")
    return pixel_order


def _is_mask(mask: npt.NDArray[Any]) -> bool:
    return mask.ndim == 2 and mask.dtype in (np.bool_, np.uint8)


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise OptionError(f"{name}={value}", expected="a finite number")
    return float(value)


def _positive(name: str, value: float, *, or_zero: bool = False) -> float:
    if not (math.isfinite(value) and (value > 0 or (or_zero and value == 0))):
        raise OptionError(f"{name}={value}", expected="a finite number" + (" >= 0" if or_zero else " > 0"))
    return float(value)
