"""Where a frame's time goes: every multiply-accumulate and every convolution's kernel has its block."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from segrd_edge.benchmarks.blocks import By, block_macs, command, kind_of, measure_kernels, owner_of
from segrd_edge.bundle import Bundle
from segrd_edge.calibration.graph import multiply_accumulates

pytest.importorskip("openvino", reason="OpenVINO is not installed")


def test_a_kernel_counts_for_its_convolutions_block() -> None:
    convolutions = {"head.aspp.dilated.2.0", "teacher.layer1.0.conv1"}
    assert owner_of("head.aspp.dilated.2.0/WithoutBiases", "Convolution", convolutions) == "head.aspp.dilated"
    assert owner_of("teacher.layer1.0.conv1", "Convolution", convolutions) == "teacher.layer1.0"
    assert owner_of("teacher.layer1.0.conv1_acdb", "Reorder", convolutions) == "other: Reorder"


def test_every_block_is_counted_and_timed(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    graphs = {name: bundle.graph(name) for name in ("fp32", "int8")}
    model = onnx.load_from_string(graphs["fp32"])
    macs = block_macs(model)
    assert sum(macs.values()) == sum(multiply_accumulates(model).values())
    times = measure_kernels(graphs, rounds=2, threads=1)
    for found in times.values():
        assert all(ms > 0 for ms in found.values())
        # The frame's normalisation may be folded into what is beside it; convolutions of the network are not.
        assert {block for block in macs if not block.startswith("deploy.")} <= set(found)
        assert "other: Convolution" not in found


@pytest.mark.parametrize(
    ("node_type", "exec_type", "kind"),
    [
        ("Convolution", "brgconv_avx512_I8", "convolutions in INT8"),
        ("Convolution", "brgconv_avx512_1x1_f32", "convolutions in float"),
        ("MaxPool", "jit_avx512_I8", "MaxPool in INT8"),
    ],
)
def test_a_kernel_counts_for_its_kind(node_type: str, exec_type: str, kind: str) -> None:
    assert kind_of(SimpleNamespace(node_type=node_type, exec_type=exec_type)) == kind


def test_by_kind_every_kernel_is_timed(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    graphs = {name: bundle.graph(name) for name in ("fp32", "int8")}
    for least in (True, False):
        times = measure_kernels(graphs, rounds=3, threads=1, by="kind", least=least)
        assert set(times) == set(graphs)
        assert all("TopK in float" in found and min(found.values()) > 0 for found in times.values())


@pytest.mark.parametrize("by", ["block", "kind"])
def test_the_table(bundle_path: Path, by: By, capsys: pytest.CaptureFixture[str]) -> None:
    command(bundle_path, rounds=1, threads=1, by=by)
    printed = capsys.readouterr().out
    assert ("GMACs" if by == "block" else "share") in printed
    assert "int8" in printed
