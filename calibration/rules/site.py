"""A place for a Q/DQ pair."""

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
