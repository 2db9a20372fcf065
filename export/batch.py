"""A graph for one item → the same graph for n at once, as for several cameras in one enqueue.

The batch is fixed, never dynamic: with a dynamic profile TensorRT 11.1 has given different results for equal images of
one batch (TensorRT issue 4813), and fixed shapes are what a CUDA graph needs.

A finished graph knows its batch in three places: the shapes of its inputs and outputs, and the first number in the
shape constants of Reshape, Expand and Resize. These are rewritten and all shapes inferred again. Weights, scales, names
and the order of the nodes stay, and so do the plans of calibration and float16. Exporting the core anew for n images
gives the same 193 nodes (DeSTSeg) and needs all that twice.

A Reshape may fold other axes into the first one, as for a network that works on the patches of an image: k² patches of
one item are n·k² of n items, item by item. Whether a graph can be batched this way shows in its shapes: every tensor
that was m×… must have become n·m×…, or the graph is refused, and so is one that concatenates along the first axis, as
that would shuffle the items. That they do not mix, as in a Softmax across them, `export.golden` shows on images.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.calibration.graph import read_graph, write_graph
from segrd_edge.errors import ExportError, OptionError

_SHAPE_INPUTS = {"Reshape": 1, "Expand": 1, "Resize": 3}


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy of a graph for one item (inputs and outputs 1×…), of any precision, that takes and gives `batch` items.

    A frame graph cannot be rewritten, as its resize folds the items into other axes: batch first, then
    `build_frame_graph`.

    Raises:
        OptionError: `batch` below 1.
        ExportError: the graph is not for one item, or something in it does not follow the batch.
    """
    if batch < 1:
        raise OptionError(f"a batch of {batch}", expected="at least 1")
    graph = read_graph(model)
    shapes = _item_shapes(graph)
    for tensor in (*graph.inputs, *graph.outputs):
        tensor.shape = [batch, *tensor.shape[1:]]
    for node in graph.nodes:
        index = _SHAPE_INPUTS.get(node.op, len(node.inputs))
        if index < len(node.inputs) and any(tensor.name in shapes for tensor in node.inputs):
            node.inputs[index] = _for_batch(node, node.inputs[index], batch)
    try:
        batched = write_graph(graph)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise _error(str(error).strip().splitlines()[-1], batch) from error
    _check(batched, shapes, batch)
    return batched


def _item_shapes(graph: gs.Graph) -> dict[str, list[int]]:
    """Name → shape of every tensor that is computed from an input, the inputs included."""
    ends = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    shapes: dict[str, list[int]] = {}
    waiting = list(graph.inputs)
    while waiting:
        tensor = waiting.pop()
        if tensor.name in shapes:
            continue
        shapes[tensor.name] = shape = list(tensor.shape or [])
        if not shape or not all(isinstance(size, int) for size in shape) or (tensor.name in ends and shape[0] != 1):
            raise ExportError(
                f"{tensor.name} has the shape {shape}, so the graph cannot be given a batch",
                expected="fixed sizes in every tensor, and 1×… in what goes in and comes out",
                fix="write that part of the model with an axis for the items in front, or export with --batch 1",
            )
        if any(_joins_items(reader) for reader in tensor.outputs):
            raise ExportError(
                f"{tensor.name} is concatenated along its first axis, so the graph cannot be given a batch",
                expected="the items of a batch side by side in the first axis, each in one piece",
                fix="concatenate along another axis, or export with --batch 1",
            )
        waiting += [output for reader in tensor.outputs for output in reader.outputs]
    return shapes


def _joins_items(node: gs.Node) -> bool:
    return node.op == "Concat" and node.attrs["axis"] % len(node.outputs[0].shape) == 0


def _for_batch(node: gs.Node, shape: gs.Tensor, batch: int) -> gs.Tensor:
    """A shape constant of `node` with its first number, where that is a size, times `batch`."""
    if not isinstance(shape, gs.Constant) or shape.values.size == 0 or shape.values[0] < 1:
        return shape
    first, *others = shape.values
    return gs.Constant(f"{node.name}.shape", np.array([batch * first, *others], shape.values.dtype))


def _check(batched: onnx.ModelProto, shapes: dict[str, list[int]], batch: int) -> None:
    tensors = read_graph(batched).tensors()
    for name, shape in shapes.items():
        wanted = [batch * shape[0], *shape[1:]]
        if (became := list(tensors[name].shape or [])) != wanted:
            raise _error(f"{name} became {became}, not {wanted}", batch)


def _error(what: str, batch: int) -> ExportError:
    return ExportError(
        f"the graph cannot take {batch} items at once: {what}",
        fix="write that part of the model so that it follows the batch, or export with --batch 1",
    )
