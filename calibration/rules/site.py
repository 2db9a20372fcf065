"""A place for a Q/DQ pair."""

from __future__ import annotations

from typing import NamedTuple

import onnx_graphsurgeon as gs


class Site(NamedTuple):
    """One input of one node that must read `tensor` through a Q/DQ pair."""

    node: gs.Node
    index: int  # of the input

    @property
    def tensor(self) -> gs.Variable:
        return self.node.inputs[self.index]
