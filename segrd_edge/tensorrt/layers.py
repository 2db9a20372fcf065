"""What the compiler made of each ONNX node: the proof that a convolution is INT8 in the engine, not only in the graph.

TensorRT-RTX 1.7 writes its compiled layers into the verbose log of a build with detailed profiling verbosity. It does
so without a GPU, where the engine inspector is out of reach, because an inspector needs a deserialised engine. A
builder that writes no such line gives no layers here; then the inspector (`plan.layer_information`) is the way, on the
machine with the GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# A convolution in the names of TensorRT's compiler.
CONVOLUTION = "correlation"
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: (?P<rest>.*)$",
    re.MULTILINE,
)
_OUTPUTS = re.compile(r"Outputs: \[(.*?)\], TacticName: ")
_DTYPE = re.compile(r"Datatype: (\w+)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine. Element types are TensorRT's names: "Int8", "Half", "Float", "UInt8", …"""

    name: str
    kind: str
    input_dtypes: tuple[str, ...]
    output_dtypes: tuple[str, ...]
    onnx_nodes: tuple[str, ...]  # names of the nodes that it computes, wholly or in part


def parse_layers(text: str) -> tuple[Layer, ...]:
    """Layers of the log line that begins with "Layers:"; none in any other text."""
    return tuple(_layer(match) for match in _LAYER.finditer(text))


def convolution_dtypes(layers: Iterable[Layer]) -> dict[str, str]:
    """ONNX node → element type of the activation that its convolution reads.

    The names of nodes fused into a convolution (its Q/DQ pairs, say) are in it as well: look up the convolutions.
    """
    found = {}
    for layer in layers:
        if layer.kind == CONVOLUTION and layer.input_dtypes:
            found.update(dict.fromkeys(layer.onnx_nodes, layer.input_dtypes[0]))
    return found


def _layer(match: re.Match[str]) -> Layer:
    outputs = _OUTPUTS.search(match["rest"])
    return Layer(
        name=match["name"],
        kind=match["kind"],
        input_dtypes=tuple(_DTYPE.findall(match["inputs"])),
        output_dtypes=tuple(_DTYPE.findall(outputs[1])) if outputs else (),
        onnx_nodes=tuple(_ONNX_NODE.findall(match["rest"])),
    )
