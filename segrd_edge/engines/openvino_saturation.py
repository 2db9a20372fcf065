"""INT8 on x86 processors without VNNI: what could saturate is computed in float, so that results stay exact.

VNNI adds four products of uint8 by int8 in INT32. Older processors have VPMADDUBSW, which adds two of them in INT16 and
cuts the sum off at 32767, without a word (OpenVINO calls it the saturation issue). With weights of −127 … 127, a sum
reaches

    activations of 0 … 255, counted from 128    2 · 255 · 127 = 64770    cut off
    activations of 0 … 127, counted from zero   2 · 127 · 127 = 32258    exact

so what `openvino_uint8` counts from zero, as behind a ReLU, needs nothing. A convolution that reads anything else gets
its weights as float, w = scale · w₈, and so runs in float on the same rounded activations: the function of the file,
which is what was measured at the export, to float32's rounding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import machine

_CHANNELS, _MOST_ACTIVATION, _MOST_WEIGHT = 64, 255, 127
_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}  # Linux's names
_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_MOVING = ("MaxPool", "DepthToSpace")  # `openvino_uint8` puts pairs in front of them
_FROM_ZERO = ("Multiply", "Convert", "Convert", "FakeQuantize", "Clamp")  # a pair of `openvino_uint8`, from its end


@lru_cache(maxsize=1)
def int8_is_exact() -> bool:
    """Whether OpenVINO's INT8 convolutions give exact sums on this processor.

    Known where the processor says that it has VNNI; else one with the largest sums is tried, once per process.
    """
    if _VNNI & set(machine.cpu()["flags"] or ()):
        return True
    import openvino

    largest = np.full((1, _CHANNELS, 8, 8), _MOST_ACTIVATION, np.float32)
    model = convolution(_CHANNELS, 8, int8=True)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(largest)[0][0, 0, 4, 4]
    return bool(found == 9 * _CHANNELS * _MOST_ACTIVATION * _MOST_WEIGHT)  # below 2²⁴, so float32 has it exactly


def use_float_where_sums_saturate(model: Any) -> int:
    """Where INT8 is not exact here, give the convolutions of an `openvino.Model` whose sums could saturate float
    weights, in place.

    Args:
        model: as `openvino_uint8.use_uint8_activations` leaves it.

    Returns:
        How many convolutions run in float now; 0 for a float graph.
    """
    from openvino import opset13 as ops

    found = [node for node in model.get_ordered_ops() if node.get_type_name() in _CONVOLUTIONS and _may_saturate(node)]
    if not found or int8_is_exact():
        return 0
    for conv in found:
        conv.input(1).replace_source_output(ops.constant(_value(conv.input_value(1))).output(0))
    model.validate_nodes_and_infer_types()
    return len(found)


def convolution(channels: int, side: int, *, int8: bool) -> Any:
    """An `openvino.Model` of one convolution, 3×3 with the largest weights of INT8, of float32 1×channels×side×side: in
    INT8 of that rounded to uint8, or in float."""
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter([1, channels, side, side], np.float32)
    weights = np.full((channels, channels, 3, 3), _MOST_WEIGHT, np.int8)
    if int8:
        levels = ops.fake_quantize(x, *(np.float32(limit) for limit in (0, _MOST_ACTIVATION, 0, _MOST_ACTIVATION)), 256)
        activations = ops.multiply(ops.convert(ops.convert(levels, "u8"), "f32"), np.float32(1))
        kernel = ops.multiply(ops.convert(weights, "f32"), np.ones((channels, 1, 1, 1), np.float32))
    else:
        activations, kernel = x, ops.constant(weights.astype(np.float32))
    return openvino.Model([ops.convolution(activations, kernel, [1, 1], [1, 1], [1, 1], [1, 1])], [x])


def _may_saturate(conv: Any) -> bool:
    return _is_int8(conv.input_value(1)) and not _counts_from_zero(conv.input_value(0))


def _is_int8(weights: Any) -> bool:
    """Whether weights come from INT8 constants, as in Constant → Convert → Subtract → Multiply."""
    node = weights.get_node()
    while node.get_type_name() in ("Reshape", "Multiply", "Subtract", "Convert"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "i8"


def _counts_from_zero(activations: Any) -> bool:
    """Whether a convolution reads uint8 that stay below 128, as `openvino_uint8` makes them."""
    node = activations.get_node()
    while node.get_type_name() in _MOVING:
        node = node.input_value(0).get_node()
    for kind in _FROM_ZERO:
        if node.get_type_name() != kind:
            return False
        node = node.input_value(0).get_node()
    return True


def _value(source: Any) -> npt.NDArray[Any]:
    """The value of an output that constants alone decide."""
    node = source.get_node()
    kind = node.get_type_name()
    if kind == "Constant":
        return np.asarray(node.get_data())
    first = _value(node.input_value(0))
    if kind == "Convert":
        return first.astype(np.float32)
    if kind == "Reshape":
        return first.reshape(tuple(source.get_shape()))
    if kind == "Subtract":
        return np.asarray(first - _value(node.input_value(1)))
    if kind == "Multiply":
        return np.asarray(first * _value(node.input_value(1)))
    raise ValueError(f"weights behind a {kind}")
