"""Pixel shuffles in another order: the same function."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from segrd_edge.calibration.graph import write_graph
from segrd_edge.export.shuffle import reorder_shuffles


def _shuffled(behind: str = "y = Relu (s)", mode: str = "CRD") -> gs.Graph:
    """Six channels of 4×5 → 12 by a convolution → 3 of 8×10 by a shuffle, and what is behind that."""
    graph = gs.import_onnx(
        onnx.parser.parse_model(
            f"""<ir_version: 9, opset_import: ["" : 19]>
            g (float[1, 6, 4, 5] x) => (float[1, 3, 8, 10] y)
            {{
                c = Conv (x, w, b)
                s = DepthToSpace <blocksize = 2, mode = "{mode}"> (c)
                {behind}
            }}"""
        )
    )
    rng = np.random.default_rng(0)
    (conv,) = [node for node in graph.nodes if node.op == "Conv"]
    conv.attrs["kernel_shape"] = [1, 1]
    weights = {"w": rng.normal(size=(12, 6, 1, 1)), "b": rng.normal(size=12)}
    conv.inputs = [conv.inputs[0], *(gs.Constant(name, values.astype(np.float32)) for name, values in weights.items())]
    return graph


def _run(graph: gs.Graph) -> np.ndarray:
    session = onnxruntime.InferenceSession(write_graph(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(1, 6, 4, 5)).astype(np.float32)
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize(
    ("behind", "ops"),
    [
        ("y = Relu (s)", ["Conv", "Relu", "DepthToSpace"]),
        ("y = Sigmoid (s)", ["Conv", "DepthToSpace", "Sigmoid"]),
        ("r = Relu (s) y = Add (r, s)", ["Conv", "DepthToSpace", "Relu", "Add"]),
    ],
)
def test_the_same_function(behind: str, ops: list[str]) -> None:
    wanted = _run(_shuffled(behind))
    graph = _shuffled(behind)
    reorder_shuffles(graph)
    assert np.array_equal(_run(graph), wanted)
    graph.toposort()
    assert [node.op for node in graph.nodes] == ops
    assert next(node for node in graph.nodes if node.op == "DepthToSpace").attrs["mode"] == "DCR"


@pytest.mark.parametrize("graph", [_shuffled(mode="DCR"), _shuffled("z = Relu (c) t = ReduceMean (z) y = Add (s, t)")])
def test_what_it_cannot_reorder_stays(graph: gs.Graph) -> None:
    """In the right order already; a convolution that something else reads."""
    before = [(node.op, dict(node.attrs)) for node in graph.nodes]
    weight = next(node for node in graph.nodes if node.op == "Conv").inputs[1].values.copy()
    reorder_shuffles(graph)
    assert [(node.op, dict(node.attrs)) for node in graph.nodes] == before
    assert np.array_equal(next(node for node in graph.nodes if node.op == "Conv").inputs[1].values, weight)
