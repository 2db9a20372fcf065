"""How good is it: a run or a bundle on a folder of photographs, with every metric per defect type.

Nothing is selected here, but for defects that lie wholly outside the crop: no detector of this run can find them, and
counting them, as escapes or as good parts, would say something else than how good it is. They are left out of every
metric and named (`Evaluation.left_out`). That takes a mask: a defect without one counts wherever it lies. A run is
evaluated in torch; a bundle through the very `Detector` that runs on the line.
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
from segrd_edge.preprocess import Preprocess

from .data import GOOD, Photo, PhotoFolder, file_sha256, read_mask, scan
from .metrics import Metrics, downsample_mask, evaluate_maps

Frame = npt.NDArray[np.uint8]
# A frame (uint8 H×W×3 BGR) → its anomaly map (float32 h×w at network size) and score.
Predictor = Callable[[Frame], tuple[npt.NDArray[np.float32], float]]


@dataclass(frozen=True)
class FrameResult:
    """One evaluated photograph. Map and mask are at network size."""

    photo: Photo
    score: float
    anomaly_map: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_] | None  # of defects that have one


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all photographs, per defect type (each against all good ones), and the frames behind them."""

    metrics: Metrics
    by_kind: dict[str, Metrics]
    frames: list[FrameResult]
    left_out: list[Photo] = field(default_factory=list)  # their defects lie wholly outside the crop

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
        return {**self.metrics.to_dict(), "images_left_out": len(self.left_out), "by_kind": kinds}


def evaluate_photos(predictor: Predictor, preprocess: Preprocess, photos: Iterable[Photo]) -> Evaluation:
    """Evaluate a predictor on photographs; masks come to network size by `training.metrics.downsample_mask`.

    Raises:
        DataError: no photograph to evaluate.
        FrameError: a photograph cannot be read, or the crop reaches outside of it.
    """
    frames, left_out = [], []
    for photo in photos:
        result = _evaluate_photo(predictor, preprocess, photo)
        if result is None:
            left_out.append(photo)
        else:
            frames.append(result)
    if not frames:
        raise DataError(
            "there is no photograph to evaluate"
            + (f": the defects of all {len(left_out)} lie outside the crop" if left_out else ""),
            expected="photographs of good parts, or of defects inside the crop",
            fix="evaluate on a folder that has them",
        )
    kinds = sorted({f.photo.kind for f in frames if f.photo.is_defect})
    by_kind = {kind: _metrics([f for f in frames if f.photo.kind in (GOOD, kind)]) for kind in kinds}
    return Evaluation(_metrics(frames), by_kind, frames, left_out)


def evaluate(
    model: str | Path,
    photos: str | Path,
    *,
    precision: str = "auto",
    engine: str = "auto",
    track: Callable[[Sequence[Photo]], Iterable[Photo]] = lambda photos: photos,
) -> Evaluation:
    """Evaluate a run (folder) or a bundle (.segrd file) on a folder of photographs.

    Args:
        photos: MVTec AD layout, or a plain folder with defect folders. A plain folder has no good test images; those
            that the run held out from training stand in for them.
        precision, engine: of a bundle, as in `Detector`.
        track: wraps the photographs, for a progress bar.

    Raises:
        DataError, TrainingError, BundleError, FrameError: what cannot be read or does not fit the crop.
    """
    folder = scan(photos)
    if Path(model).is_dir():
        from .run import Run

        run = Run.load(model)
        held_out = {entry["sha256"] for entry in run.data["held_out"]}
        return evaluate_photos(run_predictor(run), run.preprocess, track(evaluation_photos(folder, held_out)))
    from segrd_edge.detector import Detector

    with Detector(model, precision=precision, engine=engine) as detector:
        manifest = detector.bundle.manifest
        held_out = set(manifest.data.get("held_out_sha256") or ())  # type: ignore[arg-type]
        preprocess = Preprocess.from_dict(manifest.preprocess)
        return evaluate_photos(detector_predictor(detector), preprocess, track(evaluation_photos(folder, held_out)))


def evaluation_photos(folder: PhotoFolder, held_out_sha256: set[str]) -> list[Photo]:
    """The test split; in a plain folder the good images that were held out from training, and the defects."""
    if any(not photo.is_defect for photo in folder.test):
        return folder.evaluation()
    return folder.evaluation([photo for photo in folder.train if file_sha256(photo.path) in held_out_sha256])


def run_predictor(run: Any) -> Predictor:
    """The torch reference of a `training.run.Run`."""
    from .predict import predict

    def predictor(frame: Frame) -> tuple[npt.NDArray[np.float32], float]:
        prediction = next(predict(run.model, run.preprocess, [frame]))
        return prediction.anomaly_map, prediction.score

    return predictor


def detector_predictor(detector: Any) -> Predictor:
    """A `segrd_edge.Detector` as it runs on the line."""

    def predictor(frame: Frame) -> tuple[npt.NDArray[np.float32], float]:
        inspection = detector.inspect(frame)
        return inspection.anomaly_map, inspection.score

    return predictor


def _evaluate_photo(predictor: Predictor, preprocess: Preprocess, photo: Photo) -> FrameResult | None:
    """None where the photograph's defects lie wholly outside the crop."""
    frame = read_frame(photo.path, value_range=preprocess.value_range)
    try:
        placement = preprocess.placement((frame.shape[0], frame.shape[1]))
    except FrameError as error:
        raise FrameError(f"{photo.path}: {error.what}", expected=error.expected, fix=error.fix) from error
    mask = None
    if photo.mask is not None:
        frame_mask = read_mask(photo.mask)
        mask = downsample_mask(frame_mask, preprocess.size_hw, placement)
        if frame_mask.any() and not placement.seen(frame_mask).any():
            return None
    anomaly_map, score = predictor(frame)
    return FrameResult(photo, score, anomaly_map, mask)


def _metrics(frames: Sequence[FrameResult]) -> Metrics:
    return evaluate_maps(
        np.stack([f.anomaly_map for f in frames]),
        [f.mask for f in frames],
        np.array([f.photo.is_defect for f in frames]),
        np.array([f.score for f in frames]),
    )
