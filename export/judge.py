"""What one graph makes of the photographs: a threshold from held-out good images, metrics on the test images.

Where there are no photographs of defects, the metrics come from synthetic ones (`training.synthetic_test`), which say
nothing about escapes.

Every precision is judged by itself, in the engine that will run it: a threshold that is right for float32 is not right
for INT8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge import engines
from segrd_edge.frames import read_frame
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.tiles import on_tiles
from segrd_edge.training.data import Photo
from segrd_edge.training.evaluate import Evaluation, Predictor, evaluate_photos
from segrd_edge.training.synthetic_test import SyntheticFrame, evaluate_frames
from segrd_edge.training.threshold import Reference, Threshold, choose_threshold


@dataclass(frozen=True)
class Judgement:
    """How one graph does."""

    held_out_scores: list[float]  # of the good images that the threshold comes from
    threshold: Threshold
    evaluation: Evaluation | None  # None where there is nothing to test on
    shown_scores: list[float] = field(default_factory=list)  # of the `shown` images

    @property
    def paired_scores(self) -> list[float]:
        """What tells how this graph's scores go with another's."""
        return [*self.held_out_scores, *self.shown_scores]


def judge(
    graph: onnx.ModelProto,
    preprocess: Preprocess,
    spec: MapSpec,
    held_out: Sequence[Path],
    test: Sequence[Photo],
    *,
    synthetic: Sequence[SyntheticFrame] = (),
    shown: Sequence[npt.NDArray[np.uint8]] = (),
    false_reject: float,
    engine: str = "auto",
    reference: Judgement | None = None,
) -> Judgement:
    """Run a deploy graph of network images on photographs.

    Args:
        held_out: good photographs that neither training nor calibration has seen.
        test: photographs to evaluate on, may be empty. Their defects state the escape rate, never move the threshold.
        synthetic: what to evaluate on where `test` is empty. No escape rate follows from these.
        false_reject: budget of good parts called defective.
        shown: network images (h×w×3) with and without defects, for `reference`; they set no threshold by themselves.
        engine: "auto" is the fastest installed of the processor's, whatever GPU is at hand.
        reference: of the float graph on the same photographs, for one with less precision: an estimated threshold is
            carried over from it, see `training.threshold`.
    """
    loaded = _load(graph, engine)
    on_image = image_predictor(loaded, preprocess, spec)
    try:
        frames = (read_frame(path, value_range=preprocess.value_range) for path in held_out)
        scores = [on_image(preprocess.resize(frame))[1] for frame in frames]
        shown_scores = [on_image(image)[1] for image in shown]
        evaluation = _evaluate(on_image, preprocess, test, synthetic)
    finally:
        loaded.close()
    defect_scores = evaluation.defect_scores if evaluation and not evaluation.is_synthetic else None
    carried = None
    if reference is not None:
        carried = Reference(reference.threshold, reference.paired_scores, [*scores, *shown_scores])
    threshold = choose_threshold(scores, false_reject=false_reject, defect_scores=defect_scores, reference=carried)
    return Judgement(scores, threshold, evaluation, shown_scores)


def evaluate_graph(
    graph: onnx.ModelProto,
    preprocess: Preprocess,
    spec: MapSpec,
    test: Sequence[Photo],
    synthetic: Sequence[SyntheticFrame] = (),
) -> Evaluation | None:
    """The evaluation alone, in the fastest engine of the processor; arguments as `judge` takes them."""
    loaded = _load(graph)
    try:
        return _evaluate(image_predictor(loaded, preprocess, spec), preprocess, test, synthetic)
    finally:
        loaded.close()


def _load(graph: onnx.ModelProto, engine: str = "auto") -> engines.Engine:
    """The graph in an engine; "auto" is the fastest of the processor, not what is the fastest of all."""
    return engines.create(engines.processor_engine() if engine == "auto" else engine, graph.SerializeToString())


def _evaluate(
    on_image: Predictor, preprocess: Preprocess, test: Sequence[Photo], synthetic: Sequence[SyntheticFrame]
) -> Evaluation | None:
    if test:
        return evaluate_photos(lambda frame: on_image(preprocess.resize(frame)), preprocess, test)
    return evaluate_frames(on_image, synthetic) if synthetic else None


def image_predictor(engine: engines.Engine, preprocess: Preprocess, spec: MapSpec) -> Predictor:
    """A loaded graph of network images as evaluation takes it: on what `preprocess.resize` returns."""

    def predict(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], float]:
        grid = preprocess.grid((image.shape[0], image.shape[1]))
        score, anomaly_map = on_tiles(engine.run_all, image, grid, spec)
        return anomaly_map, score

    return predict
