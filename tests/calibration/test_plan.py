from __future__ import annotations

import onnx

from segrd_edge.calibration.plan import Plan


def test_everything_that_the_rules_allow(model: onnx.ModelProto) -> None:
    plan = Plan.of(model)
    assert set(plan.quantised) == {
        "stem", "block.conv1", "block.conv2", "down.conv1", "down.conv2", "down.skip", "up", "head.fuse",
    }  # fmt: skip
    assert plan.left_float == {
        "deploy.normalise": "3 input channels, fewer than 16",
        "head.pooled": "matrix-vector product: its map is 1×1",
        "head.depthwise": "grouped convolution (16 groups)",
        "head.out": "1 output channels, fewer than 16",
    }


def test_only_narrows_and_says_why(model: onnx.ModelProto) -> None:
    plan = Plan.of(model)
    head = plan.only("head.")
    assert head.quantised == ("head.fuse",)
    assert head.left_float["stem"] == "only head. is quantised"
    assert head.left_float["head.out"] == plan.left_float["head.out"]
    assert set(head.quantised) | set(head.left_float) == set(plan.quantised) | set(plan.left_float)
