"""Convolutions with fewer than 16 input or output channels stay float, except the one that reads the image.

INT8 kernels work on packs of 16 or 32 channels; with fewer, most of a pack is padding and the conversion costs more
than it saves. This also keeps the two ends float whose precision matters most: the normalisation (3 → 3) and the last
layer, whose one channel would put the anomaly score on a grid of 127 steps. The exception is the stem (3 → 64):
TensorRT has kernels of its own for an image's 4 packed channels, if the outputs come in multiples of 8 (tensorrt.md
4.11).
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

MINIMUM = 16
IMAGE_CHANNELS = 4
STEM_MULTIPLE = 8


def check(conv: gs.Node) -> str | None:
    """Reason to leave `conv` (ungrouped; weight outputs×inputs×kh×kw) in float, or None."""
    outputs, inputs = conv.inputs[1].shape[:2]
    if inputs <= IMAGE_CHANNELS and outputs >= MINIMUM and outputs % STEM_MULTIPLE == 0:
        return None
    if inputs < MINIMUM:
        return f"{inputs} input channels, fewer than {MINIMUM}"
    if outputs < MINIMUM:
        return f"{outputs} output channels, fewer than {MINIMUM}"
    return None
