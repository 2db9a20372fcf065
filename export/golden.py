"""Golden images and outputs: what every graph of a bundle must give, wherever and by whatever it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge import engines
from segrd_edge.engines import EngineOutput
from segrd_edge.errors import ExportError
from segrd_edge.manifest import Precision
from segrd_edge.preprocess import Preprocess
from segrd_edge.selftest import BATCH_SHARE, TOLERANCE, golden_frame

from .graphs import ExportGraph

Image = npt.NDArray[np.uint8]


def golden_outputs(
    graphs: Mapping[Precision, ExportGraph], images_bgr_u8: Sequence[Image], preprocess: Preprocess
) -> dict[str, npt.NDArray[Any]]:
    """The golden images (network size) and what each graph, as the bundle holds it, gives for them in ONNX Runtime.

    See `Bundle.golden` for the arrays. A graph that takes frames is given `golden_frame` of the images.

    Raises:
        ExportError: an item of a batch does not give what it gives alone.
    """
    arrays: dict[str, npt.NDArray[Any]] = {"images": np.stack(images_bgr_u8)}
    for precision, graph in graphs.items():
        items = list(images_bgr_u8)
        if graph.frame_hw is not None:
            items = [golden_frame(image, preprocess, graph.frame_hw) for image in images_bgr_u8]
        at_every_place = _run(graph.model, items)
        if graph.batch > 1:
            _compare(precision, at_every_place, _run(graph.alone, items))
        outputs = [places[0] for places in at_every_place]
        arrays[f"score_{precision}"] = np.array([output.score for output in outputs], np.float32)
        arrays[f"map_{precision}"] = np.stack([output.anomaly_map for output in outputs])
    return arrays


def differences(
    graphs: Mapping[Precision, ExportGraph],
    golden: Mapping[str, npt.NDArray[Any]],
    precision: Precision,
    preprocess: Preprocess,
) -> dict[str, float]:
    """Largest absolute differences of a graph's golden outputs from the fp32 graph's, which parity has tied to torch.

    Both see the same pixels: for a graph that takes frames, float32 is given the processor's resize of these, which
    golden images that were enlarged and shrunk again are not.
    """
    scores, maps = golden["score_fp32"], golden["map_fp32"]
    frame_hw = graphs[precision].frame_hw
    if frame_hw is not None:
        resized = [preprocess.resize(golden_frame(image, preprocess, frame_hw)) for image in golden["images"]]
        outputs = [output for (output,) in _run(graphs["fp32"].model, resized)]
        scores, maps = np.array([o.score for o in outputs]), np.stack([o.anomaly_map for o in outputs])
    return {
        "map": float(np.abs(golden[f"map_{precision}"] - maps).max()),
        "score": float(np.abs(golden[f"score_{precision}"] - scores).max()),
    }


def _run(model: onnx.ModelProto, items: Sequence[Image]) -> list[list[EngineOutput]]:
    """What each item gives at every place of a batch, with the others beside it."""
    engine = engines.create("onnxruntime", model.SerializeToString())
    outputs: list[list[EngineOutput]] = [[] for _ in items]
    try:
        for first in range(len(items)):
            places = [(first + place) % len(items) for place in range(engine.batch)]
            for index, output in zip(places, engine.run_batch([items[i] for i in places]), strict=True):
                outputs[index].append(EngineOutput(output.score, output.anomaly_map.copy()))
    finally:
        engine.close()
    return outputs


def _compare(
    precision: Precision, together: Sequence[Sequence[EngineOutput]], alone: Sequence[Sequence[EngineOutput]]
) -> None:
    limit = BATCH_SHARE * TOLERANCE[precision]
    for number, (places, (wanted,)) in enumerate(zip(together, alone, strict=True)):
        moved = max(
            max(abs(got.score - wanted.score), float(np.abs(got.anomaly_map - wanted.anomaly_map).mean()))
            for got in places
        )
        if not moved <= limit:  # also where it is NaN
            raise ExportError(
                f"golden image {number} gives another {precision} result in a batch than alone, by {moved:.3g}",
                expected=f"at most {limit:g}: items of a batch must not see each other",
                fix="export with --batch 1, and report this with the model's options",
            )
