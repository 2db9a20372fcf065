from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest

from segrd_edge.calibration.check import violations
from segrd_edge.calibration.drift import measure_drift
from segrd_edge.calibration.graph import expose, read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges, observe, to_ranges
from segrd_edge.calibration.rules.conv_weight import quantise_weight
from segrd_edge.calibration.session import run_engine, run_graph
from segrd_edge.errors import OptionError


@pytest.fixture(scope="module")
def ranges(model: onnx.ModelProto, images: list[np.ndarray]) -> Ranges:
    return to_ranges(observe(model, tensors_to_calibrate(model, Plan.of(model)), images).histograms, "max")


@pytest.fixture(scope="module")
def int8(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    return quantise(model, ranges, Plan.of(model))


def test_one_pair_per_tensor_and_nothing_where_no_rule_asks(model: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    graph = read_graph(int8)
    quantised = [node.inputs[0].name for node in graph.nodes if node.op == "QuantizeLinear"]
    assert sorted(quantised) == sorted(tensors_to_calibrate(model, Plan.of(model)))
    assert len(set(quantised)) == len(quantised)
    readers = {reader.op for node in graph.nodes if node.op == "DequantizeLinear" for reader in node.outputs[0].outputs}
    assert readers == {"Conv", "Add"}
    pair = next(node for node in graph.nodes if node.name == "pool.out.dequantise")
    assert sorted(reader.name for reader in pair.outputs[0].outputs) == ["block.add", "block.conv1"]


def test_float_weights_are_gone_and_biases_stay(model: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    stored = {tensor.name: tensor.data_type for tensor in int8.graph.initializer}
    for name in Plan.of(model).quantised:
        assert stored[f"{name}.weight"] == onnx.TensorProto.INT8
        assert stored[f"{name}.bias"] == onnx.TensorProto.FLOAT
    assert stored["head.out.weight"] == onnx.TensorProto.FLOAT
    assert [entry.version for entry in int8.opset_import] == [19]
    assert int8.ir_version == 9


def test_the_float_model_is_not_changed(model: onnx.ModelProto, ranges: Ranges) -> None:
    before = model.SerializeToString(deterministic=True)
    quantise(model, ranges, Plan.of(model))
    assert model.SerializeToString(deterministic=True) == before


def test_first_convolution_is_right_to_half_a_step(
    model: onnx.ModelProto, int8: onnx.ModelProto, ranges: Ranges, images: list[np.ndarray]
) -> None:
    """Against arithmetic done here: the stem's input and weight rounded with NumPy, then convolved in float."""
    name = "deploy.normalise.out"
    scale = np.float32(ranges.largest[name] / 127)
    (x, wanted), (got,) = (
        next(run_graph(expose(graph, tensors), tensors, images[:1]))
        for graph, tensors in ((model, [name, "stem.out"]), (int8, [f"{name}.dequantised"]))
    )
    assert np.allclose(got, np.clip(np.rint(x / scale), -128, 127) * scale, atol=1e-6)
    (stem,) = next(run_graph(expose(int8, ["stem.out"]), ["stem.out"], images[:1]))
    assert np.abs(stem - wanted).max() < 0.05 * np.abs(wanted).max()


def test_int8_stays_near_float_in_both_engines_and_the_engines_agree(
    model: onnx.ModelProto, int8: onnx.ModelProto, images: list[np.ndarray]
) -> None:
    # Measured: scores 0.003 and maps 0.996 (cosine) from float; rounding ties fall differently between engines.
    reference = list(run_engine("onnxruntime", model, images))
    ort, ov = (list(run_engine(name, int8, images)) for name in ("onnxruntime", "openvino"))
    for outputs in (ort, ov):
        drift = measure_drift(reference, outputs)
        assert drift.score_max < 0.02
        assert drift.map_cosine_min > 0.98
    between = measure_drift(ort, ov)
    assert between.score_max < 0.02
    assert between.map_cosine_min > 0.98
    assert measure_drift(reference, ort).map_max > 0  # it really is another graph


def weights_rounded(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The float model with these convolutions' weights as INT8 has them."""
    graph = read_graph(model)
    for node in graph.nodes:
        if node.name in names:
            values, scale = quantise_weight(node.inputs[1].values)
            node.inputs[1].values = values * scale.reshape(-1, 1, 1, 1)
    return write_graph(graph)


def test_two_terms_are_one_convolution_of_a_finer_input(
    model: onnx.ModelProto, ranges: Ranges, images: list[np.ndarray]
) -> None:
    """Against arithmetic done here: the sum of both terms is the input to 1/508 of a step, and nothing is clipped."""
    everything = Plan.of(model)
    plan = everything.only("block.").with_float_skips().in_two_terms({"block.conv1": "", "block.conv2": ""})
    clipped = Ranges(dict.fromkeys(ranges.largest, 0.01), "max", reach=ranges.largest)
    graph = quantise(model, clipped, plan)
    assert violations(graph) == []
    x, high, low = next(
        run_graph(
            expose(graph, names := ["pool.out", "pool.out.dequantised", "pool.out.low.dequantised"]), names, images
        )
    )
    step = ranges.largest["pool.out"] / 127
    assert np.abs(x - high).max() <= 0.501 * step
    assert np.abs(x - high - low).max() <= 0.502 * step / 254
    assert np.abs(low).max() > 0.4 * step  # there is something left over
    weights = weights_rounded(model, plan.quantised)
    for engine in ("onnxruntime", "openvino"):  # with a finer input, what is left is the rounding of the weights
        wanted = list(run_engine(engine, weights, images))
        assert (
            measure_drift(wanted, list(run_engine(engine, graph, images))).map_max
            < 0.1
            * measure_drift(
                wanted, list(run_engine(engine, quantise(model, ranges, everything.only("block.")), images))
            ).map_max
        )


def test_convolutions_in_two_terms_share_what_is_left_over(model: onnx.ModelProto, ranges: Ranges) -> None:
    both = replace(ranges, reach=ranges.largest)
    everything = Plan.of(model).with_float_skips()
    shared = {"down.conv1": "", "down.skip": ""}  # both read what block gives
    for reasons in (shared, {"down.skip": ""}):
        graph = quantise(model, both, everything.in_two_terms(reasons))
        assert violations(graph) == []
        nodes = read_graph(graph).nodes
        assert sum(node.op == "Sub" for node in nodes) == 1
        assert {node.name for node in nodes if node.name.endswith(".low")} == {f"{name}.low" for name in reasons}


def test_skips_in_float(model: onnx.ModelProto, ranges: Ranges) -> None:
    graph = read_graph(quantise(model, ranges, Plan.of(model).with_float_skips()))
    sums = [node for node in graph.nodes if node.name in ("block.add", "down.add")]
    assert len(sums) == 2
    assert all(tensor.inputs[0].op != "DequantizeLinear" for node in sums for tensor in node.inputs)


def test_a_scale_for_a_tensor_that_was_always_zero(model: onnx.ModelProto, ranges: Ranges) -> None:
    silent = Ranges({**ranges.largest, "pool.out": 0.0}, "max")
    assert violations(quantise(model, silent, Plan.of(model))) == []


def test_errors(model: onnx.ModelProto, ranges: Ranges) -> None:
    with pytest.raises(OptionError, match=r"no range for deploy\.normalise\.out"):
        quantise(model, Ranges({}, "max"), Plan.of(model))
    with pytest.raises(OptionError, match=r"the plan names nodes that the graph does not have: elsewhere"):
        quantise(model, ranges, Plan(("elsewhere",), {}))
    with pytest.raises(OptionError, match=r"no range for deploy\.normalise\.out"):
        quantise(model, ranges, Plan.of(model).in_two_terms({"stem": ""}))  # whose reach nobody has looked at
