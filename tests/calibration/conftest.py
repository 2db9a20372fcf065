"""A small deploy graph with everything that the rules talk about, built by hand so that no test waits for an exporter.

image ─ cast ─ planes ─ deploy.normalise 3→3 ─ stem 3→16 ─ Relu ─ MaxPool ─ x
x ─ block.conv1 ─ Relu ─ block.conv2 ─┬─ Add(·, x) ─ Relu ─ y                       identity skip
y ─ down.conv1 ─ Relu ─ down.conv2 ───┬─ Add(·, down.skip(y)) ─ Relu ─ z            skip with its own convolution
z ─ Resize ×2 ─ up ; concat(up, y) ─ head.fuse ─ Relu ─ f
f ─ ReduceMean ─ head.pooled (1×1 map) ─ Add(f) ;  f ─ head.depthwise ─ head.out 16→1 ─ raw
raw ─ Sigmoid ─ Resize ─ Squeeze ─ anomaly_map ─ TopK ─ ReduceMean ─ score
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest

from segrd_edge.calibration.graph import OPSET, write_graph

SIZE_HW = (32, 48)


@pytest.fixture(scope="session")
def model() -> onnx.ModelProto:
    return build_small(SIZE_HW)


@pytest.fixture(scope="session")
def images() -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    smooth = [np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((8, 8, 1))) for _ in range(6)]
    return [np.clip(s + rng.normal(0, 8, s.shape), 0, 255).astype(np.uint8) for s in smooth]


class Builder:
    """Appends nodes to a graph; weights are drawn so that activations keep their size."""

    def __init__(self) -> None:
        self.graph = gs.Graph(opset=OPSET)
        self.rng = np.random.default_rng(0)

    def op(self, name: str, op: str, *inputs: Any, **attrs: Any) -> gs.Variable:
        output = gs.Variable(f"{name}.out", np.float32)
        tensors = [gs.Constant(f"{name}.{i}", x) if isinstance(x, np.ndarray) else x for i, x in enumerate(inputs)]
        self.graph.nodes.append(gs.Node(op, name, attrs, tensors, [output]))
        return output

    def conv(self, name: str, x: Any, ins: int, outs: int, k: int = 3, stride: int = 1, group: int = 1) -> gs.Variable:
        weight = self.rng.normal(0, (2 / (ins // group * k * k)) ** 0.5, (outs, ins // group, k, k)).astype(np.float32)
        bias = self.rng.normal(0, 0.1, outs).astype(np.float32)
        parts = [gs.Constant(f"{name}.weight", weight), gs.Constant(f"{name}.bias", bias)]
        attrs: dict[str, Any] = {"pads": [k // 2] * 4, "strides": [stride] * 2, "group": group, "kernel_shape": [k, k]}
        return self.op(name, "Conv", x, *parts, **attrs)

    def relu(self, x: gs.Variable) -> gs.Variable:
        return self.op(x.name.replace(".out", ".relu"), "Relu", x)

    def resize(self, name: str, x: Any, size: tuple[int, int], channels: int) -> gs.Variable:
        sizes = np.array([1, channels, *size], np.int64)
        return self.op(name, "Resize", x, gs.Variable.empty(), gs.Variable.empty(), sizes, mode="linear")


def build_small(size_hw: tuple[int, int]) -> onnx.ModelProto:
    """The graph above for network images of this size, whose sides are multiples of 4."""
    b, (h, w) = Builder(), size_hw
    image = gs.Variable("image", np.uint8, (1, h, w, 3))
    pixels = b.op("planes", "Transpose", b.op("cast", "Cast", image, to=1), perm=[0, 3, 1, 2])
    normalise = np.eye(3, dtype=np.float32)[:, :, None, None] / 64
    images = b.op("deploy.normalise", "Conv", pixels, normalise, np.full(3, -2, np.float32))
    x = b.op("pool", "MaxPool", b.relu(b.conv("stem", images, 3, 16)), kernel_shape=[2, 2], strides=[2, 2])
    inner = b.conv("block.conv2", b.relu(b.conv("block.conv1", x, 16, 16)), 16, 16)
    y = b.relu(b.op("block.add", "Add", inner, x))
    inner = b.conv("down.conv2", b.relu(b.conv("down.conv1", y, 16, 32, stride=2)), 32, 32)
    z = b.relu(b.op("down.add", "Add", inner, b.conv("down.skip", y, 16, 32, 1, stride=2)))
    up = b.conv("up", b.resize("enlarge", z, (h // 2, w // 2), 32), 32, 16)
    f = b.relu(b.conv("head.fuse", b.op("concat", "Concat", up, y, axis=1), 32, 16))
    mean = b.op("mean", "ReduceMean", f, np.array([2, 3], np.int64))
    f = b.op("head.add", "Add", b.conv("head.pooled", mean, 16, 16, 1), f)
    raw = b.conv("head.out", b.conv("head.depthwise", f, 16, 16, group=16), 16, 1, 1)
    maps = b.resize("to_size", b.op("sigmoid", "Sigmoid", raw), size_hw, 1)
    anomaly_map = b.op("map", "Squeeze", maps, np.array([1], np.int64))
    flat = b.op("flat", "Reshape", anomaly_map, np.array([1, -1], np.int64))
    top, positions = gs.Variable("top", np.float32), gs.Variable("positions", np.int64)
    count = gs.Constant("k", np.array([20], np.int64))
    b.graph.nodes.append(gs.Node("TopK", "topk", {}, [flat, count], [top, positions]))
    score = b.op("score", "ReduceMean", top, np.array([1], np.int64), keepdims=0)
    anomaly_map.name, score.name, raw.name = "anomaly_map", "score", "raw"
    b.graph.inputs, b.graph.outputs = [image], [score, anomaly_map]
    return write_graph(b.graph)
