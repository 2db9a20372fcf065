"""The two ends of the network in torch: normalisation in, anomaly map and score out.

The deploy graph does the same with ONNX nodes (`export.deploy`); parity between the two is checked at every export.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess


def normalise(images_bgr_u8: Tensor, preprocess: Preprocess) -> Tensor:
    """Network images (uint8 N×h×w×3, BGR) → images (float32 N×3×h×w, normalised, channels-last in memory)."""
    images = images_bgr_u8.permute(0, 3, 1, 2).float()
    if preprocess.pixel_order == "rgb":
        images = images.flip(1)
    mean = torch.tensor(preprocess.mean, device=images.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(preprocess.std, device=images.device).view(1, 3, 1, 1) * 255
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def anomaly_map(raw: Tensor, spec: MapSpec, size_hw: tuple[int, int]) -> Tensor:
    """Raw output N×1×h'×w' → anomaly map N×h×w."""
    values = _activated(raw, spec)
    values = F.interpolate(values, size=size_hw, mode="bilinear", align_corners=False)
    if spec.sigma_px > 0:
        values = gaussian_blur(values, spec.sigma_px)
    return values[:, 0]


def anomaly_score(maps: Tensor, spec: MapSpec) -> Tensor:
    """Maps N×h×w → scores N: mean of the `top_pixels` largest values."""
    return maps.flatten(1).topk(spec.top_pixels, dim=1).values.mean(dim=1)


def gaussian_kernel(sigma_px: float) -> Tensor:
    """A Gaussian cut at four sigma, normalised to sum 1: 2·int(4·sigma + 0.5) + 1 values, SciPy's choice."""
    radius = int(4 * sigma_px + 0.5)
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(x**2) / (2 * sigma_px**2))
    return (kernel / kernel.sum()).float()


def gaussian_blur(values: Tensor, sigma_px: float) -> Tensor:
    """Separable blur of N×1×h×w. At the border the mean of what lies inside, so that an edge is no darker."""
    kernel = gaussian_kernel(sigma_px).to(values)
    radius = len(kernel) // 2
    height, width = values.shape[2:]
    values = F.conv2d(values, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    values = F.conv2d(values, kernel.view(1, 1, 1, -1), padding=(0, radius))
    return values / (weight_inside(sigma_px, height)[:, None] * weight_inside(sigma_px, width)).to(values)


def weight_inside(sigma_px: float, length: int) -> Tensor:
    """Sum of the Gaussian's values that fall inside, centred on each of `length` pixels."""
    kernel = gaussian_kernel(sigma_px)
    return F.conv1d(torch.ones(1, 1, length), kernel.view(1, 1, -1), padding=len(kernel) // 2)[0, 0]


def _activated(raw: Tensor, spec: MapSpec) -> Tensor:
    if spec.activation == "sigmoid":
        return torch.sigmoid(raw)
    return raw.clamp(0, 1) if spec.activation == "clip" else raw
