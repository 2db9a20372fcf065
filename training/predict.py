"""A model in torch on frames: the reference that every exported graph is held to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess

from .maps import anomaly_map, anomaly_score, normalise


@dataclass(frozen=True)
class Prediction:
    """What the network says of one frame: map float32 h×w at network size, and the score."""

    anomaly_map: npt.NDArray[np.float32]
    score: float


@torch.inference_mode()
def predict(
    model: nn.Module, preprocess: Preprocess, frames_bgr_u8: Iterable[npt.NDArray[np.uint8]]
) -> Iterator[Prediction]:
    """Predictions for frames (uint8 H×W×3 BGR), one by one; `model` in eval mode, on any device."""
    spec = cast("MapSpec", model.map_spec)
    device = next(model.parameters()).device
    for frame in frames_bgr_u8:
        image = torch.from_numpy(preprocess.resize(frame)).unsqueeze(0).to(device)
        maps = anomaly_map(model(normalise(image, preprocess)), spec, preprocess.size_hw)
        yield Prediction(maps[0].cpu().numpy(), float(anomaly_score(maps, spec)[0]))
