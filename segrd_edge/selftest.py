"""The self-test: an engine on the bundle's golden images must give what ONNX Runtime gave at export.

segrd-inspect and segrd-doctor run it, and it follows every build of a TensorRT engine: kernels are chosen by timing
there, and there have been releases whose answers differed within one batch. A program calls `Detector.self_test`.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .engines import Engine, EngineOutput
from .errors import EngineError
from .manifest import Precision
from .preprocess import Preprocess

# How far a golden score, and a golden map on average over its pixels, may move from ONNX Runtime's at export. Engines
# order float sums differently; with INT8 a rounding tie can also fall the other way, and the teacher-student difference
# carries that on.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 1e-2, "mixed": 0.05, "int8": 0.05}
BATCH_SHARE = 0.1  # of the tolerance: how far equal items of one batch may differ


class SelfTest(NamedTuple):
    """What a self-test found. Differences are from the outputs stored at export, the largest over all images."""

    frames: int
    max_score_difference: float
    max_map_difference: float  # mean |Δ| over the pixels of a map
    max_batch_difference: float  # of scores between equal items of one batch; 0 where the batch is 1
    tolerance: float


def self_test(engine: Engine, bundle: Bundle, precision: Precision) -> SelfTest:
    """Run a bundle's golden images on an engine that holds its graph of `precision`.

    Raises:
        EngineError: a score or a map is too far from the stored one, or equal items of a batch differ, so that the
            threshold does not hold on this machine.
    """
    golden = bundle.golden()
    preprocess = Preprocess.from_dict(bundle.manifest.preprocess)
    scores, maps, batches = [0.0], [0.0], [0.0]
    wanted = zip(golden["images"], golden[f"score_{precision}"], golden[f"map_{precision}"], strict=True)
    for image, score, anomaly_map in wanted:
        item = golden_frame(image, preprocess, engine.input_hw) if engine.takes_frames else image
        outputs = engine.run_batch([item] * engine.batch)
        scores += [abs(output.score - float(score)) for output in outputs]
        maps += [_mean_difference(output, anomaly_map) for output in outputs]
        batches += [abs(output.score - outputs[0].score) for output in outputs]
    tolerance = TOLERANCE[precision]
    found = SelfTest(len(golden["images"]), _worst(scores), _worst(maps), _worst(batches), tolerance)
    _check(found, f"{engine.name} {engine.version()}", precision)
    return found


def golden_frame(
    image: npt.NDArray[np.uint8], preprocess: Preprocess, frame_hw: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """A frame (uint8 H×W×3 BGR) for a golden network image (uint8 h×w×3): what the graphs that take frames are tested
    with.

    The part of the image that a frame covers is enlarged to the frame, or to its crop, by nearest neighbours, or
    shrunk; OpenCV's INTER_NEAREST is exact, and so this gives the same bytes on every machine. What lies outside the
    crop is black.

    Raises:
        FrameError: the crop reaches outside of a frame of that size.
    """
    place = preprocess.placement(frame_hw)
    covered = np.ascontiguousarray(place.covered(image))
    frame = np.zeros((*frame_hw, 3), np.uint8)
    seen = place.seen(frame)
    seen[...] = cv2.resize(covered, seen.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return frame


def _mean_difference(output: EngineOutput, anomaly_map: npt.NDArray[np.float32]) -> float:
    return float(np.abs(output.anomaly_map - anomaly_map).mean())


def _worst(differences: list[float]) -> float:
    return float(np.max(differences))  # NaN stays NaN, where Python's max would depend on the order


def _check(found: SelfTest, engine: str, precision: Precision) -> None:
    limits = {
        "golden scores that differ": (found.max_score_difference, found.tolerance),
        "golden maps that differ on average": (found.max_map_difference, found.tolerance),
        "scores of equal items in one batch that differ": (found.max_batch_difference, BATCH_SHARE * found.tolerance),
    }
    for what, (difference, limit) in limits.items():
        if not difference <= limit:  # NaN fails too
            raise EngineError(
                f"{engine} gives {what} by {difference:.4f} at {precision}",
                expected=f"at most {limit:g}",
                fix="try another engine or precision, for example precision='fp32'; report it with segrd-doctor --json",
            )
