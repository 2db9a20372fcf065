"""The frame graph: a deploy graph that takes the camera's own bytes and does crop and resize itself, on the GPU.

    frame uint8 n×H×W×3 BGR ─ Cast ─ (Slice) ─ rows: A·x ─ Transpose ─ columns: x·Bᵀ ─ Round ─ (Pad) ─► n×3×h×w,
    as behind the deploy graph's own Cast and Transpose, which it replaces. n is the deploy graph's.

The crop is a Slice behind the Cast, because TensorRT takes uint8 into a Cast and into nothing else. Nothing is lost:
its compiler makes one kernel of the two (layer `CastSlic` of TensorRT-RTX), which reads and writes the crop alone.

The kernel of `Preprocess.resize` is linear and separable, so it is one fixed matrix per axis: box averages where the
axis shrinks, bilinear weights where it grows. MatMul is an op that every engine has; Resize with antialias is not one
of TensorRT's. Rows go first, since there the frame's own layout, H×(W·3), is a matrix already: no full-size transpose.

Where source and target have a common divisor g, the boxes repeat g times, and one small matrix serves all repetitions:
1/g of the work of a dense one, with the same weights. The blocks keep at least BLOCK_ROWS outputs, below which a GPU's
matrix units pad anyway. AveragePool could serve whole factors with still less arithmetic; but both then wait for the
frame to be read (on one CPU thread it took 213 ms for the rows alone, this 122 for everything), and one way serves all.

Rounding to whole grey levels follows, because the network was trained and calibrated on uint8 images; with the same
rounding, half to even. No Clip: the weights of a row add up to 1, so nothing leaves 0 … 255 by more than the rounding
takes back. The result is within one grey level of the CPU's for every pixel, the border equal.

The MatMuls stay float32, in a float16 graph as well. Measured against float64 on bright noise of 2048×2448 → 256²:
float32 is off by 0.00004 of a grey level; float16 by 0.11 where it only stores and by 0.39 where it also adds up, which
moves 6 and 9 % of the pixels by one level. TF32, off unless a build asks for it, has float16's digits and float32's
sums: at worst the former. Little would be gained, as most of the step is reading the frame.

Cost of 2048×2448 → 256²: 0.3 GMACs, 1.6 letterboxed (214 rows), 4.4 for 1943×2591, whose sizes share no divisor with
256; 60 MB of device memory for the float32 frame. No GPU was at hand. On a CPU `Preprocess.resize` is the better way:
this takes 2 to 18 times as long in OpenVINO (benchmarks/results/README.md, by `benchmarks.resize`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from segrd_edge.calibration.graph import read_graph, write_graph
from segrd_edge.errors import ExportError, OptionError
from segrd_edge.preprocess import Placement, Preprocess

BLOCK_ROWS = 16  # the height of a tensor core's tile
_TO_PLANES = [0, 3, 1, 2]
_Array = npt.NDArray[np.float32]


def build_frame_graph(
    deploy_graph: onnx.ModelProto, preprocess: Preprocess, frame_hw: tuple[int, int]
) -> onnx.ModelProto:
    """Put the resize in front of a deploy graph, float or INT8.

    Args:
        deploy_graph: takes `image`, uint8 n×h×w×3 BGR, as `export.deploy.build_deploy_graph` makes it.
        preprocess: the one that the deploy graph was built with.
        frame_hw: height and width of the cameras' frames; the graph takes no others.

    Returns:
        A new graph that takes `frame`, uint8 n×H×W×3 BGR, n frames of one size, and gives the same outputs at the same,
        network, size. Its new nodes are called `frame.…`.

    Raises:
        OptionError: an impossible frame size.
        FrameError: the crop reaches outside of such a frame.
        ExportError: the deploy graph's input is not of the network size, or is not read as pixels → planes.
    """
    if len(frame_hw) != 2 or min(frame_hw) < 1:
        raise OptionError(
            f"frame size {'x'.join(map(str, frame_hw))} cannot be used",
            expected="height and width of at least one pixel",
        )
    graph = read_graph(deploy_graph)
    planes = _planes(graph, preprocess)
    place = preprocess.placement(frame_hw)
    frame = gs.Variable("frame", np.uint8, (graph.inputs[0].shape[0], *frame_hw, 3))
    resized = _pad(graph, _resize(graph, frame, place), place, preprocess.fill)
    for reader in list(planes.outputs):
        reader.inputs = [resized if tensor is planes else tensor for tensor in reader.inputs]
    graph.inputs = [frame]
    return write_graph(graph)


def axis_weights(source: int, target: int) -> npt.NDArray[np.float64]:
    """Matrix target×source of one axis, its rows adding up to 1, as `preprocess.shrink_or_grow` defines the resize.

    Shrinking: row t is the box average over [t, t + 1) · source / target, its ends weighted by the part of the pixel
    that they cover. Growing: bilinear between the two nearest pixel centres, the outermost pixels repeated.
    """
    position = np.arange(source)[None, :]
    step = source / target
    if target <= source:
        low = np.arange(target)[:, None] * step
        covered = np.minimum(low + step, position + 1) - np.maximum(low, position)
        weights = np.maximum(covered, 0)
    else:
        centre = np.clip((np.arange(target)[:, None] + 0.5) * step - 0.5, 0, source - 1)
        weights = np.maximum(1 - np.abs(centre - position), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def repeating_block(source: int, target: int) -> tuple[int, _Array]:
    """How often the kernel of one axis repeats, and the matrix of one repetition (target/repeats × source/repeats)."""
    repeats = 1
    if target < source:  # bilinear weights reach across the ends of a block
        common = math.gcd(source, target)
        repeats = max(n for n in range(1, common + 1) if common % n == 0 and (n == 1 or target // n >= BLOCK_ROWS))
    return repeats, axis_weights(source // repeats, target // repeats).astype(np.float32)


def _planes(graph: gs.Graph, preprocess: Preprocess) -> gs.Variable:
    """The tensor of the deploy graph that holds the pixels as float32 n×3×h×w."""
    image = graph.inputs[0]
    count, *size_hwc = image.shape
    if not isinstance(count, int) or size_hwc != [*preprocess.size_hw, 3] or image.dtype != np.uint8:
        raise ExportError(
            f"the deploy graph takes {np.dtype(image.dtype)} {list(image.shape)}",
            expected="uint8 n×{}×{}×3 with a fixed n".format(*preprocess.size_hw),
            fix="build it with the same preprocessing: build_deploy_graph(core, preprocess, spec)",
        )
    tensor = image
    for op in ("Cast", "Transpose"):
        readers = [node for node in tensor.outputs if node.op == op]
        if len(tensor.outputs) != 1 or not readers or readers[0].attrs.get("perm", _TO_PLANES) != _TO_PLANES:
            raise ExportError(
                f"{tensor.name} is read by {', '.join(node.op for node in tensor.outputs) or 'nothing'}",
                expected="image → Cast → Transpose to n×3×h×w, as build_deploy_graph makes it",
            )
        tensor = readers[0].outputs[0]
    return tensor


def _resize(graph: gs.Graph, frame: gs.Variable, place: Placement) -> gs.Variable:
    """frames → planes of their rectangle in the network image, float32 n×3×place.height×place.width, whole numbers."""
    count, (rows, columns) = frame.shape[0], (place.height, place.width)
    left, top, width, height = place.seen_xywh
    x = _add(graph, "cast", "Cast", frame, to=onnx.TensorProto.FLOAT)
    if (height, width) != place.frame_hw:
        first, end = np.array([top, left], np.int64), np.array([top + height, left + width], np.int64)
        x = _add(graph, "crop", "Slice", x, first, end, np.array([1, 2], np.int64))
    if rows != height:
        repeats, matrix = repeating_block(height, rows)
        x = _add(graph, "bands", "Reshape", x, np.array([count * repeats, height // repeats, width * 3], np.int64))
        x = _add(graph, "rows", "MatMul", matrix[None], x)  # 1×(rows/r)×(H/r) · (n·r)×(H/r)×(W·3)
        x = _add(graph, "pixels", "Reshape", x, np.array([count, rows, width, 3], np.int64))
    x = _add(graph, "planes", "Transpose", x, perm=_TO_PLANES)  # behind the rows, where the frame is small
    if columns != width:
        repeats, matrix = repeating_block(width, columns)
        x = _add(graph, "spans", "Reshape", x, np.array([count * 3 * rows * repeats, width // repeats], np.int64))
        x = _add(graph, "columns", "MatMul", x, np.ascontiguousarray(matrix.T))
        x = _add(graph, "image", "Reshape", x, np.array([count, 3, rows, columns], np.int64))
    return x if (rows, columns) == (height, width) else _add(graph, "round", "Round", x)


def _pad(graph: gs.Graph, planes: gs.Variable, place: Placement, fill: int) -> gs.Variable:
    """The letterbox border, where there is one."""
    height, width = place.size_hw
    if (place.height, place.width) == place.size_hw:
        return planes
    below, right = height - place.top - place.height, width - place.left - place.width
    pads = np.array([0, 0, place.top, place.left, 0, 0, below, right], np.int64)
    return _add(graph, "border", "Pad", planes, pads, np.array(fill, np.float32))


def _add(graph: gs.Graph, name: str, op: str, *inputs: Any, **attrs: Any) -> gs.Variable:
    """Append the node `frame.<name>` with one float32 output; arrays among `inputs` become constants."""
    constants = [
        gs.Constant(f"frame.{name}.{i}", values) if isinstance(values, np.ndarray) else values
        for i, values in enumerate(inputs)
    ]
    output = gs.Variable(f"frame.{name}.out", np.float32)
    graph.nodes.append(gs.Node(op, f"frame.{name}", attrs, constants, [output]))
    return output
