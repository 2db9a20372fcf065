"""What every graph pass does around its own work: open a model for surgery, close it again, look inside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

OPSET = 19  # fp16 scales are legal from here on, and TensorRT 10.3 reads up to 20
IR_VERSION = 9  # the one that belongs to opset 19; ONNX Runtime 1.17 refuses newer ones


def read_graph(model: onnx.ModelProto) -> gs.Graph:
    """A model opened for surgery. The model itself is not changed."""
    return gs.import_onnx(model)


def write_graph(graph: gs.Graph) -> onnx.ModelProto:
    """The model after surgery: unused nodes removed, sorted, every shape stored, checked by ONNX."""
    model = gs.export_onnx(graph.cleanup().toposort())
    model.ir_version = IR_VERSION
    del model.graph.value_info[:]  # shapes from before the surgery
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def expose(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy of `model` with intermediate tensors as further outputs, in the order given, after its own.

    A tensor that is an output already is not added again. KeyError where the model has no such tensor.
    """
    known = {info.name: info for info in model.graph.value_info}
    present = {output.name for output in model.graph.output}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.extend(known[name] for name in tensors if name not in present)
    return exposed


def multiply_accumulates(model: onnx.ModelProto) -> dict[str, int]:
    """Node name → multiply-accumulate operations of every convolution, of all items that the graph takes at once."""
    found: Counter[str] = Counter()  # a convolution that two nodes share counts twice
    for node in read_graph(model).nodes:
        if node.op == "Conv":
            items, _, *size_hw = node.outputs[0].shape
            found[node.name] += items * math.prod(size_hw) * math.prod(node.inputs[1].shape)
    return dict(found)
