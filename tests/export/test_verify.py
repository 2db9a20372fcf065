"""What `--verify` finds, with ONNX Runtime on both sides: on the engine's own side a GPU is needed, or the fake one."""

# ruff: noqa: F811  (fixtures are named as the parameters that ask for them)
from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from segrd_edge.bundle import Bundle
from segrd_edge.calibration.graph import expose
from segrd_edge.console import build_app
from segrd_edge.errors import EngineError, ExportError, OptionError
from segrd_edge.export import verify
from segrd_edge.export.cli import command
from segrd_edge.export.verify import compare, golden_feed, inner_tensors, reference_runner
from segrd_edge.tensorrt import driver

from ..calibration.conftest import images, model  # noqa: F401  (fixtures)
from ..fakes.machine import FakeGpu, Outputs

pytest.importorskip("polygraphy", reason="polygraphy is not installed")
CONVOLUTIONS = ["deploy.normalise", "stem", "block.conv1", "block.conv2", "down.conv1", "down.conv2", "down.skip", "up"]
CONVOLUTIONS += ["head.fuse", "head.pooled", "head.depthwise", "head.out"]


def named(runner: Any, name: str) -> Any:
    runner.name = name
    return runner


def perturbed(model: onnx.ModelProto, constant: str, factor: float) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == constant)
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * factor).astype(np.float32), constant))
    return copy


@pytest.fixture(scope="module")
def all_tensors(model: onnx.ModelProto) -> onnx.ModelProto:
    return expose(model, inner_tensors(model))


@pytest.fixture(scope="module")
def feed(images: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {"image": images[0][None]}


def test_every_operator_with_weights_is_compared(model: onnx.ModelProto) -> None:
    made_by = {node.output[0]: node.name for node in model.graph.node}
    assert sorted(made_by[name] for name in inner_tensors(model)) == sorted(CONVOLUTIONS)


def test_equal_engines_agree_on_every_tensor(all_tensors: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    verdict = compare(
        all_tensors, [reference_runner(all_tensors), named(reference_runner(all_tensors), "b")], feed, "fp32"
    )
    assert verdict.passed
    assert verdict.first_departing is None
    assert {tensor.snr_db for tensor in verdict.tensors} == {float("inf")}
    assert len(verdict.tensors) == len(CONVOLUTIONS) + 2  # score and anomaly_map
    assert "agrees with onnxruntime" in verdict.sentence


@pytest.mark.parametrize(
    ("constant", "first", "untouched"),
    [("stem.weight", "stem", "deploy.normalise"), ("head.fuse.bias", "head.fuse", "up")],
)
def test_the_first_tensor_that_departs_is_named(
    constant: str, first: str, untouched: str, all_tensors: onnx.ModelProto, feed: dict[str, np.ndarray]
) -> None:
    wrong = named(reference_runner(perturbed(all_tensors, constant, 1.1)), "wrong")
    verdict = compare(all_tensors, [reference_runner(all_tensors), wrong], feed, "fp32")
    assert not verdict.passed
    assert verdict.first_departing is not None
    assert verdict.first_departing.node == first
    assert {tensor.node: tensor.passed for tensor in verdict.tensors}[untouched]
    assert f"(Conv {first})" in verdict.sentence


def test_a_weight_that_is_ten_percent_off_gives_its_decibels(
    all_tensors: onnx.ModelProto, feed: dict[str, np.ndarray]
) -> None:
    """The normalisation's bias is not scaled with its weight, so the stem's input is, but for that."""
    weight = perturbed(perturbed(all_tensors, "deploy.normalise.1", 1.1), "deploy.normalise.2", 1.1)
    verdict = compare(all_tensors, [reference_runner(all_tensors), named(reference_runner(weight), "b")], feed, "int8")
    first = verdict.tensors[0]
    assert first.node == "deploy.normalise"
    assert first.snr_db == pytest.approx(20, abs=0.01)  # 10·log10(1 / 0.1²)
    assert first.max_difference > first.mean_difference > 0


def test_the_table_shows_what_agrees_least(all_tensors: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    from rich.console import Console

    wrong = named(reference_runner(perturbed(all_tensors, "head.out.weight", 2)), "wrong")
    verdict = compare(all_tensors, [reference_runner(all_tensors), wrong], feed, "fp32")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(verify.table(verdict))
    text = console.export_text()
    assert "departs first" in text
    assert "head.out" in text
    assert verdict.worst(1)[0].name in text


def test_an_engine_without_some_output_is_refused(
    model: onnx.ModelProto,
    all_tensors: onnx.ModelProto,
    feed: dict[str, np.ndarray],
) -> None:
    with pytest.raises(ExportError, match=r"does not give .*stem"):
        compare(all_tensors, [reference_runner(all_tensors), named(reference_runner(model), "b")], feed, "fp32")


def test_infinities_depart_and_sort_last(all_tensors: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    wrong = named(reference_runner(perturbed(all_tensors, "head.out.bias", np.inf)), "wrong")
    verdict = compare(all_tensors, [reference_runner(all_tensors), wrong], feed, "fp32")
    assert verdict.first_departing is not None
    assert verdict.first_departing.node == "head.out"
    assert verdict.worst(1)[0].snr_db == -np.inf


def test_the_engine_is_built_and_compared(
    fake_gpu: FakeGpu,
    make_bundle: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """On the fake GPU, which computes with ONNX Runtime; what a real one gives is not shown here."""
    bundle = Bundle.open(make_bundle(tmp_path / "part.segrd"))
    verdicts = verify.verify(bundle, "tensorrt")
    assert [verdict.precision for verdict in verdicts] == ["fp32", "int8"]
    assert all(verdict.passed for verdict in verdicts)
    assert verdicts[0].other == "tensorrt"
    assert fake_gpu.leaks() == {}

    def twice(outputs: Outputs, precision: str) -> None:
        outputs["anomaly_map"] *= 2

    fake_gpu.faults.outputs = twice
    first = verify.verify(bundle, "tensorrt")[0].first_departing
    assert first is not None
    assert first.name == "anomaly_map"


def test_an_engine_that_cannot_be_built_is_our_error(
    fake_gpu: FakeGpu, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    fake_gpu.faults.build = "no tactics"
    with pytest.raises(EngineError, match="no tactics"):
        verify.verify(Bundle.open(make_bundle(tmp_path / "part.segrd")), "tensorrt")


def test_each_graph_gets_a_table_and_a_sentence(
    fake_gpu: FakeGpu, make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify.verify_and_show(make_bundle(tmp_path / "part.segrd"), "tensorrt")
    shown = capsys.readouterr().out
    assert "fp32: tensorrt agrees with onnxruntime" in " ".join(shown.split())
    assert "int8: tensorrt agrees with onnxruntime" in " ".join(shown.split())
    assert "anomaly_map" in shown


def test_what_cannot_be_verified_is_refused_at_once(fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    verify.check_verify("tensorrt")
    with pytest.raises(OptionError, match="--verify for the engine cpu"):
        verify.check_verify("cpu")

    def no_driver(index: int = 0) -> driver.Gpu:
        raise EngineError("no NVIDIA driver", fix="install it")

    monkeypatch.setattr(driver, "gpu", no_driver)
    with pytest.raises(EngineError, match="--verify needs a GPU that runs tensorrt: no NVIDIA driver"):
        verify.check_verify("tensorrt")


def test_the_command_refuses_before_it_exports(tmp_path: Path) -> None:
    app = build_app(command, name="segrd-export", example="segrd-export runs/bottle")
    done = CliRunner().invoke(app, [str(tmp_path / "no run"), "--verify", "--engine", "cpu"])
    assert done.exit_code == 2
    assert "error: --verify for the engine cpu" in done.stderr


def test_frames_and_batches_get_what_they_take(
    make_bundle: Callable[..., Path], deploy_graph: Any, tmp_path: Path
) -> None:
    graphs = {"fp32": deploy_graph(batch=2, shrink=2)}
    path = make_bundle(tmp_path / "frames.segrd", graphs=graphs, default_precision="fp32", calibration=None)
    bundle = Bundle.open(path)
    feed = golden_feed(bundle, verify.exposed(bundle, "fp32"))
    assert feed["frame"].shape == (2, 128, 192, 3)
    assert np.array_equal(feed["frame"][0], feed["frame"][1])
    verdict = compare(
        verify.exposed(bundle, "fp32"),
        [
            reference_runner(verify.exposed(bundle, "fp32")),
            named(reference_runner(verify.exposed(bundle, "fp32")), "b"),
        ],
        feed,
        "fp32",
    )
    assert [tensor.name for tensor in verdict.tensors] == ["anomaly_map", "score"]
