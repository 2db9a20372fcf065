from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from segrd_edge.calibration.plan import Plan, read_choices
from segrd_edge.errors import OptionError


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


def test_a_plan_goes_to_json_and_back(model: onnx.ModelProto, tmp_path: Path) -> None:
    everything = Plan.of(model)
    plan = everything.only("head.", "down.", reason="too far")
    choices = plan.to_dict()
    assert choices["head.fuse"] == "int8"
    assert choices["stem"] == {"float": "too far"}
    assert choices["head.out"] == {"float": "1 output channels, fewer than 16"}
    plan.write(tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text()) == choices
    assert '\n  "head.fuse": "int8",\n' in (tmp_path / "plan.json").read_text()  # a line to edit
    assert everything.edited(read_choices(tmp_path / "plan.json")) == plan


def test_an_edit_by_hand(model: onnx.ModelProto) -> None:
    everything = Plan.of(model)
    plan = everything.edited({**everything.to_dict(), "up": {"float": "I do not trust it"}})
    assert set(everything.quantised) - set(plan.quantised) == {"up"}
    assert plan.left_float["up"] == "I do not trust it"


def test_two_terms_and_float_skips_go_to_json_and_back(model: onnx.ModelProto) -> None:
    everything = Plan.of(model)
    plan = everything.only("block.", "up", reason="too far").with_float_skips().in_two_terms({"up": "fine"})
    choices = plan.to_dict()
    assert next(iter(choices.items())) == ("skips", "float")
    assert choices["up"] == {"two-term": "fine"}
    assert everything.edited(choices) == plan
    assert everything.to_dict()["skips"] == "int8"
    float_again = plan.without_two_terms()
    assert float_again.quantised == ("block.conv1", "block.conv2")
    assert float_again.left_float["up"] == "fine"
    assert float_again.two_term == {}
    assert float_again.float_skips


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"head.fused": "int8"}, "does not have: 1, the first head.fused\nexpected: .* such as head.fuse"),
        ({"stem": "int4"}, "has 'int4' for stem"),
        ({"stem": {"float": "", "int8": ""}}, 'for stem\nexpected: "int8", {"two-term": "why"} or'),
        ({"head.out": {"two-term": ""}}, "head.out in INT8, which cannot be: 1 output channels, fewer than 16"),
        ({"scales": "median"}, "has 'median' for the scales\nexpected: \"percentile\" or"),
        ({"skips": "two-term"}, 'has \'two-term\' for the skips\nexpected: "int8" or "float"'),
        ({"head.out": "int8"}, "head.out in INT8, which cannot be: 1 output channels, fewer than 16"),
        ({"stem": None}, "has None for stem"),
    ],
)
def test_edits_that_cannot_be(model: onnx.ModelProto, edit: dict[str, Any], message: str) -> None:
    everything = Plan.of(model)
    with pytest.raises(OptionError, match=message):
        everything.edited({**everything.to_dict(), **edit})


def test_a_plan_of_another_network_or_half_a_plan(model: onnx.ModelProto) -> None:
    everything = Plan.of(model)
    choices = everything.to_dict()
    del choices["stem"], choices["up"]
    with pytest.raises(OptionError, match="says nothing of stem, up\nexpected"):
        everything.edited(choices)
    with pytest.raises(
        OptionError, match=r"says nothing of block\.conv1, block\.conv2, deploy\.normalise, down\.conv1 and 9"
    ):
        everything.edited({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "holds a list"),
        ('{"stem": "int4"}', "has 'int4' for stem"),
        ('{"stem": "int8", "skips": {"float": ""}}', "has {'float': ''} for the skips"),
        ('{"stem": "int8", "scales": "auto"}', "has 'auto' for the scales"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(OptionError, match=f"plan.json {message}"):
        read_choices(tmp_path / "plan.json")
    with pytest.raises(OptionError, match="cannot be read"):
        read_choices(tmp_path / "elsewhere.json")
    (tmp_path / "plan.json").write_text('{"stem": {"float": "I do not trust it"}, "up": "int8", "stem": "int8"}')
    with pytest.raises(OptionError, match="names stem twice"):
        read_choices(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match="cannot be read"):
        read_choices(tmp_path / "plan.json")
