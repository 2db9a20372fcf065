from __future__ import annotations

import onnx
import pytest

from segrd_edge.calibration.blocks import block_of, blocks_of, int8_share
from segrd_edge.calibration.graph import multiply_accumulates
from segrd_edge.calibration.plan import Plan


@pytest.mark.parametrize(
    ("node", "block"),
    [
        ("teacher.conv1", "teacher.conv1"),
        ("teacher.layer1.0.conv1", "teacher.layer1.0"),
        ("student.decoder.stage3.0.downsample.0", "student.decoder.stage3.0"),
        ("student.decoder.stage3.0.upsample.0.conv", "student.decoder.stage3.0"),
        ("head.aspp.dilated.2.0", "head.aspp.dilated"),
        ("head.aspp.fusion.0", "head.aspp.fusion"),
        ("head.out.0.0", "head.out"),
        ("head.out.1", "head.out"),
        ("stem", "stem"),
        ("0", "0"),
        ("0.0", "0"),
    ],
)
def test_names(node: str, block: str) -> None:
    assert block_of(node) == block


def test_blocks_hold_what_the_plan_quantises_and_its_work(model: onnx.ModelProto) -> None:
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for node in renamed.graph.node:
        node.name = node.name.replace("block.", "student.layer1.0.").replace("down.", "student.layer1.1.")
    plan = Plan.of(renamed)
    blocks = {block.name: block for block in blocks_of(renamed, plan)}
    assert list(blocks) == ["stem", "student.layer1.0", "student.layer1.1", "up", "head.fuse"]
    assert blocks["student.layer1.0"].nodes == ("student.layer1.0.conv1", "student.layer1.0.conv2")
    assert blocks["stem"].macs == 32 * 48 * 16 * 3 * 9  # by hand: output pixels × outputs × inputs × kernel
    assert blocks["student.layer1.0"].macs == 2 * 16 * 24 * 16 * 16 * 9
    total = sum(multiply_accumulates(renamed).values())
    assert int8_share(renamed, plan) == sum(block.macs for block in blocks.values()) / total
    assert int8_share(renamed, plan.only("stem")) == blocks["stem"].macs / total
