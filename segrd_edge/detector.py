"""The runtime's one object: frames in, inspections out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import engines
from .bundle import Bundle
from .checks import is_finite, is_whole
from .counting import Counting
from .engines import EngineOptions, EngineOutput
from .engines.base import Memory
from .errors import EngineError, FrameError, OptionError
from .frames import PixelOrder, as_pixels, check_frame, check_value_range, to_bgr
from .inspection import Inspection
from .keep_warm import KeepWarm
from .manifest import Precision
from .mapspec import MapSpec
from .memory import check_memory
from .preprocess import Placement, Preprocess
from .regions import FoundRegions, find_regions
from .selftest import SelfTest, self_test
from .tiles import TileGrid, join, on_tiles


class _Prepared(NamedTuple):
    """A frame on its way into the engine."""

    items: list[npt.NDArray[np.uint8]]  # what the graph takes: a network image for every tile, or the frame itself
    grid: TileGrid  # where the tiles' maps lie in the frame's
    placement: Placement
    counted: npt.NDArray[np.bool_] | None  # network pixels that count; None: all
    preprocess_ms: float


class Detector:
    """Inspects frames with a bundle.

        with Detector("bottle.segrd") as detector:
            inspection = detector.inspect(frame)

    Results never share memory with the engine or with each other, and equal frames give equal results. Safe to call
    from several threads: preprocessing and postprocessing run in the caller's thread, and one lock lets one run at a
    time through the engine, which uses the whole processor or GPU anyway.

    Args:
        bundle: a `.segrd` file, or an opened `Bundle`.
        engine: "auto" (the fastest that works here), or one of `segrd_edge.engines.ENGINES`: "tensorrt", say, or
            "openvino". TensorRT's are built from the bundle at the first start, which takes minutes, and kept in the
            user's cache folder; `segrd-build` does it ahead of time.
        precision: "auto" (the engine's choice, see `Engine.open`), or one of the bundle's own.
        threshold: scores at or above it are defects; None is the threshold that the bundle states for the precision.
            `detector.threshold` may be set later, also while frames are inspected.
        min_area_px: with a value above 0, a frame is a defect only if a region of at least this many frame pixels
            remains; smaller regions are not reported.
        max_regions: how many regions of a frame to report at most, those with the highest peaks, so that a frame full
            of specks takes no longer than the line allows; `Inspection.regions_left_out` counts the others.
        roi_xywh: region of interest in frame pixels (left, top, width, height); nothing outside counts.
        ignore_mask: H×W bool or uint8 of the frame's size; pixels that are not zero do not count.
        mm_per_px: size of a frame pixel in mm, for areas in mm².
        pixel_order: channel order of the frames, "bgr" (OpenCV, most cameras) or "rgb".
        value_range: (black, white) of 16-bit frames; None takes the bundle's, if it has one.
        threads, memory, cuda_graph, device: see `segrd_edge.engines.EngineOptions`.
        keep_warm_ms: for triggered lines, where the first frame after an idle gap is the slow one: run the engine
            whenever no frame came for this many milliseconds, above 0. None: do not.

    Raises:
        BundleError: the bundle is damaged, edited or foreign.
        EngineError: the engine is missing, or cannot load or build the graph.
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
        max_regions: int = 100,
        roi_xywh: tuple[int, int, int, int] | None = None,
        ignore_mask: npt.NDArray[Any] | None = None,
        mm_per_px: float | None = None,
        pixel_order: PixelOrder = "bgr",
        value_range: tuple[int, int] | None = None,
        threads: int | None = None,
        memory: Memory = "auto",
        cuda_graph: bool = True,
        device: int = 0,
        keep_warm_ms: float | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = self.bundle.manifest
        self.preprocess = Preprocess.from_dict(manifest.preprocess)
        self._map_spec = MapSpec(**manifest.map_spec)
        self._min_area_px = _positive("min_area_px", min_area_px, or_zero=True)
        self._max_regions = _count("max_regions", max_regions)
        self._mm_per_px = None if mm_per_px is None else _positive("mm_per_px", mm_per_px)
        self._counting = Counting(roi_xywh, ignore_mask)
        self._fitting: set[tuple[int, int]] = set()  # sizes of frames with tiles that the memory is enough for
        self.pixel_order = _pixel_order(pixel_order)
        if value_range is not None:
            check_value_range(value_range)
        self.value_range = self.preprocess.value_range if value_range is None else value_range
        own_threshold = None if threshold is None else _finite("threshold", threshold)
        interval_ms = None if keep_warm_ms is None else _positive("keep_warm_ms", keep_warm_ms)

        options = EngineOptions(threads=threads, memory=memory, cuda_graph=cuda_graph, device=device)
        self._engine, self._precision = engines.open_engine(engine, self.bundle, precision, options)
        self._lock = Lock()
        self._keep_warm: KeepWarm | None = None
        try:
            recorded = manifest.graphs[self._precision].threshold.value
            self._threshold = recorded if own_threshold is None else own_threshold
            self._check_size()
            if interval_ms is not None:
                self._keep_warm = KeepWarm(self._lock, self._engine, interval_ms)
        except BaseException:
            self._engine.close()
            raise

    @property
    def engine(self) -> str:
        """Name of the engine in use."""
        return self._engine.name

    @property
    def engine_version(self) -> str | None:
        """Version of the package behind the engine."""
        return self._engine.version()

    @property
    def precision(self) -> Precision:
        """Precision in use."""
        return self._precision

    @property
    def threshold(self) -> float:
        """Scores at or above it are defects. To set it is to change it for the frames that come after.

        Raises:
            OptionError: it is set to what is no finite number.
        """
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        self._threshold = _finite("threshold", threshold)

    @property
    def batch(self) -> int:
        """How many network images one run of the engine takes: frames, or tiles of a frame where there are tiles."""
        return self._engine.batch

    @property
    def takes_frames(self) -> bool:
        """Whether the graph does the resize and takes whole frames of one size (`segrd-export --frame`)."""
        return self._engine.takes_frames

    def inspect(self, frame: npt.NDArray[Any]) -> Inspection:
        """Inspect one frame.

        Args:
            frame: uint8 H×W×3 (in `pixel_order`) or H×W grey, any size and memory layout; uint16 where a value range
                is stated. It is not changed and not kept. Where the graph takes whole frames (`segrd-export --frame`)
                the size is fixed.

        Returns:
            An `Inspection` that owns its memory. `timings_ms["total"]` includes waiting for other threads.

        Raises:
            FrameError: the frame does not meet the contract (see `segrd_edge.frames`), or its tiles do not fit
                the memory.
            OptionError: the region of interest or the ignore mask does not fit a frame of this size.
            EngineError: the Detector is closed, or the engine failed.
        """
        return self.inspect_batch([frame])[0]

    def check_frame(self, frame: npt.NDArray[Any]) -> None:
        """What `inspect` raises for this frame before the engine runs, without looking at a pixel.

        Raises:
            FrameError, OptionError: as `inspect`.
        """
        check_frame(frame, self.value_range)
        self._place((frame.shape[0], frame.shape[1]))

    def inspect_batch(self, frames: Sequence[npt.NDArray[Any]]) -> list[Inspection]:
        """Inspect frames that belong together, of several cameras, say: as many as `batch` share a run of the engine.

        Args:
            frames: each as `inspect` takes it; they may differ in size.

        Returns:
            One `Inspection` for each, in order. `timings_ms["engine"]` is that of the shared run, of all runs of a
            frame with more tiles than `batch`; "total" is the time from the call to this frame's verdict.

        Raises:
            As `inspect`; then there is no result for any frame.
        """
        start = perf_counter()
        _check_sequence(frames)
        prepared = [self._prepare(frame) for frame in frames]
        inspections = []
        for group in self._groups(prepared):
            outputs, engine_ms = self._run([item for member in group for item in member.items])
            rest = iter(outputs)
            for member in group:
                own = list(islice(rest, len(member.items)))
                inspections.append(self._conclude(member, own, engine_ms, start))
        return inspections

    def inspect_many(self, frames: Iterable[npt.NDArray[Any]]) -> Iterator[Inspection]:
        """Inspect frames one after the other, lazily: a list, a generator, or an array N×H×W×3."""
        _check_sequence(frames)
        return (self.inspect(frame) for frame in frames)

    def run_engine(self, image: npt.NDArray[np.uint8]) -> EngineOutput:
        """The engine alone, and what makes one map of tiles: what the cost of `inspect` is measured against.

        Args:
            image: what `preprocess.resize` returns (uint8 h×w×3 BGR), a network image or one that holds tiles; or a
                frame where `takes_frames`.

        The map may be the engine's own buffer, valid until its next run.
        """
        with self._lock:
            if image.shape[:2] == self._engine.input_hw:
                return self._engine.run(image)
            grid = self.preprocess.grid((image.shape[0], image.shape[1]))
            return on_tiles(self._engine.run_all, image, grid, self._map_spec)

    def self_test(self) -> SelfTest:
        """Run the bundle's golden images and compare with what is stored; see `segrd_edge.selftest`.

        Raises:
            EngineError: the engine computes something else, so that the threshold does not hold on this machine.
        """
        with self._lock:
            return self_test(self._engine, self.bundle, self.precision)

    def close(self) -> None:
        """Free the engine, after a run in progress. A second call does nothing."""
        if self._keep_warm is not None:
            self._keep_warm.close()
        with self._lock:
            self._engine.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_size(self) -> None:
        if self._engine.size_hw != self.preprocess.size_hw:
            raise EngineError(
                f"{self.bundle.path}: the {self.precision} graph takes {self._engine.size_hw} pixels (height, width)",
                expected=f"{self.preprocess.size_hw}, as the manifest's preprocessing gives",
                fix="export the bundle again",
            )

    def _prepare(self, frame: npt.NDArray[Any]) -> _Prepared:
        start = perf_counter()
        pixels = as_pixels(frame, value_range=self.value_range)
        placement, counted = self._place((pixels.shape[0], pixels.shape[1]))
        grid = self.preprocess.grid(placement.size_hw)
        if self._engine.takes_frames:
            items = [to_bgr(np.ascontiguousarray(pixels), self.pixel_order)]
        else:  # channels are put in order at network size, where they are few
            items = grid.cut(to_bgr(self.preprocess.resize(pixels), self.pixel_order))
        return _Prepared(items, grid, placement, counted, (perf_counter() - start) * 1e3)

    def _place(self, frame_hw: tuple[int, int]) -> tuple[Placement, npt.NDArray[np.bool_] | None]:
        """Where a frame of this size lies in the network's, and which network pixels count; refuses other sizes."""
        if self._engine.takes_frames and frame_hw != self._engine.input_hw:
            expected_hw = self._engine.input_hw
            raise FrameError(
                f"a frame of {frame_hw[1]}×{frame_hw[0]} pixels (width×height)",
                expected=f"{expected_hw[1]}×{expected_hw[0]}, the size that the graph was exported for",
                fix=f"export with --frame {frame_hw[1]}x{frame_hw[0]}, or without --frame for frames of any size",
            )
        placement = self.preprocess.placement(frame_hw)
        if self.preprocess.tile_hw is not None and frame_hw not in self._fitting:
            self._check_fits(frame_hw, self.preprocess.grid(placement.size_hw))
        return placement, self._counting.at_network_size(placement)

    def _check_fits(self, frame_hw: tuple[int, int], grid: TileGrid) -> None:
        """A frame of many tiles fits the memory; each size is looked at once, as its memory is used again."""
        height, width = frame_hw
        check_memory(
            f"a frame of {width}×{height} pixels, {len(grid)} tiles at once,",
            grid.needed_bytes,
            "give parts of it, train with --crop or a larger --tile, or free memory",
            FrameError,
        )
        self._fitting.add(frame_hw)

    def _groups(self, prepared: Sequence[_Prepared]) -> Iterator[list[_Prepared]]:
        """Frames that share a run of the engine; one with more tiles than the batch takes several by itself."""
        group: list[_Prepared] = []
        for frame in prepared:
            if group and sum(len(member.items) for member in group) + len(frame.items) > self.batch:
                yield group
                group = []
            group.append(frame)
        if group:
            yield group

    def _run(self, items: Sequence[npt.NDArray[np.uint8]]) -> tuple[list[EngineOutput], float]:
        """Scores and maps, which no later run overwrites, and milliseconds of the engine's runs."""
        with self._lock:
            start = perf_counter()
            outputs = self._engine.run_all(items)
            engine_ms = (perf_counter() - start) * 1e3
        if self._keep_warm is not None:
            self._keep_warm.frame_came()
        return outputs, engine_ms

    def _conclude(
        self, prepared: _Prepared, outputs: Sequence[EngineOutput], engine_ms: float, start: float
    ) -> Inspection:
        """Scores and maps of the tiles → verdict and regions."""
        executed = perf_counter()
        placement, counted = prepared.placement, prepared.counted
        score, anomaly_map = join(prepared.grid, outputs, self._map_spec)
        if counted is not None:
            score = self._map_spec.score(anomaly_map[counted])
        if not math.isfinite(score):  # NaN would compare as good
            raise EngineError(f"{self.engine} gave the score {score}", fix="run segrd-doctor; export the bundle again")
        threshold = self.threshold  # read once: another thread may set it
        is_above = score >= threshold
        found = self._regions(anomaly_map, placement, counted, threshold) if is_above else FoundRegions((), 0)
        is_defect = is_above and (bool(found.regions) or self._min_area_px == 0)
        end = perf_counter()
        timings_ms = {
            "preprocess": prepared.preprocess_ms,
            "engine": engine_ms,
            "postprocess": (end - executed) * 1e3,
            "total": (end - start) * 1e3,
        }
        return Inspection(
            verdict="defect" if is_defect else "good",
            score=score,
            threshold=threshold,
            anomaly_map=anomaly_map,
            placement=placement,
            regions=found.regions,
            timings_ms=timings_ms,
            regions_left_out=found.left_out,
        )

    def _regions(
        self,
        anomaly_map: npt.NDArray[np.float32],
        placement: Placement,
        counted: npt.NDArray[np.bool_] | None,
        threshold: float,
    ) -> FoundRegions:
        # The mean of the highest pixels reaches the threshold, so the highest does, but for rounding in the mean. All
        # that the score is made of is looked at, letterbox border too: what is hot there alone makes no region.
        peak = float((anomaly_map if counted is None else anomaly_map[counted]).max())
        return find_regions(
            anomaly_map,
            placement,
            min(threshold, peak),
            counted=counted,
            min_area_px=self._min_area_px,
            mm_per_px=self._mm_per_px,
            most=self._max_regions,
        )


def _pixel_order(pixel_order: PixelOrder) -> PixelOrder:
    if pixel_order not in ("bgr", "rgb"):
        raise OptionError(f"pixel_order={pixel_order!r}", expected="'bgr' or 'rgb'")
    return pixel_order


def _finite(name: str, value: float) -> float:
    if not is_finite(value):
        raise OptionError(f"{name}={value!r}", expected="a finite number")
    return float(value)


def _positive(name: str, value: float, *, or_zero: bool = False) -> float:
    if not (is_finite(value) and (value > 0 or (or_zero and value == 0))):
        raise OptionError(f"{name}={value!r}", expected="a finite number" + (" >= 0" if or_zero else " > 0"))
    return float(value)


def _count(name: str, value: int) -> int:
    if not (is_whole(value) and value >= 1):
        raise OptionError(f"{name}={value!r}", expected="a whole number, at least 1")
    return int(value)


def _check_sequence(frames: Iterable[npt.NDArray[Any]]) -> None:
    """Refuse a single frame: its rows would pass as grey frames."""
    if isinstance(frames, np.ndarray) and (frames.ndim < 3 or (frames.ndim == 3 and frames.shape[2] in (1, 3))):
        raise FrameError(
            f"an array of shape {frames.shape}: one frame, not a sequence of frames",
            expected="a list of frames, or an array N×H×W×3",
            fix="inspect(frame), or [frame]",
        )
