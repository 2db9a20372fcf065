"""Grouped convolutions stay float.

TensorRT has INT8 kernels for few of them (modelopt: only with output channels in multiples of 8 and kernels of 3 and
more), and a depthwise convolution is bound by memory: the Q/DQ pair costs more than INT8 saves.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs


def check(conv: gs.Node) -> str | None:
    """Reason to leave `conv` in float, or None."""
    groups = conv.attrs.get("group", 1)
    return None if groups == 1 else f"grouped convolution ({groups} groups)"
