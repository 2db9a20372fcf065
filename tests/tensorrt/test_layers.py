"""The engine inspector's JSON, in the words of TensorRT 10 and 11 as NVIDIA's documentation shows them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from segrd_edge.tensorrt.layers import convolution_dtypes, parse_information

VECTORS = "Thirty-two wide channel vectorized row major Int8 format"


def convolution(**changes: Any) -> dict[str, Any]:
    return {
        "Name": "stem + relu",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Dimensions": [1, 3, 8, 8], "Format/Datatype": VECTORS}],
        "Outputs": [{"Name": "y", "Dimensions": [1, 8, 8, 8], "Format/Datatype": "Row major linear FP16 format"}],
        "ParameterType": "Convolution",
        "Metadata": "[ONNX Layer: stem]\x1e[ONNX Layer: relu]",
        **changes,
    }


@pytest.mark.parametrize(
    ("layer", "dtypes"),
    [
        (convolution(), {"stem": "Int8", "relu": "Int8"}),
        (
            convolution(Inputs=[{"Name": "x", "Format": "Row major linear", "Datatype": "Half"}]),
            {"stem": "Half", "relu": "Half"},
        ),
        (convolution(LayerType="correlation", ParameterType=""), {"stem": "Int8", "relu": "Int8"}),
        (convolution(Inputs=[{"Format/Datatype": "Row major linear FP32"}]), {"stem": "Float", "relu": "Float"}),
        (convolution(Inputs=[{"Format/Datatype": "Row major linear UInt8"}]), {"stem": "UInt8", "relu": "UInt8"}),
        (convolution(LayerType="kgen", ParameterType="PointWise"), {}),
        (convolution(Metadata=""), {}),
        (convolution(Inputs=[]), {}),
    ],
)
def test_convolutions_and_what_they_read(layer: dict[str, Any], dtypes: dict[str, str]) -> None:
    layers = parse_information(json.dumps({"Layers": [layer], "Bindings": ["x", "y"]}))
    assert convolution_dtypes(layers) == dtypes


def test_outputs_have_types_too() -> None:
    (layer,) = parse_information(json.dumps({"Layers": [convolution()]}))
    assert layer.output_dtypes == ("Half",)


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", '"Layers"', '{"Layers": {}}', '{"Layers": ["only a name"]}', "{}"]
)
def test_what_is_not_understood_gives_no_layers(text: str) -> None:
    assert parse_information(text) == ()
