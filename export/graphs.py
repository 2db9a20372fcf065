"""The graphs of a bundle, one per precision, from the float deploy graph.

    fp32 ─ calibration ─► int8                      network images, one by one: the engines of a processor
      │                     │
      └─► fp16              └─► mixed               for TensorRT: float16 layers; frames and a batch where asked for

What the four have in common is observed once: one pass of the calibration frames gives the INT8 scales, the ranges that
decide on float16, and the float results that every other precision is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge.calibration.cache import ObservationCache
from segrd_edge.calibration.calibrate import Calibration, calibrate, within
from segrd_edge.calibration.drift import Drift, Scale, Truth, measure_drift
from segrd_edge.calibration.fine_tuning import Tuned, nearer
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.progress import Said, Track, untracked
from segrd_edge.calibration.ranges import observe
from segrd_edge.calibration.session import run_engine
from segrd_edge.calibration.settings import DEFAULT_SETTINGS, Int8Settings
from segrd_edge.engines import EngineOutput
from segrd_edge.manifest import Precision
from segrd_edge.preprocess import Preprocess

from .batch import with_batch
from .fp16 import to_fp16
from .fp16_plan import Fp16Plan, tensors_to_observe
from .frame_graph import build_frame_graph
from .rounding import rounding
from .target import Target

Tune = Callable[[onnx.ModelProto], Tuned]  # of an INT8 graph


@dataclass(frozen=True)
class ExportGraph:
    """One precision of a bundle."""

    model: onnx.ModelProto  # as the bundle holds it
    judged: onnx.ModelProto  # the same for network images, one by one, on a processor
    engine: str  # that it is judged in; "auto" is the fastest installed, which a Detector takes as well
    alone: onnx.ModelProto  # `model` with a batch of 1: what each of its items has to give
    batch: int = 1
    frame_hw: tuple[int, int] | None = None  # of the frames that `model` takes; None: network images
    drift: Drift | None = None  # from fp32 on the calibration frames
    is_safe: bool | None = None  # of a graph with INT8: whether `drift` stays within the budget
    kept_fp32: Mapping[str, str] = field(default_factory=dict)  # beside float16: node → why it keeps float32


def build_graphs(
    float_graph: onnx.ModelProto,
    preprocess: Preprocess,
    target: Target,
    frames: Callable[[], Sequence[CalibrationFrame]],
    *,
    int8: bool,
    settings: Int8Settings = DEFAULT_SETTINGS,
    threshold: float | None = None,
    tune: Tune | None = None,
    first: Calibration | None = None,
    cache: ObservationCache | None = None,
    said: Said = lambda line: None,
    track: Track = untracked,
) -> tuple[dict[Precision, ExportGraph], Calibration | None]:
    """Every graph that `target` asks for, fp32 first, and the calibration where there is one.

    Args:
        float_graph: the deploy graph in float32.
        frames: gives the calibration frames; called where anything needs them.
        int8: add the INT8 graph, and for TensorRT the mixed one.
        settings: of INT8; its budget says of the mixed graph, too, whether it is safe.
        threshold: of the float graph, which tells how many verdicts INT8 turns.
        tune: fine-tunes the network for its INT8 graph; that one is taken where it comes nearer to the float graph.
        first: a calibration of the same graph on the same frames; another one differs from it by its limits alone.
        cache: where what the frames show of the float graph is kept.
        track: wraps frames, for a progress bar.

    Raises:
        ExportError: the network gives NaN or infinity, or its graph cannot take a batch.
        OptionError: a scope or a frame size that cannot work.
    """
    graphs: dict[Precision, ExportGraph] = {"fp32": for_processor(float_graph)}
    if not int8 and not target.is_tensorrt:
        return graphs, None
    chosen = frames()
    images = [frame.image_bgr_u8 for frame in chosen]
    also = tensors_to_observe(float_graph) if target.is_tensorrt else []
    calibration = None
    if int8:
        on_frames = partial(
            calibrate,
            frames=chosen,
            threshold=threshold,
            also=also,
            compare_methods=True,
            cache=cache,
            said=said,
            track=track,
        )
        if first is None:
            said(f"calibrating INT8 on {len(images)} frames")
            calibration = on_frames(float_graph, settings=settings)
        else:
            calibration = within(first.prepared, settings.budget, compare_methods=True, said=said, track=track)
        said(calibration.decision)
        if tune is not None:
            said("fine-tuning for INT8")
            tuned = tune(calibration.model)
            # What each block does alone was found before, and `nearer` keeps it, as it does the methods' trials. The
            # plan brings its way to find scales, with which the fine-tune was done.
            same_plan = replace(
                settings, scope="auto", method="auto", plan=calibration.plan.to_dict(), each_block=False
            )
            other = on_frames(tuned.graph, settings=same_plan, reference=calibration.reference)
            calibration = nearer(calibration, other, tuned.minutes, tuned.steps)
            said(str(calibration.fine_tuning))
        graphs["int8"] = replace(for_processor(calibration.model), drift=calibration.drift, is_safe=calibration.is_safe)
        seen = _Seen(images, calibration.prepared.largest, calibration.reference, Truth.of(chosen, threshold))
    else:
        said(f"observing activations on {len(images)} frames")
        observed = observe(float_graph, [], images, also=also, cache=cache, track=track)
        seen = _Seen(images, observed.largest, observed.outputs, Truth.of(chosen, threshold))
    if target.is_tensorrt:
        sources: dict[Precision, onnx.ModelProto] = {"fp16": float_graph}
        if calibration is not None:
            sources["mixed"] = calibration.beside_float16()
        for precision, source in sources.items():
            made = _for_tensorrt(source, preprocess, target, seen)
            is_safe = settings.budget.allows(made.drift) if made.drift is not None and precision == "mixed" else None
            graphs[precision] = replace(made, is_safe=is_safe)
            said(f"{precision}: {_summary(graphs[precision])}")
    return graphs, calibration


@dataclass(frozen=True)
class _Seen:
    """What one pass of the calibration frames has shown."""

    images: Sequence[npt.NDArray[np.uint8]]
    largest: Mapping[str, float]  # tensor → largest magnitude
    reference: Sequence[EngineOutput]  # of the float graph
    truth: Truth


def for_processor(model: onnx.ModelProto) -> ExportGraph:
    """A graph for network images, one by one, as the engines of a processor run it."""
    return ExportGraph(model, judged=model, engine="auto", alone=model)


def _for_tensorrt(model: onnx.ModelProto, preprocess: Preprocess, target: Target, seen: _Seen) -> ExportGraph:
    """`model`, float32 or INT8, with float16 layers, for what `target` gives it."""
    largest = dict(seen.largest)
    # Every tensor of an INT8 graph is one of the float graph, or was levelled by a known factor; but a weight that is
    # too large for float16 leaves a node undecided there that has no such weight here.
    if unseen := [name for name in tensors_to_observe(model) if name not in largest]:
        largest |= observe(model, [], seen.images, also=unseen).largest
    plan = Fp16Plan.of(model, largest)
    half = to_fp16(model, plan)
    judged = rounding(half)
    outputs = list(run_engine("onnxruntime", judged, seen.images))  # OpenVINO drops the rounding
    alone = _given(half, preprocess, target, 1)
    return ExportGraph(
        model=alone if target.batch == 1 else _given(half, preprocess, target, target.batch),
        judged=judged,
        engine="onnxruntime",
        alone=alone,
        batch=target.batch,
        frame_hw=target.frame_hw,
        drift=measure_drift(seen.reference, outputs, Scale.of(model, seen.reference), seen.truth),
        kept_fp32=plan.left_float,
    )


def _given(half: onnx.ModelProto, preprocess: Preprocess, target: Target, batch: int) -> onnx.ModelProto:
    """`half` for `batch` items of what the target delivers."""
    batched = half if batch == 1 else with_batch(half, batch)
    return batched if target.frame_hw is None else build_frame_graph(batched, preprocess, target.frame_hw)


def _summary(graph: ExportGraph) -> str:
    frames = "network images" if graph.frame_hw is None else "frames of {1}×{0}".format(*graph.frame_hw)
    kept = f"{len(graph.kept_fp32)} nodes keep float32"
    unsafe = "; INT8 moves the results too far, so TensorRT takes fp16" if graph.is_safe is False else ""
    return f"{graph.batch} × {frames} at once; {kept}; {graph.drift} from fp32{unsafe}"
