"""How good is it: a run or a bundle on a folder of photographs, with every metric per defect type.

Nothing is selected here, but for defects that lie wholly outside the crop: no detector of this run can find them, and
counting them, as escapes or as good parts, would say something else than how good it is. They are left out of every
metric and named (`Evaluation.left_out`). That takes a mask: a defect without one counts wherever it lies. A run is
evaluated in torch; a bundle through the very `Detector` that runs on the line. Where there are no photographs of
defects, `training.synthetic_test` paints some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segrd_edge.errors import DataError, FrameError
from segrd_edge.frames import read_frame
from segrd_edge.memory import check_memory
from segrd_edge.preprocess import Placement, Preprocess
from segrd_edge.selftest import golden_frame

from .data import GOOD, Photo, PhotoFolder, check, file_sha256, read_mask, scan
from .metrics import Metrics, downsample_mask, evaluate_maps

BYTES_PER_PIXEL = 80  # of a map, while the metrics are found: 70 were measured, and map and mask are kept

Frame = npt.NDArray[np.uint8]
# A frame (uint8 H×W×3 BGR) → its anomaly map (float32 h×w, as large as the frame after `Preprocess.resize`) and score.
Predictor = Callable[[Frame], tuple[npt.NDArray[np.float32], float]]


@dataclass(frozen=True)
class FrameResult:
    """One evaluated photograph. Map and mask are at network size, or at that of all tiles together."""

    photo: Photo
    score: float
    anomaly_map: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_] | None  # of defects that have one
    painted_bgr_u8: Frame | None = None  # the network image (h×w×3) of a synthetic defect, which no file holds


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all photographs, per defect type (each against all good ones), and the frames behind them."""

    metrics: Metrics
    by_kind: dict[str, Metrics]
    frames: list[FrameResult]
    left_out: list[Photo] = field(default_factory=list)  # their defects lie wholly outside the crop
    is_synthetic: bool = False  # the defects are painted, and the good images are the held-out ones

    @property
    def source(self) -> str:
        """What the metrics come from, as the manifest says it."""
        if self.is_synthetic:
            return f"synthetic defects on {self.metrics.images_good} held-out good images"
        return "test photographs"

    @property
    def caution(self) -> str | None:
        """What metrics of this source do not say, in sentences for the user; None of photographs."""
        if not self.is_synthetic:
            return None
        return (
            f"The metrics come from {self.source}. A model that was trained on such defects can do better on them than "
            "on real ones, and their shapes and sizes decide on the pixel metrics. They compare models and precisions; "
            "how many real defects escape, they do not say."
        )

    @property
    def notice(self) -> str | None:
        """What was left out and why, in a sentence for the user; None where nothing was."""
        if not self.left_out:
            return None
        count, first = len(self.left_out), self.left_out[0].path
        return (
            f"{count} defect photograph{'s are' if count > 1 else ' is'} left out of the metrics: by their masks the "
            f"defects lie wholly outside the crop, where this detector does not look (first: {first})"
        )

    @property
    def good_scores(self) -> list[float]:
        return [f.score for f in self.frames if not f.photo.is_defect]

    @property
    def defect_scores(self) -> list[float]:
        return [f.score for f in self.frames if f.photo.is_defect]

    def to_dict(self) -> dict[str, Any]:
        kinds = {kind: metrics.to_dict() for kind, metrics in self.by_kind.items()}
        left_out = len(self.left_out)
        return {"source": self.source, **self.metrics.to_dict(), "images_left_out": left_out, "by_kind": kinds}


def evaluate_photos(
    predictor: Predictor,
    preprocess: Preprocess,
    photos: Sequence[Photo],
    *,
    track: Callable[[Sequence[Any]], Iterable[Any]] = lambda items: items,
) -> Evaluation:
    """Evaluate a predictor on photographs; masks come to network size by `training.metrics.downsample_mask`.

    Args:
        track: wraps the photographs, for a progress bar.

    Raises:
        DataError: no photograph to evaluate, or more than the memory holds the maps of.
        FrameError: a photograph cannot be read, or the crop reaches outside of it.
    """
    frames: list[FrameResult] = []
    left_out = []
    for photo in track(photos):
        result = _evaluate_photo(predictor, preprocess, photo)
        if result is None:
            left_out.append(photo)
            continue
        if not frames:
            _check_fits(len(photos), result.anomaly_map)
        frames.append(result)
    if not frames:
        raise DataError(
            "there is no photograph to evaluate"
            + (f": the defects of all {len(left_out)} lie outside the crop" if left_out else ""),
            expected="photographs of good parts, or of defects inside the crop",
            fix="evaluate on a folder that has them",
        )
    return summarise(frames, left_out)


def summarise(frames: list[FrameResult], left_out: Sequence[Photo] = (), *, is_synthetic: bool = False) -> Evaluation:
    """The metrics of frames, at least one, over all of them and per defect type."""
    kinds = sorted({f.photo.kind for f in frames if f.photo.is_defect})
    by_kind = {kind: _metrics([f for f in frames if f.photo.kind in (GOOD, kind)]) for kind in kinds}
    return Evaluation(_metrics(frames), by_kind, frames, list(left_out), is_synthetic)


@dataclass(frozen=True)
class _Subject:
    """What is evaluated, a run or a bundle, and what it says of its training."""

    preprocess: Preprocess
    held_out_sha256: Sequence[str]
    seed: int
    foreground: bool
    on_frames: Predictor
    on_images: Predictor  # given what `preprocess.resize` returns


def evaluate(
    model: str | Path,
    photos: str | Path,
    *,
    synthetic: bool = False,
    precision: str = "auto",
    engine: str = "auto",
    track: Callable[[Sequence[Any]], Iterable[Any]] = lambda items: items,
) -> Evaluation:
    """Evaluate a run (folder) or a bundle (.segrd file) on a folder of photographs.

    Args:
        photos: MVTec AD layout, or a plain folder with defect folders. A plain folder has no good test images; those
            that the run held out from training stand in for them.
        synthetic: evaluate on synthetic defects instead, on those of the good images in `photos` that the run held out.
        precision, engine: of a bundle, as in `Detector`.
        track: wraps what is evaluated, for a progress bar.

    Raises:
        DataError: `photos` has no photographs of defects, or, where `synthetic`, none of the held-out images.
        TrainingError, BundleError, FrameError: what cannot be read or does not fit the crop.
    """
    run = None
    folder = scan(photos)
    if Path(model).is_dir():
        from .run import Run

        run = Run.load(model)
        folder = _usable(run, folder)
    if not synthetic and not any(photo.is_defect for photo in folder.test):
        raise DataError(
            f"{photos} has no photographs of defects, so that there is nothing to measure",
            expected="a folder of photographs for each defect type",
            fix=f"add some; or measure on synthetic defects: segrd-eval {model} {photos} --synthetic",
        )
    if run is not None:
        return _evaluate(_run_subject(run), folder, track, synthetic=synthetic)
    from segrd_edge.detector import Detector

    with Detector(model, precision=precision, engine=engine) as detector:
        return _evaluate(_detector_subject(detector), folder, track, synthetic=synthetic)


def _evaluate(
    subject: _Subject, folder: PhotoFolder, track: Callable[[Sequence[Any]], Iterable[Any]], *, synthetic: bool
) -> Evaluation:
    if not synthetic:
        photos = evaluation_photos(folder, set(subject.held_out_sha256))
        return evaluate_photos(subject.on_frames, subject.preprocess, photos, track=track)
    from .synthetic_test import evaluate_frames, synthetic_frames

    paths = {file_sha256(photo.path): photo.path for photo in folder.train}
    held_out = [paths[sha256] for sha256 in subject.held_out_sha256 if sha256 in paths]
    if not held_out:
        raise DataError(
            f"none of the {len(subject.held_out_sha256)} good images held out from training is in {folder.root}",
            expected="the photographs that the detector was trained with: on others it may have been trained",
            fix="give the folder that segrd-train was given",
        )
    frames = synthetic_frames(subject.preprocess, held_out, foreground=subject.foreground, seed=subject.seed)
    return evaluate_frames(subject.on_images, track(frames))


def evaluation_photos(folder: PhotoFolder, held_out_sha256: set[str]) -> list[Photo]:
    """The test split; in a plain folder the good images that were held out from training, and the defects."""
    if any(not photo.is_defect for photo in folder.test):
        return folder.evaluation()
    return folder.evaluation([photo for photo in folder.train if file_sha256(photo.path) in held_out_sha256])


def photos_of_run(run: Any, data: str | Path | None = None) -> list[Photo]:
    """The `evaluation_photos` of a `training.run.Run`, in its own folder or in `data`; none without defects there."""
    folder = _usable(run, scan(data or run.config.data))
    if not any(photo.is_defect for photo in folder.test):
        return []
    return evaluation_photos(folder, {entry["sha256"] for entry in run.data["held_out"]})


def _usable(run: Any, folder: PhotoFolder) -> PhotoFolder:
    """Without what the data check refuses, where the run trained without it (--skip-bad)."""
    return check(folder, run.preprocess) if run.data["problems"] else folder


def placement_of(path: Path, frame: Frame, preprocess: Preprocess) -> Placement:
    """Where the photograph's frame lies in the network image; FrameError names the file that the crop does not fit."""
    try:
        return preprocess.placement((frame.shape[0], frame.shape[1]))
    except FrameError as error:
        raise FrameError(f"{path}: {error.what}", expected=error.expected, fix=error.fix) from error


def _run_subject(run: Any) -> _Subject:
    """The torch reference of a `training.run.Run`."""
    from .predict import predict_image

    def on_image(image: Frame) -> tuple[npt.NDArray[np.float32], float]:
        score, anomaly_map = predict_image(run.model, run.preprocess, image)
        return anomaly_map, score

    return _Subject(
        run.preprocess,
        [entry["sha256"] for entry in run.data["held_out"]],
        run.config.seed,
        run.config.foreground,
        lambda frame: on_image(run.preprocess.resize(frame)),
        on_image,
    )


def _detector_subject(detector: Any) -> _Subject:
    """A `segrd_edge.Detector` as it runs on the line."""
    manifest = detector.bundle.manifest
    preprocess = Preprocess.from_dict(manifest.preprocess)
    frame_hw = manifest.graphs[detector.precision].frame_hw

    def on_frames(frame: Frame) -> tuple[npt.NDArray[np.float32], float]:
        inspection = detector.inspect(frame)
        return inspection.anomaly_map, inspection.score

    def on_images(image: Frame) -> tuple[npt.NDArray[np.float32], float]:
        # A graph that takes frames shrinks what is enlarged for it, and that is not quite the same image.
        output = detector.run_engine(image if frame_hw is None else golden_frame(image, preprocess, frame_hw))
        return output.anomaly_map.copy(), output.score

    held_out = manifest.data.get("held_out_sha256") or ()
    foreground = manifest.data.get("foreground", True)
    return _Subject(preprocess, held_out, manifest.model.training.seed, foreground, on_frames, on_images)


def _evaluate_photo(predictor: Predictor, preprocess: Preprocess, photo: Photo) -> FrameResult | None:
    """None where the photograph's defects lie wholly outside the crop."""
    frame = read_frame(photo.path, value_range=preprocess.value_range)
    placement = placement_of(photo.path, frame, preprocess)
    mask = None
    if photo.mask is not None:
        frame_mask = read_mask(photo.mask)
        if frame_mask.shape != frame.shape[:2]:
            raise DataError(
                f"{photo.mask} has {frame_mask.shape[1]}×{frame_mask.shape[0]} pixels",
                expected=f"{frame.shape[1]}×{frame.shape[0]}, as {photo.path.name} has",
                fix="mend or remove the mask",
            )
        mask = downsample_mask(frame_mask, placement.size_hw, placement)
        if frame_mask.any() and not placement.seen(frame_mask).any():
            return None
    anomaly_map, score = predictor(frame)
    return FrameResult(photo, score, anomaly_map, mask)


def _check_fits(photos: int, anomaly_map: npt.NDArray[np.float32]) -> None:
    height, width = anomaly_map.shape
    check_memory(
        f"measuring {photos} maps of {width}×{height} pixels",
        photos * anomaly_map.size * BYTES_PER_PIXEL,
        "evaluate on fewer photographs, a part of them at a time, or train with a larger --tile",
        DataError,
    )


def _metrics(frames: Sequence[FrameResult]) -> Metrics:
    return evaluate_maps(
        [f.anomaly_map for f in frames],
        [f.mask for f in frames],
        np.array([f.photo.is_defect for f in frames]),
        np.array([f.score for f in frames]),
    )
