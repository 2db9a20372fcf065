from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from segrd_edge.calibration import calibrate as station
from segrd_edge.calibration.blocks import int8_share
from segrd_edge.calibration.budget import Budget
from segrd_edge.calibration.calibrate import Calibration, calibrate, within
from segrd_edge.calibration.drift import Drift
from segrd_edge.calibration.frames import CalibrationFrame
from segrd_edge.calibration.graph import read_graph, write_graph
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.prepare import asked_of
from segrd_edge.calibration.ranges import observe
from segrd_edge.calibration.session import run_engine
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.calibration.trial import Trial
from segrd_edge.errors import OptionError


@pytest.fixture(scope="module")
def frames(images: list[np.ndarray]) -> list[CalibrationFrame]:
    return [CalibrationFrame(image, Path("photo.png"), "0" * 64, "good") for image in images]


NOTHING_PASSES = Budget(score_shift=0, map_cosine=1)
EVERYTHING_PASSES = Budget(score_shift=1, map_cosine=0, pairs_turned=1)


def test_auto_takes_all_where_the_drift_is_small(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    calibration = calibrate(model, frames, Int8Settings(budget=EVERYTHING_PASSES))
    assert calibration.scope == "all"
    assert list(calibration.trials) == ["all"]
    assert calibration.plan.quantised == Plan.of(model).quantised
    assert calibration.is_safe
    assert calibration.sensitivity == []  # nothing was searched
    assert calibration.int8_share == int8_share(model, calibration.plan)
    assert calibration.prepared.equalised == ["concat.out"]
    share = f"{calibration.int8_share:.0%} of the multiply-accumulates in INT8"
    assert calibration.decision.startswith(f"scope all, {share} (all: mean |Δscore| 0.0")


def test_one_pass_serves_float16_too(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    calibration = calibrate(model, frames, Int8Settings(method="percentile", percentile=99), also=["stem.out"])
    assert "stem.out" not in calibration.ranges.largest  # it gets no scale
    images = [frame.image_bgr_u8 for frame in frames]
    assert calibration.prepared.largest["stem.out"] == observe(model, [], images, also=["stem.out"]).largest["stem.out"]
    clipped = calibration.ranges.largest["block.conv1.relu.out"]
    assert calibration.prepared.largest["block.conv1.relu.out"] > clipped  # float16 need not clip
    assert calibration.prepared.largest["concat.out.equalised"] == calibration.ranges.largest["concat.out.equalised"]
    outputs = list(run_engine("onnxruntime", model, images))
    assert [output.score for output in calibration.reference] == pytest.approx([o.score for o in outputs], abs=1e-6)


@pytest.mark.parametrize(("score", "cosine"), [(1e-9, 0), (1, 1)])
def test_auto_falls_back_to_the_head_and_records_why(
    model: onnx.ModelProto, frames: list[CalibrationFrame], score: float, cosine: float
) -> None:
    calibration = calibrate(model, frames, Int8Settings(budget=Budget(score_shift=score, map_cosine=cosine)))
    assert calibration.scope == "head"
    assert list(calibration.trials) == ["all", "float-skips", "head"]
    assert calibration.drift is calibration.trials["head"]
    assert not calibration.is_safe
    assert calibration.decision.endswith("fp32 stays the default")
    assert calibration.plan.quantised == ("head.fuse",)
    assert f"all: {calibration.trials['all']}" in calibration.plan.left_float["stem"]
    blocks = {found.block.name for found in calibration.sensitivity}  # the search found nothing better
    assert blocks == {"stem", "block.conv1", "block.conv2", "down.conv1", "down.conv2", "down.skip", "up", "head.fuse"}


def test_the_ladder_goes_from_everything_to_the_head_in_steps(
    model: onnx.ModelProto, frames: list[CalibrationFrame]
) -> None:
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for node in renamed.graph.node:
        node.name = node.name.replace("block.", "student.encoder.").replace("down.conv1", "student.decoder.stage4.0")
        node.name = node.name.replace("down.", "student.decoder.stage1.")
    calibration = calibrate(renamed, frames, Int8Settings(budget=NOTHING_PASSES))
    assert list(calibration.trials) == ["all", "float-skips", "no-fine", "no-decoder", "head"]
    coarse = calibrate(renamed, frames, Int8Settings(scope="no-fine")).plan
    assert set(coarse.quantised) == {
        "student.encoder.conv1", "student.encoder.conv2", "student.decoder.stage4.0", "head.fuse",
    }  # fmt: skip
    encoder = calibrate(renamed, frames, Int8Settings(scope="encoder")).plan
    assert set(encoder.quantised) == {"student.encoder.conv1", "student.encoder.conv2"}
    without = calibrate(renamed, frames, Int8Settings(scope="no-decoder")).plan
    assert set(without.quantised) == {"student.encoder.conv1", "student.encoder.conv2", "head.fuse"}


def test_without_a_head_the_ladder_ends_at_the_encoder(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for node in renamed.graph.node:
        node.name = node.name.replace("stem", "teacher.conv1").replace("block.", "student.encoder.")
        node.name = node.name.replace("down.", "student.decoder.stage3.").replace("head.", "student.decoder.stage1.")
    calibration = calibrate(renamed, frames, Int8Settings(budget=NOTHING_PASSES))
    assert list(calibration.trials) == ["all", "float-skips", "no-fine", "no-decoder", "encoder"]
    assert set(calibration.plan.quantised) == {"student.encoder.conv1", "student.encoder.conv2"}


def test_each_block_is_measured_where_that_is_asked_for(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    """Whatever the plan has in INT8, so that somebody who edits it knows all of them."""
    everything = Plan.of(model)
    passes = Int8Settings(budget=EVERYTHING_PASSES, each_block=True)
    for settings in (passes, Int8Settings(plan=everything.only("head.").to_dict(), each_block=True)):
        found = calibrate(model, frames, settings).sensitivity
        assert {node for block in found for node in block.block.nodes} == set(everything.quantised)
        assert all(block.drift.score_mean > 0 and block.two_term is None for block in found)


def test_a_named_scope_is_taken_whatever_its_drift(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    everything = calibrate(model, frames, Int8Settings(scope="all", budget=NOTHING_PASSES))
    assert (everything.scope, everything.sensitivity) == ("all", [])
    head = calibrate(model, frames, Int8Settings(scope="head", budget=NOTHING_PASSES))
    assert list(head.trials) == ["head"]
    assert head.plan.left_float["stem"] == "scope head: only head. is quantised"
    float_skips = calibrate(model, frames, Int8Settings(scope="float-skips", budget=NOTHING_PASSES))
    assert float_skips.plan == everything.plan.with_float_skips()
    assert float_skips.drift != everything.drift


def test_without_residual_blocks_there_are_no_skips_to_leave_out(
    model: onnx.ModelProto, frames: list[CalibrationFrame]
) -> None:
    graph = read_graph(model)
    for node in graph.nodes:
        if node.op == "Add":
            node.op = "Max"
    plain = calibrate(write_graph(graph), frames, Int8Settings(budget=NOTHING_PASSES))
    assert list(plain.trials) == ["all", "head"]


def test_the_head_is_not_clipped(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for node in renamed.graph.node:
        node.name = node.name.replace("down.conv", "head.conv")
    seen, clipped = (
        calibrate(renamed, frames, Int8Settings(scope="all", method=method, percentile=90)).ranges  # type: ignore[arg-type]
        for method in ("max", "percentile")
    )
    assert clipped.largest["block.add.relu.out"] == seen.largest["block.add.relu.out"]  # head.conv1 reads it
    assert clipped.largest["pool.out"] < seen.largest["pool.out"]
    assert clipped.reach == seen.reach


def test_method_and_percentile_are_passed_on(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    wide, narrow = (
        calibrate(model, frames, Int8Settings(scope="all", method=method, percentile=90)).ranges  # type: ignore[arg-type]
        for method in ("max", "percentile")
    )
    assert (narrow.method, narrow.percentile) == ("percentile", 90)
    clipped = {name for name in wide.largest if narrow.largest[name] < wide.largest[name]}
    assert set(wide.largest) - clipped == {"concat.out.equalised"}  # never clipped


def test_the_method_is_what_serves_everything_in_int8_best(
    model: onnx.ModelProto, frames: list[CalibrationFrame]
) -> None:
    """A percentile that clips two fifths of the values is the worse of the two; whatever part is then quantised."""
    said: list[str] = []
    auto = Int8Settings(scope="all", percentile=60)
    calibration = calibrate(model, frames, auto, said=said.append)
    trials = calibration.prepared.method_trials
    best = calibration.ranges.method
    assert list(trials) == ["percentile", "mse"]
    assert best == min(trials, key=lambda method: Budget().noise(trials[method])) != "percentile"
    assert said[0].startswith(
        f"scales by {best}: with everything in INT8, mean |Δscore| and mean map cosine are percentile 0."
    )
    laid_down = calibrate(model, frames, replace(auto, method=best))  # type: ignore[arg-type]
    assert laid_down.model.SerializeToString() == calibration.model.SerializeToString()
    head = calibrate(model, frames, replace(auto, scope="head"))
    assert (head.prepared.method_trials, head.ranges.method) == (trials, best)
    strict = calibrate(model, frames, replace(auto, budget=Budget(score_shift=1e-5, map_cosine=0.1)))
    assert (strict.prepared.method_trials, strict.ranges.method) == (trials, best)  # limits do not choose


def test_a_plan_brings_its_way_to_find_scales(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    """So that it gives the same graph wherever it is replayed, unless another way is asked for."""
    worst = calibrate(model, frames, Int8Settings(scope="all", method="percentile", percentile=60))
    choices = worst.plan.to_dict()
    assert choices["scales"] == "percentile"
    replay = Int8Settings(plan=choices, percentile=60, budget=EVERYTHING_PASSES)
    replayed = calibrate(model, frames, replay)
    assert (replayed.model.SerializeToString(), replayed.prepared.method_trials) == (
        worst.model.SerializeToString(),
        {},
    )
    assert calibrate(model, frames, replace(replay, method="max")).ranges.method == "max"
    without = {name: choice for name, choice in choices.items() if name != "scales"}
    chosen = calibrate(model, frames, replace(replay, plan=without))
    assert chosen.ranges.method != "percentile"
    assert len(chosen.prepared.method_trials) == 2


def test_scopes_that_cannot_work(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    with pytest.raises(OptionError, match="unknown INT8 scope 'some'"):
        calibrate(model, frames, Int8Settings(scope="some"))  # type: ignore[arg-type]
    headless = onnx.ModelProto()
    headless.CopyFrom(model)
    for node in headless.graph.node:
        node.name = node.name.replace("head.", "tail.")
    with pytest.raises(OptionError, match="'head' leaves no convolution to quantise"):
        calibrate(headless, frames, Int8Settings(scope="head"))
    assert calibrate(headless, frames[:2]).scope == "all"


def spoilt(model: onnx.ModelProto, convolution: str) -> onnx.ModelProto:
    """The same function with an input channel of a convolution a thousand times as loud: INT8 rounds the others off."""
    graph = read_graph(model)
    conv = next(node for node in graph.nodes if node.name == convolution)
    channels = conv.inputs[0].shape[1]
    factors = np.ones((1, channels, 1, 1), np.float32)
    factors[0, 0] = 1000
    loud = gs.Variable("loud", np.float32, conv.inputs[0].shape)
    constant = gs.Constant("loud.factors", factors)
    graph.nodes.append(gs.Node("Mul", "loud.multiply", inputs=[conv.inputs[0], constant], outputs=[loud]))
    conv.inputs[0] = loud
    conv.inputs[1] = gs.Constant(conv.inputs[1].name, conv.inputs[1].values / factors)
    return write_graph(graph)


def test_the_search_leaves_out_the_block_that_int8_destroys(
    model: onnx.ModelProto, frames: list[CalibrationFrame]
) -> None:
    broken = spoilt(model, "head.fuse")  # even the last rung of the ladder
    lines: list[str] = []
    calibration = calibrate(
        broken, frames, Int8Settings(method="max", budget=Budget(score_shift=0.02)), said=lines.append
    )
    assert list(calibration.trials) == ["all", "float-skips", "head", "search"]
    assert calibration.scope == "search"
    assert calibration.is_safe
    assert "head.fuse" not in calibration.plan.quantised
    assert set(calibration.plan.quantised) >= {"block.conv1", "down.conv2"}
    worst = max(calibration.sensitivity, key=lambda found: found.drift.score_mean)
    assert worst.block.name == "head.fuse"
    reason = calibration.plan.left_float["head.fuse"]
    assert worst.two_term is not None  # near, and not near enough
    assert reason.startswith(f"head.fuse alone in INT8: {worst.drift}, in two terms {worst.two_term}; left out to keep")
    assert lines[0] == (
        f"all: {calibration.trials['all']}; float-skips: {calibration.trials['float-skips']}; "
        f"head: {calibration.trials['head']}; searching, beginning with 8 blocks one by one in INT8"
    )
    assert lines[-1] == f"7 of 8 blocks in INT8: {calibration.trials['search']}"


def given(model: onnx.ModelProto, frames: list[CalibrationFrame], *float_nodes: str) -> Calibration:
    choices = Plan.of(model).to_dict()
    return calibrate(
        model, frames, Int8Settings(plan={**choices, **{name: {"float": "by hand"} for name in float_nodes}})
    )


def test_a_plan_that_is_given_is_taken(model: onnx.ModelProto, frames: list[CalibrationFrame]) -> None:
    """Also one that splits a residual sum, whose skip is then the other side."""
    calibration = given(model, frames, "down.conv2", "stem")
    assert (calibration.scope, list(calibration.trials)) == ("plan", ["plan"])
    assert set(calibration.plan.quantised) == set(Plan.of(model).quantised) - {"down.conv2", "stem"}
    assert calibration.plan.left_float["stem"] == "by hand"
    again = calibrate(model, frames, Int8Settings(plan=calibration.plan.to_dict()))
    assert again.model.SerializeToString() == calibration.model.SerializeToString()
    with pytest.raises(OptionError, match="leaves every convolution in float"):
        given(model, frames, *Plan.of(model).quantised)


@pytest.mark.parametrize(("limit", "scope"), [(1e-3, "all"), (2e-4, "search"), (2e-5, "head")])
def test_a_plan_that_is_given_back_gives_the_same_graph(
    model: onnx.ModelProto, frames: list[CalibrationFrame], limit: float, scope: str
) -> None:
    """Whether all was rounded on the way to it or not; and so the same drift, and the same verdict on it."""
    budget = Budget(score_shift=limit)
    found = calibrate(model, frames, Int8Settings(budget=budget))
    assert found.scope == scope
    if scope == "search":  # in all three ways
        assert set(found.plan.two_term) < set(found.plan.quantised) < set(Plan.of(model).quantised)
    again = calibrate(model, frames, Int8Settings(plan=found.plan.to_dict(), budget=budget))
    assert again.model.SerializeToString(deterministic=True) == found.model.SerializeToString(deterministic=True)
    assert (again.drift, again.is_safe) == (found.drift, found.is_safe)


def test_other_limits_give_what_they_would_have_given_at_first(
    model: onnx.ModelProto, frames: list[CalibrationFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of it is tried, observed or rounded twice."""
    tried: list[tuple[int, Plan]] = []
    run = Trial._run

    def counted(trial: Trial, plan: Plan) -> Drift:
        tried.append(
            (len(trial.images_bgr_u8), replace(plan, left_float={}, two_term=dict.fromkeys(plan.two_term, "")))
        )
        return run(trial, plan)

    monkeypatch.setattr(Trial, "_run", counted)
    loose, strict = Budget(score_shift=1e-3), Budget(score_shift=2e-4)
    first = calibrate(model, frames, Int8Settings(budget=loose, each_block=True), compare_methods=True)
    before = len(tried)
    second = within(first.prepared, strict, compare_methods=True)
    assert (first.scope, second.scope) == ("all", "search")
    assert [both for both in tried[before:] if both in tried[:before]] == []
    monkeypatch.undo()
    anew = calibrate(model, frames, Int8Settings(budget=strict, each_block=True), compare_methods=True)
    assert second.model.SerializeToString(deterministic=True) == anew.model.SerializeToString(deterministic=True)
    assert (second.plan, second.budget, second.drift) == (anew.plan, strict, anew.drift)
    assert (second.trials, second.sensitivity, second.by_method) == (anew.trials, anew.sensitivity, anew.by_method)


def test_what_does_not_fit_the_graph_is_refused_by_its_name(model: onnx.ModelProto) -> None:
    everything = Plan.of(model)
    choices, source = everything.to_dict(), "the plan part.plan.json"
    assert asked_of(model, Int8Settings(plan=choices)) == (everything, everything)
    assert asked_of(model, Int8Settings()) == (everything, None)
    none = everything.narrowed((), dict.fromkeys(everything.quantised, "by hand")).to_dict()
    for plan, message in (
        ({**choices, "other": "int8"}, "part.plan.json names layers that this network does not have: 1"),
        ({"skips": "int8"}, "part.plan.json says nothing of block.conv1"),
        ({**choices, "head.out": "int8"}, "part.plan.json has head.out in INT8, which cannot be"),
        (none, "part.plan.json leaves every convolution in float"),
    ):
        with pytest.raises(OptionError, match=message):
            asked_of(model, Int8Settings(plan=plan, plan_source=source))


def test_a_speed_that_is_not_in_reach_leaves_fp32_the_default(
    model: onnx.ModelProto, frames: list[CalibrationFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Estimated first, and measured only where the estimate is enough."""
    monkeypatch.setattr(station, "measure_speedup", lambda *_: pytest.fail("measured"))
    slow = calibrate(model, frames, Int8Settings(scope="head", budget=Budget(1, 0, speedup=3.9)))
    assert (slow.is_safe, slow.is_fast, slow.speedup) == (True, False, None)
    assert "by its work 1." in slow.decision
    assert slow.decision.endswith("and 3.9 is not in reach within the limits, so fp32 stays the default")
    monkeypatch.setattr(station, "measure_speedup", lambda *_: 1.3)
    measured = calibrate(model, frames, Int8Settings(scope="all", budget=Budget(1, 0, speedup=1.5)))
    assert (measured.is_safe, measured.is_fast, measured.speedup) == (True, False, 1.3)
    assert "measured 1.30 times as fast as fp32, and 1.5 is not in reach" in measured.decision
    monkeypatch.setattr(station, "measure_speedup", lambda *_: 1.6)
    assert calibrate(model, frames, Int8Settings(scope="all", budget=Budget(1, 0, speedup=1.5))).is_fast


def test_verdicts_and_defects_count_where_they_are_known(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    masks = [None, None, None, *[np.indices(images[0].shape[:2])[0] < 9] * 3]
    frames = [
        CalibrationFrame(image, Path("photo.png"), "0" * 64, "good" if mask is None else "synthetic", mask)
        for image, mask in zip(images, masks, strict=True)
    ]
    scores = [output.score for output in calibrate(model, frames, Int8Settings(scope="head")).reference]
    drift = calibrate(model, frames, Int8Settings(scope="head"), threshold=float(np.median(scores))).drift
    assert drift.flip_rate in {i / 6 for i in range(7)}
    assert drift.image_auroc_drop is not None
    assert drift.pixel_ap_drop is not None


def test_other_ways_to_find_scales_are_tried_on_the_plan(
    model: onnx.ModelProto, frames: list[CalibrationFrame]
) -> None:
    """Each as if it had been asked for; a clearly better one is named."""
    narrow = Int8Settings(scope="all", method="percentile", percentile=60)
    calibration = calibrate(model, frames, narrow, compare_methods=True)
    assert list(calibration.by_method) == ["percentile", "max", "entropy", "mse"]
    assert calibration.by_method["percentile"] == calibration.drift
    assert calibration.prepared.method_trials == {}  # it was laid down
    in_two_terms = Plan.of(model).with_float_skips().in_two_terms({"stem": "to see"})
    given = calibrate(model, frames, Int8Settings(plan=in_two_terms.to_dict()), compare_methods=True)
    assert (replace(given.plan, scales=None), len(given.by_method)) == (in_two_terms, 4)
    names, beside = ({node.name for node in graph.graph.node} for graph in (given.model, given.beside_float16()))
    assert "stem.low" in names - beside
    assert "stem.weight.dequantise" not in beside
    assert calibration.beside_float16() is calibration.model
    widest = calibrate(model, frames, replace(narrow, method="max"))
    assert list(widest.by_method) == ["max"]  # it was not asked for
    assert calibration.by_method["max"] == widest.drift
    assert calibration.drift.score_mean > widest.drift.score_mean  # it clips two fifths of the values
    assert calibration.better_method in ("max", "entropy", "mse")
    assert replace(calibration, by_method={"max": widest.drift, "mse": widest.drift}).better_method is None
    turning = {method: replace(found, flip_rate=0.5) for method, found in calibration.by_method.items()}
    strict = replace(calibration, by_method=turning, budget=Budget(flip_rate=0.1))
    assert strict.better_method is None  # the others take less of the budget, and turn too many verdicts
