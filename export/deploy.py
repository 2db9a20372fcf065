"""The deploy graph: one ONNX graph from the pixels of a network image to score and anomaly map.

    image uint8 1×h×w×3 BGR ─ Cast ─ Transpose ─ Conv 1×1 ─► images ─ network ─► raw 1×1×h'×w'
    raw ─ Sigmoid or Clip ─ rows: A·x ─ columns: x·Bᵀ ─ Squeeze ─► anomaly_map 1×h×w ─ TopK ─ ReduceMean ─► score 1

The 1×1 convolution does channel order and normalisation together, (x − 255·mean) / (255·std) with the order in its
weight matrix. Mul and Add would need a Gather beside them to turn BGR into RGB; this is one op that no engine has
trouble with, 0.6 MMACs at 256².

Enlarging the map and blurring it are linear and separable, so both together are one fixed matrix per axis: for 64² →
256², 5 MMACs. Against a Resize and two convolutions of one channel that saves 2.7 ms of a reverse distillation's 33 in
INT8, and 2.2 of its 80 in fp32 (OpenVINO, one thread of a shared 2.5 GHz Xeon, 2026-11-22). They stay float32, as
everything of pre- and postprocessing does.

The torch version is `training.maps`; `export.parity` holds the two together at every export.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.calibration.graph import read_graph, write_graph
from segrd_edge.errors import ExportError
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.maps import gaussian_kernel

from .frame_graph import axis_weights

TOPK_LIMIT = 3840  # TensorRT's largest K


def build_deploy_graph(core: onnx.ModelProto, preprocess: Preprocess, spec: MapSpec) -> onnx.ModelProto:
    """Put pre- and postprocessing around a core graph (`export.onnx.export_core`). Shapes are static and stored.

    The raw output stays in the graph as the tensor `raw`; `calibration.graph.expose(graph, ["raw"])` makes it an
    output.

    Raises:
        ExportError: the core's sizes do not fit `preprocess`, or the score averages more pixels than TensorRT can sort.
    """
    graph = read_graph(core)
    _check(graph, preprocess, spec)
    surgery = _Surgery(graph)
    _before(surgery, preprocess)
    _after(surgery, spec, preprocess.size_hw)
    return write_graph(graph)


class _Surgery:
    """Appends nodes by name: the node, its output and its constants are called after what they do."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph

    def add(self, name: str, op: str, *inputs: Any, output: gs.Variable | None = None, **attrs: Any) -> gs.Variable:
        """Append a node with one output, `output` or a new tensor; arrays among `inputs` become constants."""
        constants = [
            gs.Constant(f"{name}.{i}", values) if isinstance(values, np.ndarray) else values
            for i, values in enumerate(inputs)
        ]
        result = gs.Variable(f"{name}.out", np.float32) if output is None else output
        self.graph.nodes.append(gs.Node(op, name, attrs, constants, [result]))
        return result


def _before(surgery: _Surgery, preprocess: Preprocess) -> None:
    """image → images."""
    images = surgery.graph.inputs[0]
    image = gs.Variable("image", np.uint8, (1, *preprocess.size_hw, 3))
    pixels = surgery.add("deploy.cast", "Cast", image, to=onnx.TensorProto.FLOAT)
    planes = surgery.add("deploy.planes", "Transpose", pixels, perm=[0, 3, 1, 2])
    weight, bias = _normalisation(preprocess)
    surgery.add("deploy.normalise", "Conv", planes, weight, bias, output=images, kernel_shape=[1, 1])
    surgery.graph.inputs = [image]


def _normalisation(preprocess: Preprocess) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weight 3×3×1×1 and bias 3 that turn BGR pixels (0 … 255) into normalised channels of the network's order."""
    mean, std = (np.array(values, np.float64) for values in (preprocess.mean, preprocess.std))
    order = np.eye(3)[::-1] if preprocess.pixel_order == "rgb" else np.eye(3)
    weight = order / (255 * std)[:, None]
    return weight[:, :, None, None].astype(np.float32), (-mean / std).astype(np.float32)


def _after(surgery: _Surgery, spec: MapSpec, size_hw: tuple[int, int]) -> None:
    """raw → anomaly_map, score."""
    values = surgery.graph.outputs[0]
    raw_hw = tuple(values.shape[2:])
    if spec.activation == "sigmoid":
        values = surgery.add("deploy.activation", "Sigmoid", values)
    elif spec.activation == "clip":
        values = surgery.add("deploy.activation", "Clip", values, np.array(0, np.float32), np.array(1, np.float32))
    if spec.sigma_px > 0 or raw_hw != size_hw:
        sides = zip(raw_hw, size_hw, strict=True)
        rows, columns = (_enlarged_and_blurred(source, target, spec.sigma_px) for source, target in sides)
        values = surgery.add("deploy.rows", "MatMul", rows[None, None], values)
        values = surgery.add("deploy.columns", "MatMul", values, np.ascontiguousarray(columns.T))
    anomaly_map = gs.Variable("anomaly_map", np.float32, (1, *size_hw))
    surgery.add("deploy.map", "Squeeze", values, np.array([1], np.int64), output=anomaly_map)
    score = _top_mean(surgery, anomaly_map, spec.top_pixels)
    surgery.graph.outputs = [score, anomaly_map]


def _enlarged_and_blurred(source: int, target: int, sigma_px: float) -> npt.NDArray[np.float32]:
    """Matrix target×source of one axis: bilinear, then a Gaussian, at the border the mean of what lies inside."""
    weights = axis_weights(source, target)
    if sigma_px > 0:
        kernel = gaussian_kernel(sigma_px).double().numpy()
        radius = len(kernel) // 2
        distance = np.arange(target)[None, :] - np.arange(target)[:, None]
        blur = np.where(abs(distance) <= radius, kernel[np.clip(distance + radius, 0, len(kernel) - 1)], 0)
        weights = blur / blur.sum(axis=1, keepdims=True) @ weights
    return weights.astype(np.float32)


def _top_mean(surgery: _Surgery, anomaly_map: gs.Variable, top_pixels: int) -> gs.Variable:
    """Mean of the largest pixels, float32 [1]."""
    flat = surgery.add("deploy.flat", "Reshape", anomaly_map, np.array([1, -1], np.int64))
    largest = gs.Variable("deploy.largest", np.float32)
    positions = gs.Variable("deploy.largest_positions", np.int64)
    top = gs.Constant("deploy.top_pixels", np.array([top_pixels], np.int64))
    surgery.graph.nodes.append(gs.Node("TopK", "deploy.top", {"axis": 1}, [flat, top], [largest, positions]))
    score = gs.Variable("score", np.float32, (1,))
    return surgery.add("deploy.score", "ReduceMean", largest, np.array([1], np.int64), output=score, keepdims=0)


def _check(graph: gs.Graph, preprocess: Preprocess, spec: MapSpec) -> None:
    images, raw = graph.inputs[0], graph.outputs[0]
    wanted = [1, 3, *preprocess.size_hw]
    if list(images.shape) != wanted or list(raw.shape[:2]) != [1, 1]:
        raise ExportError(
            f"the core graph takes {list(images.shape)} and gives {list(raw.shape)}",
            expected=f"{wanted} in and [1, 1, h', w'] out",
            fix="export the core with the size of this preprocessing",
        )
    if raw.shape[2] > preprocess.size_hw[0] or raw.shape[3] > preprocess.size_hw[1]:
        raise ExportError(
            f"the core graph gives {list(raw.shape)}",
            expected=f"a map no larger than the network image, {'×'.join(map(str, preprocess.size_hw))}",
            fix="let the network give its map at the image's size; a map is enlarged, never shrunk",
        )
    pixels = preprocess.size_hw[0] * preprocess.size_hw[1]
    if not 1 <= spec.top_pixels <= min(TOPK_LIMIT, pixels):
        raise ExportError(
            f"the score averages {spec.top_pixels} of {pixels} pixels",
            expected=f"1 to {min(TOPK_LIMIT, pixels)}, TensorRT's limit being {TOPK_LIMIT}",
            fix="set a smaller top_pixels in the model's MapSpec, or train at a smaller --size",
        )
