"""`measure` on the test bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from segrd_edge import Bundle, engines
from segrd_edge.benchmarks.frames import golden_frames
from segrd_edge.benchmarks.latency import measure
from segrd_edge.benchmarks.latency_report import LatencyReport
from segrd_edge.errors import DataError, EngineError, FrameError, MissingExtraError, OptionError, SegrdError
from segrd_edge.preprocess import Preprocess

ALL = ["openvino fp32", "onnxruntime fp32", "openvino int8", "onnxruntime int8"]


def test_every_engine_and_precision_is_measured(report: LatencyReport) -> None:
    assert [contender.name for contender in report.contenders] == ALL
    assert report.skipped == {}
    assert (report.rounds, report.samples, len(report.other_cpu)) == (6, 12, 6)
    assert report.frame_sizes_hw == [(96, 160)]
    assert report.reference == "openvino fp32"
    assert report.fastest.total.median == min(contender.total.median for contender in report.contenders)


def test_stages_add_up_to_the_total_in_every_sample(report: LatencyReport) -> None:
    for contender in report.contenders:
        stages_ms = np.sum([distribution.samples_ms for distribution in contender.stages.values()], axis=0)
        np.testing.assert_allclose(stages_ms, contender.total.samples_ms, rtol=1e-9)
        for stage, distribution in contender.stages.items():
            assert distribution.min >= 0, stage  # nothing is counted in two stages
        assert contender.bare.min > 0
        assert contender.cpu_ms > 0


def test_scores_differ_from_fp32_as_the_graphs_do(report: LatencyReport) -> None:
    """The int8 graph rounds the map to steps of 1/127, so a score moves by half a step at most."""
    for contender in report.contenders:
        difference = contender.score_difference
        assert difference is not None
        assert difference.frames == 6
        if contender.precision == "fp32":
            assert difference.max < 1e-6
            assert difference.verdicts_changed == 0
        else:
            assert 1e-5 < difference.max <= 0.5 / 127 + 1e-6


def test_percentiles_that_need_more_samples_are_null_with_the_reason(report: LatencyReport) -> None:
    values = report.to_dict()
    assert values["unknown"] == {
        "p99": "needs 100 samples, 12 were taken",
        "p99.9": "needs 1000 samples, 12 were taken",
    }
    for contender in values["contenders"]:
        total = contender["total_ms"]
        assert total["min"] <= total["p50"] <= total["p90"] < total["max"]
        assert (total["p99"], total["p99.9"], total["jitter"]) == (None, None, None)


def test_json_shape(report: LatencyReport) -> None:
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert list(values) == [
        *("mode", "bundle", "product", "model", "network_hw", "frames", "rounds", "samples", "unknown", "threads"),
        *("reference", "fastest", "contenders", "skipped", "noisy_rounds", "other_cpu", "environment", "started"),
        "duration_s",
    ]
    assert values["network_hw"] == [64, 96]
    assert values["frames"]["sizes_hw"] == [[96, 160]]
    figures = ["min", "p50", "p90", "p99", "p99.9", "max", "mean", "std", "jitter"]
    for contender in values["contenders"]:
        assert list(contender["stages_ms"]) == ["preprocess", "engine", "postprocess", "other"]
        distributions = [contender["total_ms"], contender["bare_engine_ms"], contender["resize_ms"]]
        for distribution in [*distributions, *contender["stages_ms"].values()]:
            assert list(distribution) == figures
        assert list(contender["overhead_ms"]) == ["over_bare", "without_resize", "share_of_bare", "outside_engine"]
        assert list(contender["score_difference"]) == ["mean", "max", "verdicts_changed", "frames"]
    environment = values["environment"]
    assert environment["cpu"]["usable_cores"] >= 1
    assert {"numpy", "openvino", "onnxruntime"} <= set(environment["packages"])
    assert set(environment["load_average"]) == {"before", "after"}


def test_engines_and_precisions_can_be_chosen(bundle_path: Path) -> None:
    chosen = measure(bundle_path, frame_hw=(64, 96), rounds=2, engines=["onnxruntime"], precisions=["int8"])
    assert [contender.name for contender in chosen.contenders] == ["onnxruntime int8"]
    assert chosen.reference is None
    assert chosen.contenders[0].score_difference is None
    assert chosen.contenders[0].speedup is None


def test_a_time_budget_ends_the_run(bundle_path: Path) -> None:
    taken = measure(bundle_path, frame_hw=(64, 96), seconds=1e-6, engines=["onnxruntime"], precisions=["fp32"])
    assert taken.rounds == 2


def test_frames_of_a_folder_keep_their_size_or_get_the_one_named(
    bundle_path: Path, tmp_path: Path, painter: Callable[..., np.ndarray]
) -> None:
    for number, frame_hw in enumerate([(120, 180), (64, 96), (120, 180)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), painter(frame_hw))
    few: dict[str, Any] = {"rounds": 2, "engines": ["onnxruntime"], "precisions": ["fp32"], "frames": tmp_path}
    assert measure(bundle_path, **few).frame_sizes_hw == [(64, 96), (120, 180)]
    resized = measure(bundle_path, frame_hw=(50, 70), **few)
    assert (resized.frame_sizes_hw, resized.frame_count) == ([(50, 70)], 3)


def test_an_engine_that_cannot_load_the_graph_is_skipped_with_the_reason(
    make_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_bundle(tmp_path / "part.segrd")

    def refuse(*_: Any) -> None:
        raise EngineError("no such instruction")

    monkeypatch.setattr(engines.engine_class("openvino"), "_load", refuse)
    found = measure(path, frame_hw=(64, 96), rounds=2)
    assert found.skipped == {"openvino fp32": "no such instruction", "openvino int8": "no such instruction"}
    assert [contender.name for contender in found.contenders] == ["onnxruntime fp32", "onnxruntime int8"]
    with pytest.raises(EngineError, match="no engine can run this bundle: openvino fp32: no such instruction"):
        measure(path, frame_hw=(64, 96), rounds=2, engines=["openvino"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rounds": 1}, OptionError, "rounds=1"),
        ({"seconds": 0}, OptionError, "seconds=0"),
        ({"seconds": float("nan")}, OptionError, "seconds=nan"),
        ({"rounds": 2, "seconds": 1}, OptionError, "rounds=2 and seconds=1"),
        ({"engines": ["tpu"]}, EngineError, "unknown engine 'tpu'"),
        ({"precisions": ["fp16"]}, OptionError, "no fp16 graph"),
        ({"threads": 0}, OptionError, "threads=0"),
        ({"frames": "EMPTY"}, DataError, "no images"),
        ({"frames": "BROKEN"}, FrameError, "cannot be read as an image"),
    ],
)
def test_what_cannot_work_is_refused(
    bundle_path: Path, tmp_path: Path, options: dict[str, Any], error: type[SegrdError], message: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / "0.png").write_text("no image")
    if "frames" in options:
        options = {**options, "frames": tmp_path / options["frames"]}
    with pytest.raises(error, match=message):
        measure(bundle_path, **{"frame_hw": (64, 96), "rounds": None if "seconds" in options else 2, **options})


def test_needs_nothing_but_the_runtime(bundle_path: Path, tmp_path: Path) -> None:
    page = tmp_path / "latency.html"
    blocked = ("torch", "onnx", "jinja2", "matplotlib", "scipy", "sklearn")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from segrd_edge.benchmarks.html import render_page, write_page\n"
        "from segrd_edge.benchmarks.latency import measure\n"
        f"report = measure({str(bundle_path)!r}, frame_hw=(64, 96), rounds=2)\n"
        f"write_page({str(page)!r}, render_page(report))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert page.stat().st_size > 1000


def test_without_torch_the_eager_model_names_the_extra(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"segrd-edge\[train\]"):
        measure(bundle_path, rounds=2, run="runs/part")


def test_the_eager_model_is_the_reference(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segrd_edge.training.run.Run.load", lambda folder: _distance_run((64, 96)))
    found = measure(bundle_path, frame_hw=(96, 160), rounds=2, engines=["onnxruntime"], run="runs/part")
    assert [contender.name for contender in found.contenders] == ["torch fp32", "onnxruntime fp32", "onnxruntime int8"]
    assert found.reference == "torch fp32"
    difference = found.contenders[1].score_difference
    assert difference is not None
    assert difference.max < 1e-5  # float32 of values up to 255, normalised and back


def test_a_run_of_another_size_is_refused(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segrd_edge.training.run.Run.load", lambda folder: _distance_run((64, 64)))
    with pytest.raises(OptionError, match=r"network size \(64, 64\)"):
        measure(bundle_path, rounds=2, run="runs/part")


def test_frames_for_a_bundle_with_a_crop(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    preprocess = Preprocess((64, 96), crop_xywh=(200, 10, 900, 100))
    path = make_bundle(tmp_path / "part.segrd", preprocess=preprocess.to_dict())
    assert measure(path, rounds=2, engines=["onnxruntime"], threads=1).frame_sizes_hw == [(1024, 1100)]
    bundle = Bundle.open(path)
    for frame, image in zip(golden_frames(bundle, (120, 1200)).frames, bundle.golden()["images"], strict=False):
        assert np.abs(preprocess.resize(frame).astype(int) - image).mean() < 5  # the image, and noise
        assert frame[:, :199].mean() < 5
    with pytest.raises(FrameError, match="a frame of 640×480 pixels, which the crop 200,10,900,100"):
        measure(path, frame_hw=(480, 640), rounds=2, engines=["onnxruntime"])


def _distance_run(size_hw: tuple[int, int]) -> Any:
    """What `Run.load` would give for the test bundle's detector: the distance from the part's colour, in torch."""
    import torch
    from torch import Tensor, nn

    from segrd_edge.mapspec import MapSpec

    from ..distance_detector import PART_BGR, THRESHOLD, TOP_PIXELS

    preprocess = Preprocess(size_hw=size_hw)

    class Distance(nn.Module):
        map_spec = MapSpec(activation="none", top_pixels=TOP_PIXELS)

        def __init__(self) -> None:
            super().__init__()
            self.part_rgb = nn.Parameter(torch.tensor(PART_BGR[::-1]).view(1, 3, 1, 1) / 255)

        def forward(self, images: Tensor) -> Tensor:
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocess.mean, preprocess.std))
            return (images * std + mean - self.part_rgb).abs().mean(dim=1, keepdim=True)

    return SimpleNamespace(
        model=Distance(),
        preprocess=preprocess,
        threshold={"value": THRESHOLD["fp32"]},
    )
