"""Weights become an INT8 initialiser and a DequantizeLinear, one scale per output channel; biases stay float.

For channel c of w (outputs×inputs×kh×kw):

    scale[c] = max|w[c]| / 127        w₈[c] = round(w[c] / scale[c])        w[c] ≈ scale[c] · w₈[c]

The alternative, float weights with a QuantizeLinear, is four times the file and leaves the rounding to each engine.
−128 is not used, so that the grid is symmetric like the activations'. An INT32 bias behind a DequantizeLinear, ONNX
Runtime's default, is refused by TensorRT's parser.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

AXIS = 0  # output channels of a Conv's weight
TRANSPOSED_AXIS = 1  # of a ConvTranspose's
INT8_MAX = 127
INT8_MIN = -128
NEGLIGIBLE = 1e-12  # a channel below this is zero, and its scale must still be positive


def rewrite(conv: gs.Node, rounded: npt.NDArray[np.int8] | None = None) -> gs.Node:
    """Let `conv` read its weight, a float constant, in INT8 form. The initialiser keeps its name.

    Args:
        rounded: the INT8 values, in steps of the same scale, if not the nearest.

    Returns:
        The new DequantizeLinear, which is not in the graph yet.
    """
    weight = conv.inputs[1]
    nearest, scale = quantise_weight(weight.values)
    values = nearest if rounded is None else rounded
    dequantised = gs.Variable(f"{weight.name}.dequantised", np.float32, values.shape)
    conv.inputs[1] = dequantised
    inputs = [
        gs.Constant(weight.name, values),
        gs.Constant(f"{weight.name}.scale", scale),
        gs.Constant(f"{weight.name}.zero_point", np.zeros(scale.shape, np.int8)),
    ]
    return gs.Node("DequantizeLinear", f"{weight.name}.dequantise", {"axis": AXIS}, inputs, [dequantised])


def check(dequantise: gs.Node) -> str | None:
    """What is wrong with the INT8 form of a weight, given its DequantizeLinear; or None."""
    values, scale = dequantise.inputs[:2]
    transposed = any(reader.op == "ConvTranspose" for reader in dequantise.outputs[0].outputs)
    axis = TRANSPOSED_AXIS if transposed else AXIS
    channels = tuple(values.shape[axis : axis + 1])  # none of a quantised bias, which has but one axis
    if dequantise.attrs.get("axis", 1) != axis or np.shape(getattr(scale, "values", 0)) != channels:
        return f"weights need one scale per output channel, on axis {axis}"
    if (values.values == INT8_MIN).any():
        return f"{values.name} has a value of {INT8_MIN}, beyond the symmetric grid's {-INT8_MAX}"
    return None


def quantise_weight(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Weight (outputs×…) → INT8 values of the same shape and one float32 scale per output channel."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = np.where(largest > NEGLIGIBLE, largest / INT8_MAX, 1.0).astype(np.float32)
    per_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / per_channel), -INT8_MAX, INT8_MAX).astype(np.int8), scale
