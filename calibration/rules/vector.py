"""A convolution over a 1×1 map is a matrix-vector product and stays float.

It reads each weight once, so memory bounds it, not arithmetic; and its input, a global mean, has no spatial neighbours
that would average the rounding out. ASPP's pooled branch is the case at hand; modelopt leaves such products out as
well.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs


def check(conv: gs.Node) -> str | None:
    """Reason to leave `conv` in float, or None. Needs the shape of its output."""
    return "matrix-vector product: its map is 1×1" if tuple(conv.outputs[0].shape[2:]) == (1, 1) else None
