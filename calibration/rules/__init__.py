"""TensorRT's rules for explicit INT8, one per file: what may be quantised, and where the Q/DQ pairs stand.

An eligibility rule has `check(node) -> reason to leave the node in float, or None`.
A placement rule, `conv_input` or `residual_skip`, has `sites(graph, quantised) -> where a Q/DQ pair must stand`; which
of them a plan asks for says `calibration.quantise`. `conv_weight` and `two_terms` rewrite a convolution.

What no rule asks for stays float: there is no pair in front of Resize, Concat, products, norms, Sigmoid or TopK, and
none behind the network's outputs. Sources: tensorrt.md, section 4, with NVIDIA's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import channels, constant_weight, grouped, vector
from .site import Site

WEIGHTED_OPS = ("Conv",)

ELIGIBILITY: tuple[Callable[[Any], str | None], ...] = (
    constant_weight.check,
    grouped.check,
    channels.check,
    vector.check,
)

__all__ = ["ELIGIBILITY", "WEIGHTED_OPS", "Site"]
