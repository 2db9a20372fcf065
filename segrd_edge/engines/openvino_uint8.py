"""INT8 activations as uint8, for OpenVINO on x86: the same numbers, faster, and without an error of OpenVINO's.

A deploy graph has TensorRT's form: int8 with zero point 0. With q = round(x / s) clipped to −128 … 127,

    s · q = s · (u − 128)    where u = q + 128 lies in 0 … 255,

so uint8 with zero point 128 gives the same values. VNNI multiplies uint8 by int8 natively and needs a correction for
int8 by int8: a fifth to a quarter of the time. And OpenVINO (2026.4) gives wrong results for int8 pairs with zero point
0 behind a Concat, which DeSTSeg's head has twice: values are rounded to integers instead of to steps.

Where x is never negative, as behind a ReLU, q itself is a uint8 of 0 … 127, and the zero point stays 0: nothing has to
be corrected for at all, least of all at the borders, which are half of an 8×8 map. x is then clipped to 127 · s before
it is rounded, because uint8 would go on to 255, and an INT8 activation that is not clipped is another function than the
one that was measured at the export, and than the one that TensorRT computes.

A pair behind a MaxPool or a DepthToSpace is put in front of it: neither changes values, and max(round(x)) is
round(max(x)), so that the results are the same to the bit; but the convolution before then writes uint8, a quarter of
the bytes, and the pooling reads it. TensorRT does that by itself.

What the tests hold: counted from 128, the levels are those that OpenVINO gives for the signed pair, to the bit, on
rounding ties as well. Counted from 0, a level may be the next one where x / s is as near as 3·10⁻⁵ to the tie between
the two: for the signed pair OpenVINO adds 128 before it rounds, which leaves float32 fewer places for the fraction.
With 2349 of 1,048,576 values on ties or beside them, 0 to 435 levels differed (eight scales, alone and behind a
convolution; a script around the tests' graphs; AMD EPYC with AVX2, OpenVINO 2026.4.1, 2026-11-29), and the signed pair
was off from round(x / s) at least as often. Where s is a power of two, counting from 0 gives just that.

What they bring together is in docs/int8.md.
"""

from __future__ import annotations

from typing import Any

_INT8_RANGE = (-128.0, 127.0)
_OFFSET = 128.0
_LEVELS = 255.0  # steps between the lowest and the highest of 256 levels
_MOVING = ("MaxPool", "DepthToSpace")  # give values of their input, each by itself, and so commute with rounding
_OF_ALL_INPUTS = ("Concat", "Add")  # not negative where none of its inputs is
_OF_ONE_INPUT = (*_MOVING, "Broadcast", "Reshape", "Transpose")


def use_uint8_activations(model: Any) -> int:
    """Re-encode every int8 Q/DQ pair of an `openvino.Model`, in place.

    Returns:
        How many pairs were re-encoded; 0 for a float graph.
    """
    pairs = [pair for node in model.get_ordered_ops() if (pair := _pair(node)) is not None]
    for pair in pairs:
        _lift(pair)
    unsigned = [_never_negative(pair[0].input_value(0)) for pair in pairs]
    for pair, is_unsigned in zip(pairs, unsigned, strict=True):
        if is_unsigned and (scale := _scalar(pair[-1].input_value(1))) is not None:
            _count_from_zero(pair, scale)
        else:
            _count_from_128(pair)
    if pairs:
        model.validate_nodes_and_infer_types()
    return len(pairs)


def _pair(node: Any) -> tuple[Any, ...] | None:
    """FakeQuantize → Convert(int8) → Convert(float) → Subtract(0) → Multiply, as OpenVINO reads a QuantizeLinear and
    its DequantizeLinear; None where `node` does not begin one."""
    if node.get_type_name() != "FakeQuantize":
        return None
    if (_scalar(node.input_value(3)), _scalar(node.input_value(4))) != _INT8_RANGE:  # lowest and highest output
        return None
    chain = [node]
    for kind in ("Convert", "Convert", "Subtract", "Multiply"):
        reader = _only_reader(chain[-1], kind)
        if reader is None:
            return None
        chain.append(reader)
    return tuple(chain) if _scalar(chain[3].input_value(1)) == 0 else None


def _lift(pair: tuple[Any, ...]) -> None:
    """x → MaxPool → pair → readers becomes x → pair → MaxPool → readers; as often as there is such a node."""
    quantise, multiply = pair[0], pair[-1]
    while (moving := quantise.input_value(0).get_node()).get_type_name() in _MOVING:
        if len(moving.output(0).get_target_inputs()) > 1:
            return  # something else reads its floats
        readers = multiply.output(0).get_target_inputs()
        quantise.input(0).replace_source_output(moving.input_value(0))
        moving.input(0).replace_source_output(multiply.output(0))
        for reader in readers:
            reader.replace_source_output(moving.output(0))


def _never_negative(source: Any) -> bool:
    """Whether an output of a node is known to be at least 0."""
    node = source.get_node()
    kind = node.get_type_name()
    if kind == "Relu":
        return True
    if kind in _OF_ALL_INPUTS:
        return all(_never_negative(value) for value in node.input_values())
    if kind == "Interpolate":
        return node.get_attributes()["mode"] != "cubic" and _never_negative(node.input_value(0))
    if kind == "Multiply":  # by constants, such as those that level the channels of a Concat
        factors = node.input_value(1).get_node()
        is_constant = factors.get_type_name() == "Constant" and factors.get_data().min() >= 0
        return bool(is_constant) and _never_negative(node.input_value(0))
    return kind in _OF_ONE_INPUT and _never_negative(node.input_value(0))


def _count_from_zero(pair: tuple[Any, ...], scale: float) -> None:
    """u = round(x / s) of x in 0 … 127 · s."""
    import numpy as np
    from openvino import opset13 as ops

    quantise, convert, _, subtract, multiply = pair
    clipped = ops.clamp(quantise.input_value(0), 0.0, _INT8_RANGE[1] * scale)
    quantise.input(0).replace_source_output(clipped.output(0))
    for index, limit in ((1, 0.0), (2, _LEVELS * scale), (3, 0.0), (4, _LEVELS)):
        quantise.input(index).replace_source_output(ops.constant(np.float32(limit)).output(0))
    _read_as_uint8(quantise, convert)
    multiply.input(0).replace_source_output(subtract.input_value(0))


def _count_from_128(pair: tuple[Any, ...]) -> None:
    """u = round(x / s) + 128."""
    import numpy as np
    from openvino import opset13 as ops

    quantise, convert, _, subtract, _ = pair
    for index, limit in ((3, _INT8_RANGE[0]), (4, _INT8_RANGE[1])):
        quantise.input(index).replace_source_output(ops.constant(np.float32(limit + _OFFSET)).output(0))
    _read_as_uint8(quantise, convert)
    subtract.input(1).replace_source_output(ops.constant(np.float32(_OFFSET)).output(0))


def _read_as_uint8(quantise: Any, convert: Any) -> None:
    """Put a Convert to uint8 in place of `convert`, which is one to int8."""
    from openvino import opset13 as ops

    levels = ops.convert(quantise, "u8")
    for reader in convert.output(0).get_target_inputs():
        reader.replace_source_output(levels.output(0))


def _scalar(source: Any) -> float | None:
    """The value of an output of a node, where it is a scalar constant, as it is or behind a Convert."""
    node = source.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or node.get_data().size != 1:
        return None
    return float(node.get_data().reshape(-1)[0])


def _only_reader(node: Any, kind: str) -> Any:
    readers = [port.get_node() for port in node.output(0).get_target_inputs()]
    return readers[0] if len(readers) == 1 and readers[0].get_type_name() == kind else None
