"""The deploy graph: one ONNX graph from the pixels of a network image to score and anomaly map.

    image uint8 1×h×w×3 BGR ─ Cast ─ Transpose ─ Conv 1×1 ─► images ─ network ─► raw 1×1×h'×w'
    raw ─ Sigmoid or Clip ─ Resize ─ (Gaussian) ─ Squeeze ─► anomaly_map 1×h×w ─ TopK ─ ReduceMean ─► score 1

The 1×1 convolution does channel order and normalisation together, (x − 255·mean) / (255·std) with the order in its
weight matrix. Mul and Add would need a Gather beside them to turn BGR into RGB; this is one op that no engine has
trouble with, 0.6 MMACs at 256². The torch version is `training.maps`; `export.parity` holds the two together at every
export.
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
from segrd_edge.training.maps import gaussian_kernel, weight_inside

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
    height, width = size_hw
    values = surgery.graph.outputs[0]
    if spec.activation == "sigmoid":
        values = surgery.add("deploy.activation", "Sigmoid", values)
    elif spec.activation == "clip":
        values = surgery.add("deploy.activation", "Clip", values, np.array(0, np.float32), np.array(1, np.float32))
    values = surgery.add(
        "deploy.enlarge",
        "Resize",
        values,
        gs.Variable.empty(),  # no region of interest
        gs.Variable.empty(),  # sizes instead of scales
        np.array([1, 1, height, width], np.int64),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    if spec.sigma_px > 0:
        values = _blur(surgery, values, spec.sigma_px, size_hw)
    anomaly_map = gs.Variable("anomaly_map", np.float32, (1, height, width))
    surgery.add("deploy.map", "Squeeze", values, np.array([1], np.int64), output=anomaly_map)
    score = _top_mean(surgery, anomaly_map, spec.top_pixels)
    surgery.graph.outputs = [score, anomaly_map]


def _blur(surgery: _Surgery, values: gs.Variable, sigma_px: float, size_hw: tuple[int, int]) -> gs.Variable:
    """Gaussian as two one-dimensional convolutions: 66 products per pixel instead of 33² at sigma 4.

    They are padded with zeros, and one product per pixel makes the mean of what lies inside of that.
    """
    kernel = gaussian_kernel(sigma_px).numpy()
    radius = len(kernel) // 2
    column, row = kernel.reshape(1, 1, -1, 1), kernel.reshape(1, 1, 1, -1)
    values = surgery.add("deploy.blur_down", "Conv", values, column, pads=[radius, 0, radius, 0])
    values = surgery.add("deploy.blur_across", "Conv", values, row, pads=[0, radius, 0, radius])
    down, across = (weight_inside(sigma_px, length).numpy() for length in size_hw)
    inverse = (1 / (down[:, None] * across)).reshape(1, 1, *size_hw).astype(np.float32)
    return surgery.add("deploy.blur_border", "Mul", values, inverse)


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
    pixels = preprocess.size_hw[0] * preprocess.size_hw[1]
    if not 1 <= spec.top_pixels <= min(TOPK_LIMIT, pixels):
        raise ExportError(
            f"the score averages {spec.top_pixels} of {pixels} pixels",
            expected=f"1 to {min(TOPK_LIMIT, pixels)}, TensorRT's limit being {TOPK_LIMIT}",
            fix="set a smaller top_pixels in the model's MapSpec, or train at a smaller --size",
        )
