"""A bank of normal features that is read by attention: key, softmax, value, as two 1×1 convolutions.

A nearest-neighbour bank stores features and looks the nearest one up (ArgMin and Gather over 55 to 220 MB). Here a
level's normal features are K clusters. For a feature f with the unit vector f̂

    a = softmax over j of τ · ⟨f̂, kⱼ⟩        read(f) = Σ aⱼ · vⱼ

where kⱼ is the mean of the unit vectors of cluster j, so that ⟨f̂, kⱼ⟩ is the mean cosine between f and its members,
and vⱼ is the mean of their features as they are. With τ → ∞ this is the nearest cluster's feature; what it can never
give is a single stored feature. SimonThomine/RememberingNormality reads its memory in the same form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import l2_normalise
from ..phases import Batch

CANDIDATES = 4096  # of a batch's pixels, for the first prototypes


class PrototypeBank(nn.Module):
    """`forward(features N×C×h×w)` → what the bank has for each pixel, N×C×h×w.

    Args:
        channels: C.
        count: K, the number of prototypes.
        temperature: τ.
    """

    filled: Tensor

    def __init__(self, channels: int, count: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.keys = nn.Conv2d(channels, count, 1, bias=False)
        self.values = nn.Conv2d(count, channels, 1, bias=False)
        self.register_buffer("filled", torch.tensor(False))

    def forward(self, features: Tensor) -> Tensor:
        return self.values(torch.softmax(self.temperature * self.keys(l2_normalise(features)), dim=1))

    def clustering_loss(self, features: Tensor) -> Tensor:
        """½ Σⱼ mean over the members of j of (|f̂ − kⱼ|² + |f − vⱼ|²), for features N×C×h×w of good images.

        The gradient at kⱼ is kⱼ minus the mean of its members in the batch. A step of gradient descent with rate η
        therefore moves every prototype by η of the way to that mean, which is k-means by batches, and leaves those
        without members alone. The first call takes its prototypes from the batch, by `spread_out`.
        """
        pixels = features.detach().float().movedim(1, -1).flatten(0, 2)
        unit = pixels / pixels.norm(dim=1, keepdim=True).clamp_min(1e-6)
        if not self.filled:
            self._fill(pixels, unit)
        keys, values = self.keys.weight[:, :, 0, 0], self.values.weight[:, :, 0, 0].t()
        with torch.no_grad():
            nearest = (unit @ keys.t() - keys.square().sum(dim=1) / 2).argmax(dim=1)
            share = 1 / torch.bincount(nearest, minlength=len(keys)).clamp_min(1)
        # embedding, because the gradient of an index is added up in whatever order the threads come
        key, value = F.embedding(nearest, keys), F.embedding(nearest, values)
        errors = (unit - key).square().sum(dim=1) + (pixels - value).square().sum(dim=1)
        return (errors * share[nearest]).sum() / 2

    @torch.no_grad()
    def _fill(self, pixels: Tensor, unit: Tensor) -> None:
        chosen = spread_out(unit, self.keys.out_channels)
        self.keys.weight.copy_(unit[chosen][:, :, None, None])
        self.values.weight.copy_(pixels[chosen].t()[:, :, None, None])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for weight in (self.keys.weight, self.values.weight):  # every process has seen another batch
                torch.distributed.broadcast(weight.data, 0)
        self.filled.fill_(True)


def spread_out(vectors: Tensor, count: int) -> Tensor:
    """Indices of `count` of the vectors P×C to begin k-means with (k-means++; Arthur & Vassilvitskii, SODA 2007).

    Each is drawn with a probability proportional to the squared distance from those drawn before, among at most
    CANDIDATES evenly spaced vectors. The draws are the same every time.
    """
    candidates = torch.linspace(0, len(vectors) - 1, min(len(vectors), CANDIDATES)).long()
    points, generator = vectors[candidates.to(vectors.device)].cpu(), torch.Generator().manual_seed(0)
    chosen = [0]
    distance = torch.full((len(points),), torch.inf)
    while len(chosen) < count:
        distance = distance.minimum((points - points[chosen[-1]]).square().sum(dim=1))
        weight = distance if bool(distance.any()) else torch.ones_like(distance)  # fewer kinds than prototypes
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
    return candidates[chosen].to(vectors.device)


class ClusteringObjective(nn.Module):
    """Fills one bank per level with the teacher's features of good images."""

    def __init__(self, teacher: nn.Module, banks: Sequence[PrototypeBank]) -> None:
        super().__init__()
        self.teacher, self.banks = teacher, nn.ModuleList(banks)

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            levels = self.teacher(batch["clean"])
        losses = [bank.clustering_loss(level) for bank, level in zip(self.banks, levels, strict=True)]  # type: ignore[operator]
        return torch.stack(losses).sum()
