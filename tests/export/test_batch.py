"""A graph for n items gives what the graph for one item gives, n times, and differs from it in shapes alone."""

# ruff: noqa: F401, F811 (fixtures are imported, and are arguments)

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from segrd_edge.calibration.check import violations
from segrd_edge.calibration.graph import OPSET, read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import observe, to_ranges
from segrd_edge.engines import create
from segrd_edge.errors import ExportError, OptionError
from segrd_edge.export.batch import with_batch
from segrd_edge.export.fp16 import to_fp16
from segrd_edge.export.fp16_plan import Fp16Plan

from .fp16_graphs import Images, destseg_deploy, destseg_largest, frames, plan_of, small, small_images, small_int8


def graph_of(precision: str, request: pytest.FixtureRequest) -> onnx.ModelProto:
    """The small graph, which has a Resize with sizes and a Reshape, in every precision."""
    frames: Images = request.getfixturevalue("frames")
    model: onnx.ModelProto = request.getfixturevalue("small_int8" if precision in ("int8", "mixed") else "small")
    return to_fp16(model, plan_of(model, frames)) if precision in ("fp16", "mixed") else model


# Measured: 0 for INT8, as every run of ONNX Runtime's INT8 kernels is exact; sums in another order move the others.
TOLERANCE = {"fp32": 1e-5, "int8": 1e-5, "fp16": 2e-3, "mixed": 2e-3}


@pytest.mark.parametrize("precision", TOLERANCE)
def test_every_item_gives_what_it_gives_alone(precision: str, request: pytest.FixtureRequest, frames: Images) -> None:
    model = graph_of(precision, request)
    one, three = (create("onnxruntime", g.SerializeToString()) for g in (model, with_batch(model, 3)))
    assert three.batch == 3
    images = frames[:3]
    alone = [(output.score, output.anomaly_map.copy()) for output in map(one.run, images)]
    together = three.run_batch(images)
    for (score, anomaly_map), output in zip(alone, together, strict=True):
        assert output.score == pytest.approx(score, abs=TOLERANCE[precision])
        np.testing.assert_allclose(output.anomaly_map, anomaly_map, atol=TOLERANCE[precision])
    assert len({round(score, 3) for score, _ in alone}) == 3  # three items that can be told apart


@pytest.mark.parametrize("precision", TOLERANCE)
def test_only_shapes_change(precision: str, request: pytest.FixtureRequest) -> None:
    model = graph_of(precision, request)
    before = model.SerializeToString()
    one, two = read_graph(model), read_graph(with_batch(model, 2))
    assert model.SerializeToString() == before
    assert [(n.name, n.op, n.attrs) for n in one.nodes] == [(n.name, n.op, n.attrs) for n in two.nodes]
    for a, b in zip(one.nodes, two.nodes, strict=True):
        floats = [
            [t.values for t in node.inputs if isinstance(t, gs.Constant) and t.dtype != np.int64] for node in (a, b)
        ]
        for wanted, got in zip(*floats, strict=True):  # weights, and the scales of Q and DQ
            np.testing.assert_array_equal(wanted, got)
            assert wanted.dtype == got.dtype
    assert violations(with_batch(model, 2)) == []


def test_plans_and_scales_are_those_of_one_item(small: onnx.ModelProto, frames: Images) -> None:
    plan = Plan.of(small)
    assert Plan.of(with_batch(small, 4)) == plan
    observed = observe(small, tensors_to_calibrate(small, plan), frames[:2])
    first_batch, first_int8 = (
        quantise(with_batch(small, 4), to_ranges(observed.histograms, "max"), plan),
        with_batch(quantise(small, to_ranges(observed.histograms, "max"), plan), 4),
    )
    assert scales(first_batch) == scales(first_int8)
    assert len(scales(first_int8)) > 10


def scales(model: onnx.ModelProto) -> dict[str, bytes]:
    return {t.name: t.raw_data for t in model.graph.initializer if t.name.endswith(".scale")}


def test_destseg_as_exported_with_two_images(
    destseg_deploy: onnx.ModelProto, destseg_largest: dict[str, float], images: Images
) -> None:
    half = to_fp16(destseg_deploy, Fp16Plan.of(destseg_deploy, destseg_largest))
    two = with_batch(half, 2)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in two.graph.value_info}
    assert shapes["raw"] == [2, 1, 16, 24]
    one, both = (create("onnxruntime", g.SerializeToString()) for g in (half, two))
    wanted = [one.run(image).score for image in images[:2]]
    assert [o.score for o in both.run_batch(images[:2])] == pytest.approx(wanted, abs=5e-3)  # scores reach 1


def reshaped(shape: list[int]) -> onnx.ModelProto:
    """image → Cast → Reshape → Reshape back → Cast."""
    image, result = gs.Variable("image", np.uint8, (1, 4, 6, 3)), gs.Variable("result", np.float32, (1, 4, 6, 3))
    pixels, folded = gs.Variable("pixels", np.float32), gs.Variable("folded", np.float32)
    nodes = [
        gs.Node("Cast", "cast", {"to": onnx.TensorProto.FLOAT}, [image], [pixels]),
        gs.Node("Reshape", "fold", {}, [pixels, gs.Constant("fold.1", np.array(shape))], [folded]),
        gs.Node("Reshape", "unfold", {}, [folded, gs.Constant("unfold.1", np.array([1, 4, 6, 3]))], [result]),
    ]
    return write_graph(gs.Graph(nodes, [image], [result], opset=OPSET))


@pytest.mark.parametrize("shape", [[1, 24, 3], [1, -1], [-1, 72], [0, 24, 3], [24, 3], [2, 2, 6, 3], [-1, 6, 3]])
def test_reshapes_follow_also_where_they_fold_axes_into_the_first(shape: list[int]) -> None:
    one, five = reshaped(shape), with_batch(reshaped(shape), 5)
    first = read_graph(one).tensors()["folded"].shape[0]
    assert read_graph(five).tensors()["folded"].shape[0] == 5 * first
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    (result,) = onnxruntime.InferenceSession(five.SerializeToString()).run(None, {"image": images})
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("op", ["Transpose", "Concat"])
def test_folded_items_must_stay_in_order(op: str) -> None:
    """Both keep sizes right that no longer hold item after item."""
    graph = read_graph(reshaped([24, 3]))
    folded = graph.tensors()["folded"]
    (unfold,) = folded.outputs
    moved = gs.Variable("moved", np.float32)
    if op == "Transpose":
        graph.nodes.append(gs.Node(op, "move", {"perm": [1, 0]}, [folded], [moved]))
    else:
        graph.nodes.append(gs.Node(op, "move", {"axis": -2}, [folded, folded], [moved]))
        unfold.inputs[1] = gs.Constant("unfold.2", np.array([1, 8, 6, 3]))
        graph.outputs[0].shape = [1, 8, 6, 3]
    unfold.inputs[0] = moved
    with pytest.raises(ExportError, match="along its first axis" if op == "Concat" else "cannot take 2 items at once"):
        with_batch(write_graph(graph), 2)


@pytest.mark.parametrize("is_added", [False, True])
def test_a_tensor_that_does_not_follow_is_refused(is_added: bool) -> None:
    """All items get the first one's values: alone, or added to their own, where every later shape is right."""
    graph = read_graph(reshaped([1, 24, 3]))
    pixels = graph.tensors()["pixels"]
    first, values = gs.Variable("first", np.float32), gs.Variable("sum", np.float32)
    zero, one = (gs.Constant(f"slice.{i}", np.array([i])) for i in (0, 1))
    axis = gs.Constant("slice.axis", np.array([0]))
    fold = pixels.outputs[0]
    graph.nodes.append(gs.Node("Slice", "slice", {}, [pixels, zero, one, axis], [first]))
    graph.nodes.append(gs.Node("Add", "add", {}, [pixels if is_added else first, first], [values]))
    fold.inputs[0] = values
    with pytest.raises(ExportError, match="cannot take 2 items at once"):
        with_batch(write_graph(graph), 2)


def test_impossible_batches(small: onnx.ModelProto) -> None:
    with pytest.raises(OptionError, match="a batch of 0"):
        with_batch(small, 0)
    with pytest.raises(ExportError, match=r"image has the shape \[2, 32, 48, 3\]"):
        with_batch(with_batch(small, 2), 4)
