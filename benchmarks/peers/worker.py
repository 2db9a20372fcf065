"""Runs in the Python that has anomalib, which is not ours: nothing of segrd_edge is imported.

    python -I worker.py stfpm int8 --size 256 256 --threads 1 --frames FOLDER --exports FOLDER

Exports the model unless it has been, loads it, and then inspects what comes: on stdin a line of JSON, {"shape": [h, w,
3]}, and so many bytes, on stdout a line for each, {"ms": ..., "processor_ms": ..., "score": ...}. The first line says
that it is ready. Only `predict` is timed. FRAMES holds PNG files in `good/`, on which INT8 is calibrated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, BinaryIO, TextIO
from unittest import mock


def import_torchvision() -> Any:
    """The ordinary torchvision beside a torch for processors only cannot load its operators, and its Python then stops
    at two that it finds undeclared. No model here uses them. What is returned must live as long as they are needed."""
    import torch

    declared: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
    return declared


def create(peer: str, size_hw: tuple[int, int]) -> Any:
    """A model of anomalib with its defaults, untrained, and with every other value as a training would leave it."""
    import timm
    import torch
    from anomalib.models import EfficientAd, ReverseDistillation, Stfpm

    kinds = {"efficientad-s": EfficientAd, "stfpm": Stfpm, "reverse-distillation": ReverseDistillation}
    options = {"reverse-distillation": {"pre_trained": False}}
    made = timm.create_model
    with mock.patch.object(timm, "create_model", lambda *args, **more: made(*args, **{**more, "pretrained": False})):
        # STFPM cannot be told to leave its teacher untrained, and there may be no way to its weights.
        model = kinds[peer](
            pre_processor=kinds[peer].configure_pre_processor(size_hw),
            evaluator=False,
            visualizer=False,
            **options.get(peer, {}),
        )
    values = {"_image_threshold": 0.5, "_pixel_threshold": 0.5, "image_min": 0.1, "image_max": 0.9}
    values |= {"pixel_min": 0.1, "pixel_max": 0.9}
    model.post_processor.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # timm begins with branches that are multiplied by zero
                torch.nn.init.uniform_(module.weight, 0.5, 1.0)
        if peer == "efficientad-s":
            for value in model.model.mean_std.values():
                torch.nn.init.uniform_(value, 0.5, 1.0)
            for name, value in model.model.quantiles.items():
                value.fill_(0.1 if name.startswith("qa") else 0.9)
    return model.eval()


def export(peer: str, precision: str, size_hw: tuple[int, int], frames: Path, exports: Path) -> Path:
    """anomalib's OpenVINO export: as its documentation does it, which leaves the size of frames open; for INT8 with its
    post-training quantisation."""
    from anomalib.data import Folder
    from anomalib.deploy import CompressionType

    done = exports / f"{peer}-{precision}-{size_hw[0]}x{size_hw[1]}"
    if not done.is_dir():
        options: dict[str, Any] = {}
        if precision == "int8":
            photos = Folder(
                name="part",
                root=frames,
                normal_dir="good",
                eval_batch_size=1,
                num_workers=0,
                val_split_mode="from_train",
                test_split_mode="none",
            )
            options = {"compression_type": CompressionType.INT8_PTQ, "datamodule": photos}
        with tempfile.TemporaryDirectory(dir=exports) as folder:
            create(peer, size_hw).to_openvino(folder, **options).parent.rename(done)
    return done / "model.xml"


def inferencer(model: Path, threads: int) -> Callable[[Any], Any]:
    """Its `predict`. The processor is named, because the default, AUTO, adds a layer that chooses among devices."""
    from anomalib.deploy import OpenVINOInferencer

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    predict: Callable[[Any], Any] = OpenVINOInferencer(model, device="CPU", config=settings).predict
    return predict


def serve(predict: Callable[[Any], Any], requests: BinaryIO, replies: TextIO) -> None:
    """Answer until the requests end."""
    import numpy as np

    print(json.dumps({"ready": True}), file=replies, flush=True)
    while header := requests.readline():
        shape = json.loads(header)["shape"]
        frame = np.frombuffer(requests.read(int(np.prod(shape))), np.uint8).reshape(shape)
        start, processor = perf_counter(), process_time()
        prediction = predict(frame)
        took = {"ms": (perf_counter() - start) * 1e3, "processor_ms": (process_time() - processor) * 1e3}
        print(json.dumps({**took, "score": float(np.max(prediction.pred_score))}), file=replies, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer")
    parser.add_argument("precision")
    parser.add_argument("--size", type=int, nargs=2, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--exports", type=Path, required=True)
    wanted = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # exporters print
    os.chdir(wanted.exports)  # the inferencer makes a cache where it stands
    declared = import_torchvision()
    model = export(wanted.peer, wanted.precision, tuple(wanted.size), wanted.frames, wanted.exports)
    serve(inferencer(model, wanted.threads), sys.stdin.buffer, replies)
    del declared


if __name__ == "__main__":
    main()
