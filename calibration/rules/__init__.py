"""TensorRT's rules for explicit INT8, one per file: what may be quantised, and where the Q/DQ pairs stand.

Every rule has a `check`, which returns the reason to refuse what it is given, or None. Those of ELIGIBILITY leave a
convolution in float. All but `constant_weight`'s, which is what `conv_weight` needs beforehand, are also asked of
finished graphs, by `calibration.check`.
A placement rule, `conv_input` or `residual_skip`, has `sites(graph, quantised) -> where a Q/DQ pair must stand`; which
of them a plan asks for says `calibration.quantise`. `conv_weight` and `two_terms` rewrite a convolution.

What no rule asks for stays float: there is no pair in front of Resize, Concat, products, norms, Sigmoid or TopK, and
none behind the network's outputs. Sources: tensorrt.md, section 4, with NVIDIA's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import channels, constant_weight, conv_input, grouped, vector
from .site import Site

WEIGHTED_OPS = ("Conv",)

_Checks = tuple[Callable[[Any], str | None], ...]
FORM: _Checks = (grouped.check, channels.check, vector.check)  # can be asked of a convolution in INT8 as well
ELIGIBILITY: _Checks = (constant_weight.check, conv_input.check, *FORM)  # in the order in which they are asked

__all__ = ["ELIGIBILITY", "FORM", "WEIGHTED_OPS", "Site"]
