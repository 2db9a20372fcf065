"""Only a convolution whose weight is a constant of its own can be quantised ahead of time.

The weight becomes an INT8 initialiser (see `conv_weight`). A computed weight has no values yet; a shared one would be
changed for its other readers too.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs


def check(conv: gs.Node) -> str | None:
    """Reason to leave `conv` in float, or None."""
    weight = conv.inputs[1]
    if not isinstance(weight, gs.Constant):
        return f"its weight {weight.name} is computed, not a constant"
    if len(weight.outputs) != 1:
        return f"its weight {weight.name} is shared by {len(weight.outputs)} nodes"
    return None
