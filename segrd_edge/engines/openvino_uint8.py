"""INT8 activations as uint8, for OpenVINO on x86: the same numbers, faster, and without an error of OpenVINO's.

A deploy graph has TensorRT's form: int8 with zero point 0. With q = round(x / s) clipped to −128 … 127,

    s · q = s · (u − 128)    where u = q + 128 lies in 0 … 255,

so uint8 with zero point 128 gives bit for bit the same values. VNNI multiplies uint8 by int8 natively and needs a
correction for int8 by int8: a fifth to a quarter of the time. And OpenVINO (2026.4) gives wrong results for int8 pairs
with zero point 0 behind a Concat, which DeSTSeg's head has twice: values are rounded to integers instead of to steps.
"""

from __future__ import annotations

from typing import Any

_INT8_RANGE = (-128.0, 127.0)
_OFFSET = 128.0


def use_uint8_activations(model: Any) -> int:
    """Re-encode every int8 Q/DQ pair of an `openvino.Model`, in place.

    Returns:
        How many pairs were re-encoded; 0 for a float graph.
    """
    pairs = [chain for node in model.get_ordered_ops() if (chain := _pair(node)) is not None]
    for quantise, convert, subtract in pairs:
        _reencode(quantise, convert, subtract)
    if pairs:
        model.validate_nodes_and_infer_types()
    return len(pairs)


def _pair(node: Any) -> tuple[Any, Any, Any] | None:
    """FakeQuantize → Convert(int8) → Convert(float) → Subtract(0), as OpenVINO reads a QuantizeLinear and its
    DequantizeLinear; None where `node` does not begin one."""
    if node.get_type_name() != "FakeQuantize" or _limits(node) != _INT8_RANGE:
        return None
    convert = _only_reader(node, "Convert")
    back = convert and _only_reader(convert, "Convert")
    subtract = back and _only_reader(back, "Subtract")
    return (node, convert, subtract) if subtract and _zero_point(subtract) == 0 else None


def _reencode(quantise: Any, convert: Any, subtract: Any) -> None:
    import numpy as np
    from openvino import opset13 as ops

    for index, limit in ((3, _INT8_RANGE[0]), (4, _INT8_RANGE[1])):
        quantise.input(index).replace_source_output(ops.constant(np.float32(limit + _OFFSET)).output(0))
    levels = ops.convert(quantise, "u8")
    for reader in convert.output(0).get_target_inputs():
        reader.replace_source_output(levels.output(0))
    subtract.input(1).replace_source_output(ops.constant(np.float32(_OFFSET)).output(0))


def _limits(quantise: Any) -> tuple[float, ...] | None:
    """Lowest and highest output of a FakeQuantize, where they are scalar constants."""
    sources = [quantise.input(index).get_source_output().get_node() for index in (3, 4)]
    if any(source.get_type_name() != "Constant" or source.get_data().size != 1 for source in sources):
        return None
    return tuple(float(source.get_data().reshape(-1)[0]) for source in sources)


def _zero_point(subtract: Any) -> float | None:
    """What a Subtract takes away, where it is a scalar constant, as it is or behind a Convert."""
    source = subtract.input(1).get_source_output().get_node()
    if source.get_type_name() == "Convert":
        source = source.input(0).get_source_output().get_node()
    if source.get_type_name() != "Constant" or source.get_data().size != 1:
        return None
    return float(source.get_data().reshape(-1)[0])


def _only_reader(node: Any, kind: str) -> Any:
    readers = [port.get_node() for port in node.output(0).get_target_inputs()]
    return readers[0] if len(readers) == 1 and readers[0].get_type_name() == kind else None
