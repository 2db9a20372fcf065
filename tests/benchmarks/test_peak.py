"""The share of the INT8 peak: every millisecond of a run has one place, and the references run in INT8."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from segrd_edge.benchmarks.blocks import Kernel, Profile, measure_kernels
from segrd_edge.benchmarks.peak import account, blocks, command, measure, references
from segrd_edge.calibration.graph import multiply_accumulates
from segrd_edge.errors import OptionError

CONVOLUTIONS = "convolution 3×3, 128 channels, 32×32"
PROFILE = Profile(
    [
        Kernel("teacher.layer1.0.conv1/WithoutBiases", "Convolution", "brgconv_avx512_I8", 3.0),
        Kernel("teacher.layer1.0.conv2", "Convolution", "brgconv_avx512_I8", 1.0),
        Kernel("head.out", "Convolution", "brgconv_avx512_I8", 2.0),
        Kernel("deploy.normalise", "Convolution", "brgconv_avx512_1x1_f32", 0.5),
        Kernel("pool", "MaxPool", "jit_avx512_I8", 0.25),
    ],
    run_ms=8.0,
)
MACS = {
    "teacher.layer1.0.conv1": 10_000_000,
    "teacher.layer1.0.conv2": 10_000_000,
    "head.out": 5_000_000,
    "deploy.normalise": 1_000_000,
}


def test_every_millisecond_has_one_place() -> None:
    share = account(PROFILE, MACS, peak=10e6, layer="wide")  # 10 million multiply-accumulates per ms
    assert share.gmacs == pytest.approx(0.026)
    assert share.peak_gmacs_per_s == pytest.approx(10)
    assert (share.at_peak, share.int8_below_peak, share.float_convolutions) == (2.5, 3.5, 0.5)
    assert (share.other_kernels, share.between_kernels) == (0.25, 1.25)
    assert share.of_peak == 2.5 / 8


def test_the_block_that_loses_most_is_first() -> None:
    found = blocks(PROFILE, MACS, peak=10e6)
    assert list(found) == ["teacher.layer1.0", "head.out"]
    assert found["teacher.layer1.0"].ms == 4
    assert found["teacher.layer1.0"].of_peak == 0.5
    assert found["head.out"].lost_ms == 1.5


def test_the_references_are_int8_and_count_their_own_work() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    layers = references()
    for model, macs in layers.values():
        assert multiply_accumulates(model).get("second", macs) == macs
    profiles = measure_kernels({name: model.SerializeToString() for name, (model, _) in layers.items()}, 1, threads=1)
    for name, profile in profiles.items():
        assert any(kernel.is_int8 and kernel.node.startswith("second") for kernel in profile.kernels), name


def test_of_a_bundle(bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    model, macs = references()[CONVOLUTIONS]
    share, found = measure(model.SerializeToString(), rounds=2, threads=1)
    places = asdict(share)
    parts = ("at_peak", "int8_below_peak", "float_convolutions", "other_kernels", "between_kernels")
    assert sum(places[part] for part in parts) == pytest.approx(share.run)
    assert share.gmacs == pytest.approx(2 * macs / 1e9)
    assert share.at_peak == pytest.approx(2 * macs / 1e6 / share.peak_gmacs_per_s)
    assert set(found) == {"first", "second"}
    command(bundle_path, rounds=1, threads=1, json=True)  # whose INT8 graph has no convolution
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["blocks"], line["at_peak"], line["of_peak"]) == ({}, 0, 0)
    assert line["other_kernels"] > 0


def test_a_bundle_without_int8(tiled_bundle: Callable[..., Path]) -> None:
    with pytest.raises(OptionError, match="has no INT8 graph"):
        command(tiled_bundle())
