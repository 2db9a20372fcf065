"""Sinkhorn divergence between two point clouds, for RD++'s transport term.

Short enough to keep here; the library that RD++ uses (geomloss) compiles kernels for clouds of a million points, and
these have as many points as a batch has images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SETTLING = 10  # iterations at the final regularisation


def sinkhorn_divergence(x: Tensor, y: Tensor, blur: float = 0.05, scaling: float = 0.95) -> Tensor:
    """S(x, y) = OT(x, y) − OT(x, x)/2 − OT(y, y)/2 ≥ 0 of uniform clouds N×D and M×D, cost |x − y|²/2.

    OT is regularised by the entropy with ε = blur² (Feydy et al., AISTATS 2019) and solved in the log domain, ε falling
    from the squared diameter by `scaling`² per iteration.
    """
    return _transport(x, y, blur, scaling) - (_transport(x, x, blur, scaling) + _transport(y, y, blur, scaling)) / 2


def _transport(x: Tensor, y: Tensor, blur: float, scaling: float) -> Tensor:
    """Regularised transport cost from the dual potentials f of x and g of y.

    The iterations need no gradient: at their fixed point only the cost in the last half step depends on the points.
    """
    with torch.no_grad():
        cost = _cost(x, y)
        f, g = cost.new_zeros(len(x)), cost.new_zeros(len(y))
        for epsilon in _regularisations(float((2 * cost.max()).sqrt()), blur, scaling):
            f, g = (f + _soft_minimum(cost - g, epsilon, 1)) / 2, (g + _soft_minimum(cost - f[:, None], epsilon, 0)) / 2
    last_f = _soft_minimum(_cost(x, y.detach()) - g, blur**2, 1)
    last_g = _soft_minimum(_cost(x.detach(), y) - f[:, None], blur**2, 0)
    return last_f.mean() + last_g.mean()


def _cost(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(dim=2) / 2


def _soft_minimum(values: Tensor, epsilon: float, dim: int) -> Tensor:
    """−ε log mean exp(−values / ε)."""
    return -epsilon * (torch.logsumexp(-values / epsilon, dim) - math.log(values.shape[dim]))


def _regularisations(diameter: float, blur: float, scaling: float) -> list[float]:
    steps = []
    while diameter > blur:
        steps.append(diameter**2)
        diameter *= scaling
    return [*steps, *[blur**2] * _SETTLING]
