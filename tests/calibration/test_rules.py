"""Every rule by itself: what it sees before, what it leaves behind."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from segrd_edge.calibration.graph import read_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.rules import (
    channels,
    constant_weight,
    conv_input,
    conv_weight,
    grouped,
    residual_skip,
    vector,
)


def conv(weight_shape: tuple[int, ...], map_hw: tuple[int, int] = (8, 8), group: int = 1) -> gs.Node:
    weight = gs.Constant("w", np.ones(weight_shape, np.float32))
    output = gs.Variable("y", np.float32, (1, weight_shape[0], *map_hw))
    return gs.Node("Conv", "c", {"group": group}, [gs.Variable("x", np.float32), weight], [output])


@pytest.mark.parametrize(
    ("outputs", "inputs", "reason"),
    [
        (64, 64, None),
        (16, 16, None),
        (64, 3, None),  # the stem
        (64, 1, None),
        (20, 3, "3 input channels"),  # a stem whose outputs are no multiple of 8
        (3, 3, "3 input channels"),  # normalisation
        (64, 8, "8 input channels"),
        (1, 256, "1 output channels"),
    ],
)
def test_channels(outputs: int, inputs: int, reason: str | None) -> None:
    found = channels.check(conv((outputs, inputs, 3, 3)))
    assert found is None if reason is None else reason in str(found)


def test_grouped() -> None:
    assert grouped.check(conv((16, 1, 3, 3), group=16)) == "grouped convolution (16 groups)"
    assert grouped.check(conv((16, 16, 3, 3))) is None


def test_vector() -> None:
    assert vector.check(conv((16, 16, 1, 1), (1, 1))) is not None
    assert vector.check(conv((16, 16, 1, 1), (1, 2))) is None


def test_constant_weight() -> None:
    node, other = conv((16, 16, 3, 3)), conv((16, 16, 3, 3))
    assert constant_weight.check(node) is None
    other.inputs[1] = node.inputs[1]
    assert "shared by 2 nodes" in str(constant_weight.check(node))
    other.inputs[1] = gs.Variable("computed", np.float32)
    assert "computed" in str(constant_weight.check(other))


def test_conv_weight_is_within_half_a_step_per_channel() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([1, 10, 1e-3, 0, 1, 1e-20])
    weight = (rng.normal(0, 1, (6, 4, 3, 3)) * sizes[:, None, None, None]).astype(np.float32)
    values, scale = conv_weight.quantise_weight(weight)
    assert values.dtype == np.int8
    assert scale.dtype == np.float32
    assert scale.shape == (6,)
    step = scale[:, None, None, None]
    assert np.all(np.abs(values * step - weight) <= step / 2 * 1.0001)
    # all of the range, never -128
    assert np.all(np.abs(values.reshape(6, -1)).max(axis=1) == [127, 127, 127, 0, 127, 0])
    assert np.all(scale > 0)


def test_conv_weight_rewrite_keeps_name_and_bias(model: onnx.ModelProto) -> None:
    graph = read_graph(model)
    node = next(node for node in graph.nodes if node.name == "block.conv1")
    before, bias = node.inputs[1].values, node.inputs[2]
    dequantise = conv_weight.rewrite(node)
    stored, scale, zero = dequantise.inputs
    assert stored.name == "block.conv1.weight"
    assert stored.values.dtype == np.int8
    assert dequantise.attrs["axis"] == 0
    assert not zero.values.any()
    assert node.inputs[1] is dequantise.outputs[0]
    assert node.inputs[2] is bias
    assert np.allclose(stored.values * scale.values[:, None, None, None], before, atol=scale.values.max() / 2)


def test_conv_input_is_the_activation_of_every_planned_convolution(model: onnx.ModelProto) -> None:
    sites = conv_input.sites(read_graph(model), frozenset({"down.conv1", "down.skip"}))
    assert [(site.node.name, site.index) for site in sites] == [("down.conv1", 0), ("down.skip", 0)]
    assert len({site.tensor.name for site in sites}) == 1  # one tensor, so one pair


def skips(model: onnx.ModelProto, *quantised: str) -> dict[str, str]:
    sites = residual_skip.sites(read_graph(model), frozenset(quantised or Plan.of(model).quantised))
    return {site.node.name: site.tensor.name for site in sites}


def test_residual_skip_is_the_identity_or_the_shorter_path(model: onnx.ModelProto) -> None:
    # head.add sums two float tensors of different shape and is no residual
    assert skips(model) == {"block.add": "pool.out", "down.add": "down.skip.out"}


def test_residual_skip_follows_the_plan(model: onnx.ModelProto) -> None:
    assert skips(model, "up") == {}
    assert skips(model, "down.conv2") == {"down.add": "down.skip.out"}
    assert skips(model, "down.skip") == {"down.add": "down.conv2.out"}
