"""The plans that the export has tried for INT8, and what each reaches on the images of the metrics.

The export measures them on calibration frames, which decide; the photographs say what that was worth. Only a report
asks, so they are run here: those that were tried and not taken, from the one with most in INT8 on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from segrd_edge.calibration.calibrate import Calibration
from segrd_edge.calibration.progress import Said
from segrd_edge.calibration.quantise import quantise
from segrd_edge.errors import DataError, FrameError
from segrd_edge.frames import read_frame
from segrd_edge.training.evaluate import Evaluation, FrameResult
from segrd_edge.training.run import Run
from segrd_edge.training.synthetic_test import SyntheticFrame

from .judge import evaluate_graph
from .record import METHOD_METRICS

# Of the network, of all plans together. To score 87 images with one INT8 graph took 4 % of an export that searched
# (adps on fabric01, 22 of 585 s of processor time). Where everything keeps within the limits there is but one plan, and
# nothing is run.
MOST_RUNS = 200

PlanMetrics = Mapping[str, float | None]  # METHOD_METRICS


@dataclass(frozen=True)
class PlanTried:
    """A plan by the name of its scope."""

    scope: str
    drift: Mapping[str, float]  # on the calibration frames
    int8_share: float  # of the multiply-accumulates
    two_term_share: float  # the part of them that is computed in two terms
    is_exported: bool
    is_within_limits: bool
    metrics: PlanMetrics | None  # None: not measured


def plans_tried(
    calibration: Calibration, int8: Evaluation | None, measured: Mapping[str, PlanMetrics]
) -> list[PlanTried]:
    """In the order in which they were tried.

    Args:
        int8: of the exported one.
        measured: of others, as `measure_plans` gives it.
    """
    found = dict(measured) if int8 is None else {**measured, calibration.scope: metrics_of(int8)}
    return [
        PlanTried(
            scope,
            attempt.drift.to_dict(),
            attempt.int8_share,
            attempt.two_term_share,
            scope == calibration.scope,
            calibration.budget.allows(attempt.drift),
            found.get(scope),
        )
        for scope, attempt in calibration.choice.attempts.items()
    ]


def measure_plans(
    run: Run, calibration: Calibration, evaluation: Evaluation, said: Said = lambda line: None
) -> dict[str, PlanMetrics]:
    """Scope → metrics of its plan on the images of `evaluation`, of those tried and not taken; beyond the first within
    MOST_RUNS.

    None where the weights have been changed for the plan that was taken, as bias correction and fine-tuning do: the
    others were tried with what they were before.
    """
    tuned = calibration.fine_tuning is not None and calibration.fine_tuning.is_taken
    others = [scope for scope in calibration.choice.attempts if scope != calibration.scope]
    others = others[: max(1, MOST_RUNS // len(evaluation.frames))]
    if not others or tuned or "bias" in calibration.improved:
        return {}
    said(f"scoring the same images with the plans that were tried: {', '.join(others)}")
    found: dict[str, PlanMetrics] = {}
    try:
        synthetic = [_synthetic(run, frame) for frame in evaluation.frames] if evaluation.is_synthetic else []
        photos = [] if synthetic else [frame.photo for frame in evaluation.frames]
        for scope in others:
            graph = quantise(calibration.float_model, calibration.ranges, calibration.choice.attempts[scope].plan)
            reached = evaluate_graph(graph, run.preprocess, run.map_spec, photos, synthetic)
            if reached is not None:
                found[scope] = metrics_of(reached)
    except (FrameError, DataError) as error:
        said(f"the photographs cannot be read again, so metrics of these plans are missing: {error.what}")
    return found


def metrics_of(evaluation: Evaluation) -> PlanMetrics:
    return {name: getattr(evaluation.metrics, name) for name in METHOD_METRICS}


def _synthetic(run: Run, frame: FrameResult) -> SyntheticFrame:
    """What was evaluated, to be evaluated again."""
    image = frame.painted_bgr_u8
    if image is None:
        image = run.preprocess.resize(read_frame(frame.photo.path, value_range=run.preprocess.value_range))
    return SyntheticFrame(frame.photo, image, frame.mask)
