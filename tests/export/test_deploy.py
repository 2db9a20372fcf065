"""The deploy graph against `training.predict`, its torch reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

from segrd_edge.calibration.session import run_engine
from segrd_edge.errors import ExportError
from segrd_edge.export.deploy import TOPK_LIMIT, build_deploy_graph
from segrd_edge.export.parity import check_parity
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.predict import predict

SIGMOID = MapSpec("sigmoid", 0, 100)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("preprocess", "spec"),
    [
        (Preprocess((64, 64)), SIGMOID),
        (Preprocess((96, 160), pixel_order="bgr"), SIGMOID),
        (Preprocess((160, 64), fit="letterbox"), MapSpec("sigmoid", 0, 1)),
        (Preprocess((64, 128), mean=(0.1, 0.5, 0.9), std=(0.3, 0.2, 0.1)), MapSpec("none", 4.0, 37)),
        (Preprocess((32, 96), fit="letterbox", pixel_order="bgr"), MapSpec("sigmoid", 1.3, 32 * 96)),
        (Preprocess((64, 32)), MapSpec("clip", 4.0, 1)),
    ],
)
def test_deploy_graph_gives_what_predict_gives(
    one_conv: Callable[[MapSpec], Any], preprocess: Preprocess, spec: MapSpec, engine: str
) -> None:
    model = one_conv(spec).eval()
    graph = build_deploy_graph(model.core(preprocess.size_hw), preprocess, spec)
    rng = np.random.default_rng(7)
    frames = [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in ((50, 170), (200, 90))]
    images = [preprocess.resize(frame) for frame in frames]
    outputs = run_engine(engine, graph, images)
    for wanted, got in zip(predict(model, preprocess, frames), outputs, strict=True):
        assert got.anomaly_map.shape == preprocess.size_hw
        assert np.abs(got.anomaly_map - wanted.anomaly_map).max() < 1e-5
        assert abs(got.score - wanted.score) < 1e-5
    assert wanted.anomaly_map.std() > 0.005
    if spec.activation != "none":
        assert 0 <= got.anomaly_map.min() <= got.anomaly_map.max() <= 1


def _mean_of_channels(size_hw: str) -> onnx.ModelProto:
    """A core graph whose map has the images' own size."""
    return onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 19]>
        core (float[1, 3, {size_hw}] images) => (float[1, 1, {size_hw}] raw) <int64[1] one = {{1}}>
        {{ raw = ReduceMean (images, one) }}"""
    )


@pytest.mark.parametrize(("sigma_px", "matrices"), [(0.0, 0), (2.0, 2)])
def test_a_map_of_the_network_size_is_not_enlarged(sigma_px: float, matrices: int) -> None:
    graph = build_deploy_graph(_mean_of_channels("64, 96"), Preprocess((64, 96)), MapSpec("none", sigma_px, 100))
    assert [node.op_type for node in graph.graph.node].count("MatMul") == matrices
    ((output,),) = [list(run_engine("onnxruntime", graph, [np.full((64, 96, 3), 200, np.uint8)]))]
    assert np.ptp(output.anomaly_map) < 1e-5  # blurred up to the border, too, an even grey stays what it is


def test_a_map_is_never_shrunk(one_conv: Callable[[MapSpec], Any]) -> None:
    core = one_conv(SIGMOID).core((64, 96))
    core.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 65
    with pytest.raises(ExportError, match=r"gives \[1, 1, 65, 24\]"):
        build_deploy_graph(core, Preprocess((64, 96)), SIGMOID)


def test_ports_and_stored_shapes(one_conv: Callable[[MapSpec], Any]) -> None:
    preprocess = Preprocess((64, 96))
    graph = build_deploy_graph(one_conv(SIGMOID).core((64, 96)), preprocess, SIGMOID).graph

    def describe(tensors: Any) -> dict[str, tuple[int, list[int]]]:
        types = {tensor.name: tensor.type.tensor_type for tensor in tensors}
        return {name: (t.elem_type, [d.dim_value for d in t.shape.dim]) for name, t in types.items()}

    assert describe(graph.input) == {"image": (onnx.TensorProto.UINT8, [1, 64, 96, 3])}
    assert describe(graph.output) == {
        "score": (onnx.TensorProto.FLOAT, [1]),
        "anomaly_map": (onnx.TensorProto.FLOAT, [1, 64, 96]),
    }
    inner = describe(graph.value_info)
    assert inner["raw"] == (onnx.TensorProto.FLOAT, [1, 1, 16, 24])
    assert all(all(size > 0 for size in shape) for _, shape in inner.values())


def test_destseg_passes_parity(destseg: nn.Module, destseg_core: onnx.ModelProto, images: list[np.ndarray]) -> None:
    preprocess, spec = Preprocess((64, 96)), destseg.map_spec
    assert isinstance(spec, MapSpec)
    graph = build_deploy_graph(destseg_core, preprocess, spec)
    parity = check_parity(destseg, graph, preprocess, spec, images)
    assert set(parity) == {"raw", "map", "score"}
    assert parity["map"] < 1e-4


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (Preprocess((64, 96), pixel_order="bgr"), "differs from the torch model"),
        (Preprocess((64, 96), mean=(0.485, 0.456, 0.407)), "differs from the torch model"),
    ],
)
def test_parity_finds_a_wrong_channel_order_and_a_mean_that_is_off_by_a_thousandth(
    one_conv: Callable[[MapSpec], Any], images: list[np.ndarray], wrong: Preprocess, complaint: str
) -> None:
    right, model = Preprocess((64, 96)), one_conv(SIGMOID).eval()
    check_parity(model, build_deploy_graph(model.core((64, 96)), right, SIGMOID), right, SIGMOID, images)
    with pytest.raises(ExportError, match=complaint):
        check_parity(model, build_deploy_graph(model.core((64, 96)), wrong, SIGMOID), right, SIGMOID, images)


def test_parity_refuses_nan(one_conv: Callable[[MapSpec], Any], images: list[np.ndarray]) -> None:
    model, preprocess = one_conv(SIGMOID).eval(), Preprocess((64, 96))
    graph = build_deploy_graph(model.core((64, 96)), preprocess, SIGMOID)
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "conv.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan], np.float32), bias.name))
    with pytest.raises(ExportError, match="raw by nan"):
        check_parity(model, graph, preprocess, SIGMOID, images)


def test_what_does_not_fit_is_refused(one_conv: Callable[[MapSpec], Any]) -> None:
    core = one_conv(SIGMOID).core((64, 96))
    with pytest.raises(ExportError, match=r"the core graph takes \[1, 3, 64, 96\]"):
        build_deploy_graph(core, Preprocess((96, 64)), SIGMOID)
    with pytest.raises(ExportError, match=f"averages {TOPK_LIMIT + 1} of 6144 pixels"):
        build_deploy_graph(core, Preprocess((64, 96)), MapSpec("sigmoid", 0, TOPK_LIMIT + 1))
