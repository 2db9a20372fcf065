"""The blocks of a network: what one decides about when it is neither everything nor a single convolution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from .graph import multiply_accumulates
from .plan import Plan


@dataclass(frozen=True)
class Block:
    """Convolutions that run in INT8 or in float together."""

    name: str
    nodes: tuple[str, ...]
    macs: int  # multiply-accumulates per image, of `nodes`


def block_of(node: str) -> str:
    """The block that a convolution's name belongs to, from how modules are nested.

    A number with a name behind it is a block of a stage, teacher.layer1.0.conv1 → teacher.layer1.0; numbers at the end
    are places in a Sequential or in a list of branches, head.aspp.dilated.2.0 → head.aspp.dilated.
    """
    parts = node.split(".")
    for i, part in enumerate(parts[:-1]):
        if part.isdigit() and not parts[i + 1].isdigit():
            return ".".join(parts[: i + 1])
    while len(parts) > 1 and parts[-1].isdigit():
        parts.pop()
    return ".".join(parts)


def blocks_of(model: onnx.ModelProto, plan: Plan) -> list[Block]:
    """The blocks of what `plan` quantises, in the graph's order."""
    macs = multiply_accumulates(model)
    nodes: dict[str, list[str]] = {}
    for name in plan.quantised:
        nodes.setdefault(block_of(name), []).append(name)
    return [Block(name, tuple(members), sum(macs[m] for m in members)) for name, members in nodes.items()]


def int8_share(model: onnx.ModelProto, plan: Plan) -> float:
    """Which part of the multiply-accumulates of all convolutions runs in INT8, in one term or two."""
    return _share(model, plan.quantised)


def two_term_share(model: onnx.ModelProto, plan: Plan) -> float:
    """Which part of them runs in two terms."""
    return _share(model, plan.two_term)


def _share(model: onnx.ModelProto, names: Iterable[str]) -> float:
    macs = multiply_accumulates(model)
    return sum(macs[name] for name in names) / sum(macs.values())
