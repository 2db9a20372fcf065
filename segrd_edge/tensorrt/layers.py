"""What the compiler made of each ONNX node: the proof that a convolution is INT8 in the engine, not only in the graph.

TensorRT-RTX 1.7 writes its compiled layers into the verbose log of a build with detailed profiling verbosity. It does
so without a GPU, where the engine inspector is out of reach, because an inspector needs a deserialised engine
(`parse_layers`). Other builders write no such line; then the inspector tells, on the machine with the GPU
(`parse_information`). Its JSON is not documented as a whole: what is not understood gives no layers, never wrong ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# A convolution in the names of TensorRT's compiler.
CONVOLUTION = "correlation"
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: (?P<rest>.*)$",
    re.MULTILINE,
)
_OUTPUTS = re.compile(r"Outputs: \[(.*?)\], TacticName: ")
_DTYPE = re.compile(r"Datatype: (\w+)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
# Element types in the inspector's words: "Row major linear FP16 format" in TensorRT 10, "Half" in 11.
_INSPECTED_DTYPE = re.compile(
    r"\b(UInt8|Int8|Half|FP16|Float|FP32|BF16|BFloat16|Int32|Int64|Bool|FP8)\b", re.IGNORECASE
)
_SAME_DTYPE = {"fp16": "Half", "half": "Half", "fp32": "Float", "float": "Float", "int8": "Int8", "uint8": "UInt8"}


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


def parse_information(text: str) -> tuple[Layer, ...]:
    """Layers of the engine inspector's JSON, of TensorRT 10 or 11; none in other text, and none of which only the name
    is told."""
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, TypeError, KeyError):
        return ()
    return tuple(_inspected(layer) for layer in layers if isinstance(layer, dict)) if isinstance(layers, list) else ()


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


def _inspected(layer: Mapping[str, Any]) -> Layer:
    kinds = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"
    is_convolution = re.search(r"convolution|correlation|conv\b", kinds, re.IGNORECASE) is not None
    return Layer(
        name=str(layer.get("Name", "")),
        kind=CONVOLUTION if is_convolution else str(layer.get("LayerType", "")),
        input_dtypes=_inspected_dtypes(layer.get("Inputs")),
        output_dtypes=_inspected_dtypes(layer.get("Outputs")),
        onnx_nodes=tuple(_ONNX_NODE.findall(str(layer.get("Metadata", "")))),
    )


def _inspected_dtypes(tensors: Any) -> tuple[str, ...]:
    found = []
    for tensor in tensors if isinstance(tensors, list) else []:
        words = " ".join(str(tensor.get(key, "")) for key in ("Datatype", "DataType", "Format/Datatype"))
        match = _INSPECTED_DTYPE.search(words)
        found.append("" if match is None else _SAME_DTYPE.get(match[1].lower(), match[1]))
    return tuple(found)
