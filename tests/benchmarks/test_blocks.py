"""Where a frame's time goes: every multiply-accumulate and every convolution's kernel has its block."""

from __future__ import annotations

from pathlib import Path

import pytest

from segrd_edge.benchmarks.blocks import (
    By,
    Kernel,
    block_macs,
    by_block,
    by_kind,
    command,
    convolutions_of,
    kind_of,
    measure_kernels,
    owner_of,
)
from segrd_edge.benchmarks.peak import references
from segrd_edge.bundle import Bundle

pytest.importorskip("openvino", reason="OpenVINO is not installed")


def test_a_kernel_counts_for_its_convolutions_block() -> None:
    convolutions = {"head.aspp.dilated.2.0", "teacher.layer1.0.conv1"}
    for name, node_type, owner in (
        ("head.aspp.dilated.2.0/WithoutBiases", "Convolution", "head.aspp.dilated"),
        ("teacher.layer1.0.conv1", "Convolution", "teacher.layer1.0"),
        ("teacher.layer1.0.conv1_acdb", "Reorder", "other: Reorder"),
    ):
        assert owner_of(Kernel(name, node_type, "", 1.0), convolutions) == owner


def test_every_block_is_counted_and_timed() -> None:
    """Two convolutions in INT8: each is timed as its own, and what the engine adds around them under its kind."""
    model, macs = references()["convolution 3×3, 128 channels, 32×32"]
    assert block_macs(model) == {"first": macs, "second": macs}
    graph = model.SerializeToString()
    (profile,) = measure_kernels({"int8": graph}, rounds=2, threads=1).values()
    found = by_block(profile, convolutions_of(graph))
    assert all(ms > 0 for ms in found.values())
    assert {"first", "second"} <= set(found)
    assert "other: Convolution" not in found
    assert by_kind(profile)["convolutions in INT8"] == pytest.approx(found["first"] + found["second"])
    assert profile.run_ms == pytest.approx(sum(found.values()) + profile.between_ms)


@pytest.mark.parametrize(
    ("node_type", "exec_type", "kind"),
    [
        ("Convolution", "brgconv_avx512_I8", "convolutions in INT8"),
        ("Convolution", "brgconv_avx512_1x1_f32", "convolutions in float"),
        ("MaxPool", "jit_avx512_I8", "MaxPool in INT8"),
    ],
)
def test_a_kernel_counts_for_its_kind(node_type: str, exec_type: str, kind: str) -> None:
    assert kind_of(Kernel("", node_type, exec_type, 1.0)) == kind


def test_by_kind_every_kernel_is_timed(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    graphs = {name: bundle.graph(name) for name in ("fp32", "int8")}
    for least in (True, False):
        profiles = measure_kernels(graphs, rounds=3, threads=1, least=least)
        assert set(profiles) == set(graphs)
        for profile in profiles.values():
            found = by_kind(profile)
            assert "TopK in float" in found
            assert min(found.values()) > 0
            assert profile.run_ms >= max(found.values())


@pytest.mark.parametrize("by", ["block", "kind"])
def test_the_table(bundle_path: Path, by: By, capsys: pytest.CaptureFixture[str]) -> None:
    command(bundle_path, rounds=1, threads=1, by=by)
    printed = capsys.readouterr().out
    assert ("GMACs" if by == "block" else "share") in printed
    assert "int8" in printed
