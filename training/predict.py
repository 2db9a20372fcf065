"""A model in torch on frames: the reference that every exported graph is held to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from segrd_edge.engines import EngineOutput
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.tiles import on_tiles

from .maps import anomaly_map, anomaly_score, normalise


def predict(
    model: nn.Module, preprocess: Preprocess, frames_bgr_u8: Iterable[npt.NDArray[np.uint8]]
) -> Iterator[EngineOutput]:
    """Predictions for frames (uint8 H×W×3 BGR), one by one; `model` in eval mode, on any device."""
    return (predict_image(model, preprocess, preprocess.resize(frame)) for frame in frames_bgr_u8)


def predict_image(model: nn.Module, preprocess: Preprocess, image_bgr_u8: npt.NDArray[np.uint8]) -> EngineOutput:
    """What the network says of a resized frame (uint8 h×w×3 BGR), one network image or many: score and map h×w."""
    spec = cast("MapSpec", model.map_spec)
    device = next(model.parameters()).device

    @torch.inference_mode()
    def run(image: npt.NDArray[np.uint8]) -> EngineOutput:
        images = torch.from_numpy(np.ascontiguousarray(image)).unsqueeze(0).to(device)
        maps = anomaly_map(model(normalise(images, preprocess)), spec, preprocess.size_hw)
        return EngineOutput(float(anomaly_score(maps, spec)[0]), maps[0].cpu().numpy())

    grid = preprocess.grid((image_bgr_u8.shape[0], image_bgr_u8.shape[1]))
    return on_tiles(lambda images: [run(image) for image in images], image_bgr_u8, grid, spec)
