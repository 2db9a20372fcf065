"""A detector small enough to predict by hand: the anomaly of a pixel is its distance from the part's colour.

map = mean over B, G, R of |pixel - PART_BGR| / 255, without any convolution; score = mean of the TOP_PIXELS largest.
Its "int8" graph sends the map through a Q/DQ pair of scale 1/127, so its outputs are the fp32 ones within half a step.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrd_edge.bundle import write_bundle
from segrd_edge.engines.onnxruntime import OnnxRuntimeEngine
from segrd_edge.manifest import Manifest
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.selftest import golden_frame

SIZE_HW = (64, 96)
TILE_HW = (128, 192)  # frame pixels of the bundle with tiles, two to a network pixel
TOP_PIXELS = 20
PART_BGR = (40, 120, 200)
WHITE_ANOMALY = (215 + 135 + 55) / 3 / 255  # 0.529: what a white pixel scores
THRESHOLD = {"fp32": 0.3, "int8": 0.32}


@pytest.fixture(scope="session")
def deploy_graph() -> Callable[..., bytes]:
    return _deploy_graph


@pytest.fixture(scope="session")
def manifest_fields() -> Callable[..., dict[str, Any]]:
    return _manifest_fields


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """`make_bundle(path, **manifest_fields)`: write a complete test bundle there."""
    return _make_bundle


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete bundle. Tests that damage it copy it first."""
    return _make_bundle(tmp_path_factory.mktemp("bundle") / "part.segrd")


@pytest.fixture
def tiled_bundle(tmp_path: Path) -> Callable[..., Path]:
    """`tiled_bundle(batch=1)`: a bundle with tiles whose graph takes so many at once."""

    def make(batch: int = 1) -> Path:
        return _make_bundle(
            tmp_path / f"tiles-{batch}.segrd",
            graphs={"fp32": _deploy_graph(batch=batch)},
            records={"fp32": _manifest_fields()["graphs"]["fp32"] | {"batch": batch}},
            preprocess=Preprocess(size_hw=SIZE_HW, tile_hw=TILE_HW, overlap=0.25).to_dict(),
            default_precision="fp32",
            calibration=None,
        )

    return make


@pytest.fixture
def good_frame() -> np.ndarray:
    return paint((120, 180))


@pytest.fixture
def defect_frame() -> np.ndarray:
    """White in x 60..90, y 30..50 of a 180×120 frame: 30×20 frame pixels are 16×10.7 network pixels."""
    return paint((120, 180), (60, 30, 30, 20))


@pytest.fixture(scope="session")
def painter() -> Callable[..., np.ndarray]:
    return paint


def paint(frame_hw: tuple[int, int], *boxes_xywh: tuple[int, int, int, int]) -> np.ndarray:
    """A frame of the part's colour with white boxes."""
    frame = np.full((*frame_hw, 3), PART_BGR, np.uint8)
    for left, top, width, height in boxes_xywh:
        frame[top : top + height, left : left + width] = 255
    return frame


def _deploy_graph(
    size_hw: tuple[int, int] = SIZE_HW,
    *,
    int8: bool = False,
    output: str = "anomaly_map",
    batch: int = 1,
    shrink: int | None = None,
) -> bytes:
    """`shrink`: take frames of that many times the network size, and average the pixels in the graph."""
    from onnx import TensorProto, helper

    def tensor(name: str, values: Any, kind: int = TensorProto.FLOAT) -> Any:
        array = np.asarray(values)
        return helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist())

    height, width = size_hw
    constants = [
        tensor("part", PART_BGR),
        tensor("white", 255.0),
        tensor("flat", [batch, height * width], TensorProto.INT64),
        tensor("top", [TOP_PIXELS], TensorProto.INT64),
        tensor("scale", 1 / 127),
        tensor("zero", 0, TensorProto.INT8),
    ]
    name, factor = ("image", 1) if shrink is None else ("frame", shrink)
    nodes = [helper.make_node("Cast", [name], ["levels" if shrink is None else "bytes"], to=TensorProto.FLOAT)]
    if shrink is not None:
        nodes += [
            helper.make_node("Transpose", ["bytes"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[factor] * 2, strides=[factor] * 2),
            helper.make_node("Round", ["means"], ["whole"]),
            helper.make_node("Transpose", ["whole"], ["levels"], perm=[0, 2, 3, 1]),
        ]
    nodes += [
        helper.make_node("Sub", ["levels", "part"], ["signed"]),
        helper.make_node("Abs", ["signed"], ["distance"]),
        helper.make_node("ReduceMean", ["distance"], ["mean"], axes=[3], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["unit" if int8 else output]),
    ]
    if int8:
        nodes += [
            helper.make_node("QuantizeLinear", ["unit", "scale", "zero"], ["steps"]),
            helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], [output]),
        ]
    nodes += [
        helper.make_node("Reshape", [output, "flat"], ["pixels"]),
        helper.make_node("TopK", ["pixels", "top"], ["largest", "where"], axis=1),
        helper.make_node("ReduceMean", ["largest"], ["score"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "distance",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, [batch, factor * height, factor * width, 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [batch]),
            helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, height, width]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _threshold(value: float) -> dict[str, Any]:
    return {
        "value": value,
        "rule": "tail",
        "false_reject": 0.005,
        "n_good": 30,
        "conformal": {"value": None, "guaranteed_rate": 0.033, "needed": 199},
        "tail": {"value": value, "method": "pareto", "exceedances": 6, "shape": 0.0, "scale": 0.2},
        "escape_rate": None,
        "histogram": {"edges": [0.0, 0.5, 1.0], "good": [30, 0], "defect": None},
    }


def _manifest_fields(**changes: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(b"").hexdigest()
    return {
        "product": "part",
        "created": datetime(2026, 1, 2, tzinfo=timezone.utc),
        "segrd_edge_version": "0.1.0",
        "model": {
            "name": "distance",
            "backbone": "none",
            "teacher": {"name": "none", "sha256": sha256},
            "parameters": 3,
            "gmacs": None,
            "training": {"steps": 1, "seed": 0, "batch": 1, "minutes": 0.0, "images": 30},
        },
        "data": {"good": 30, "defect": 0},
        "preprocess": Preprocess(size_hw=SIZE_HW).to_dict(),
        "map_spec": MapSpec(activation="none", top_pixels=TOP_PIXELS).to_dict(),
        "graphs": {
            name: {"file": f"graphs/{name}.onnx", "opset": 17, "threshold": _threshold(value)}
            for name, value in THRESHOLD.items()
        },
        "default_precision": "int8",
        "calibration": {
            "method": "percentile",
            "percentile": 99.99,
            "frames": [{"file": "0.png", "sha256": sha256, "kind": "good"}],
            "quantised": ["unit"],
            "equalised": [],
            "scope": "all",
            "drift": {},
            "left_float": [{"node": "score", "reason": "score"}],
        },
        "golden": {"file": "golden.npz", "count": 2},
        **changes,
    }


def _make_bundle(
    path: Path, *, graphs: dict[str, bytes] | None = None, records: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """`graphs` are the bundle's; `records` what the manifest says of them, where that is not the usual."""
    graphs = graphs or {"fp32": _deploy_graph(), "int8": _deploy_graph(int8=True)}
    members = {f"graphs/{name}.onnx": graph for name, graph in graphs.items()}
    fields = _manifest_fields(**changes)
    known = records or fields["graphs"]
    fields["graphs"] = {name: record for name, record in known.items() if name in graphs}
    write_bundle(path, Manifest(**fields), {**members, "golden.npz": _golden(graphs, fields["preprocess"])})
    return path


def _golden(graphs: dict[str, bytes], preprocess: dict[str, Any]) -> bytes:
    images = np.stack([paint(SIZE_HW), paint(SIZE_HW, (10, 10, 20, 20))])
    arrays: dict[str, np.ndarray] = {"images": images}
    for name, graph in graphs.items():
        engine = OnnxRuntimeEngine(graph)
        whole = Preprocess.from_dict(preprocess)
        items = [golden_frame(i, whole, engine.input_hw) if engine.takes_frames else i for i in images]
        outputs = [engine.run(item) for item in items]
        arrays[f"score_{name}"] = np.array([o.score for o in outputs], np.float32)
        arrays[f"map_{name}"] = np.stack([o.anomaly_map for o in outputs])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
