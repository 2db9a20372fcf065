"""A place for a Q/DQ pair, and what stands there."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Site:
    """One input of one node that must read `tensor` through a Q/DQ pair."""

    node: gs.Node
    index: int  # of the input

    @property
    def tensor(self) -> gs.Variable:
        return self.node.inputs[self.index]


def is_dequantised(tensor: gs.Tensor) -> bool:
    """Whether `tensor` comes from a pair, or is a weight in INT8 form."""
    return bool(tensor.inputs) and tensor.inputs[0].op == "DequantizeLinear"


def quantiser(tensor: gs.Tensor) -> gs.Node | None:
    """The QuantizeLinear of the pair that `tensor` comes from; None where it comes from none."""
    producers = tensor.inputs[0].inputs[0].inputs if is_dequantised(tensor) else []
    return producers[0] if producers and producers[0].op == "QuantizeLinear" else None
