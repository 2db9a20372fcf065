"""From a bundle to a tested engine, on the fake GPU."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segrd_edge.bundle import Bundle
from segrd_edge.engines import EngineOptions
from segrd_edge.errors import EngineError, OptionError
from segrd_edge.machine import cache_folder
from segrd_edge.tensorrt import library
from segrd_edge.tensorrt.choose import Choice, prepare

from ..fakes import tensorrt as fake_tensorrt
from ..fakes.machine import FakeGpu, Outputs

GOOD = pytest.approx(0, abs=1e-6)


def lift_scores(outputs: Outputs, precision: str) -> None:
    outputs["score"] += 0.2


def open_engine(bundle: Bundle, precision: str = "fp32", **others: Any) -> Choice:
    """`prepare`, with the engine closed again."""
    choice = prepare(bundle, precision, **others)
    choice.engine.close()
    return choice


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)


def records() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (cache_folder() / "engines").glob("*.json")]


def test_an_engine_is_built_tested_and_ready(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    choice = prepare(bundle, "fp32")
    image = bundle.golden()["images"][1]
    assert choice.engine.run(image).score == pytest.approx(float(bundle.golden()["score_fp32"][1]))
    assert (choice.precision, choice.reason) == ("fp32", "fp32: asked for")
    (figures,) = choice.candidates
    assert figures.was_built
    assert figures.test is not None
    assert figures.test["frames"] == 2
    choice.engine.close()
    assert fake_gpu.leaks() == {}


def test_what_the_self_test_found_is_in_the_record(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    open_engine(bundle)
    (record,) = records()
    note = record["self_test"]
    assert note["golden_sha256"] == bundle.sha256["golden.npz"]
    assert (note["precision"], note["frames"], note["tolerance"]) == ("fp32", 2, 1e-3)
    assert note["max_score_difference"] == note["max_map_difference"] == note["max_batch_difference"] == GOOD
    assert note["no_graph_reason"] == ""


def test_why_there_is_no_cuda_graph_is_in_the_record(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    def wrong(outputs: Outputs) -> None:
        outputs["score"] += 1

    fake_gpu.faults.replay = wrong
    open_engine(bundle)
    assert "other results than the plain enqueue" in records()[0]["self_test"]["no_graph_reason"]


def test_the_inspector_says_what_runs_in_int8(
    fake_gpu: FakeGpu, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test bundle's calibration put one node in INT8, called "unit"."""
    (figures,) = open_engine(bundle, "int8").candidates
    assert (figures.int8_planned, figures.int8_running) == (None, None)  # nobody tells
    (path,) = (cache_folder() / "engines").glob("*.json")
    path.unlink()
    tensors = [{"Format/Datatype": "Row major linear Int8 format"}]
    layer = {"LayerType": "CaskConvolution", "Inputs": tensors, "Metadata": "[ONNX Layer: unit]"}
    monkeypatch.setattr(
        fake_tensorrt.EngineInspector, "get_engine_information", lambda *_: json.dumps({"Layers": [layer]})
    )
    (figures,) = open_engine(bundle, "int8").candidates
    assert (figures.int8_planned, figures.int8_running) == (1, 1)
    assert records()[0]["convolutions"] == {"unit": "Int8"}
    (figures,) = open_engine(bundle, "fp32").candidates
    assert figures.int8_planned is None


def test_an_engine_without_an_inspector_is_as_good(
    fake_gpu: FakeGpu, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_tensorrt.ICudaEngine, "create_engine_inspector", lambda self: None)
    assert open_engine(bundle).candidates[0].test is not None
    monkeypatch.delattr(fake_tensorrt.ICudaEngine, "create_engine_inspector")
    assert open_engine(bundle, "int8").candidates[0].test is not None


def test_an_engine_that_passed_is_loaded_and_not_tested_again(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    open_engine(bundle)
    fake_gpu.faults.outputs = lift_scores  # would fail
    choice = open_engine(bundle)
    assert not choice.candidates[0].was_built
    assert fake_gpu.counts["build"] == 1


@pytest.mark.parametrize("change", ["golden", "options", "record"])
def test_it_is_tested_again_where_the_note_does_not_hold(
    change: str, fake_gpu: FakeGpu, bundle: Bundle, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    options = EngineOptions()
    open_engine(bundle, options=options)
    if change == "golden":
        graphs = {"fp32": bundle.graph("fp32")}
        other = make_bundle(tmp_path / "other.segrd", graphs=graphs, default_precision="fp32", calibration=None)
        bundle = Bundle.open(other)  # the same graph; its golden file has no arrays of int8
    elif change == "options":
        options = EngineOptions(memory="mapped")
    else:
        (path,) = (cache_folder() / "engines").glob("*.json")
        path.write_text(path.read_text().replace('"frames": 2', '"frames": 9'))  # breaks the seal
    fake_gpu.faults.outputs = lift_scores
    with pytest.raises(EngineError, match="failed its self-test"):
        open_engine(bundle, options=options)
    assert records() == []


def test_a_failing_engine_is_discarded_and_says_why(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    fake_gpu.faults.outputs = lift_scores
    with pytest.raises(
        EngineError, match=r"the fp32 engine was built, failed its self-test and was discarded"
    ) as caught:
        prepare(bundle, "fp32")
    assert "golden scores that differ by 0.2000" in caught.value.what
    assert records() == []
    del caught  # its traceback holds the maps, which are the engine's memory
    assert fake_gpu.leaks() == {}
    fake_gpu.faults.outputs = lambda outputs, precision: None
    assert open_engine(bundle).candidates[0].was_built


def test_a_cached_plan_that_does_not_load_is_built_again_once(
    fake_gpu: FakeGpu, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trt = library.load("tensorrt")
    monkeypatch.setattr(trt.gpu, "name", fake_gpu.name)
    open_engine(bundle)
    refusals = iter(["corrupt", "", "", ""])
    kept = trt.Runtime._refusal
    monkeypatch.setattr(trt.Runtime, "_refusal", lambda self, plan: next(refusals) or kept(self, plan))
    with caplog.at_level(logging.WARNING, "segrd_edge"):
        assert open_engine(bundle).candidates[0].was_built
    assert "cannot be loaded and is built again" in caplog.text
    assert fake_gpu.counts["build"] == 2


def test_a_plan_that_never_loads_is_not_built_for_ever(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    fake_gpu.faults.deserialise = "no memory"
    with pytest.raises(EngineError, match="no memory"):
        open_engine(bundle)
    assert fake_gpu.counts["build"] == 1
    assert records() == []


def test_lack_of_memory_costs_no_engine(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    open_engine(bundle)
    fake_gpu.faults.deserialise = "Cuda Runtime (out of memory)"
    with pytest.raises(EngineError, match="out of memory"):
        open_engine(bundle)
    fake_gpu.faults.deserialise = ""
    assert not open_engine(bundle).candidates[0].was_built
    fake_gpu.memory_bytes = 1000
    with pytest.raises(EngineError, match="bytes for a tensor"):
        open_engine(bundle)
    assert fake_gpu.counts["build"] == 1


def test_progress_says_of_which_engine_it_is(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    events: list[tuple[str, int, int]] = []
    open_engine(bundle, progress=lambda *event: events.append(event))
    phases = list(dict.fromkeys(phase for phase, _, _ in events))
    assert phases == ["fp32: Building", "fp32: Self-test on the golden images"]
    assert events[-1] == ("fp32: Self-test on the golden images", 1, 1)


def test_an_interrupted_self_test_frees_the_engine(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    def interrupt(phase: str, done: int, steps: int) -> None:
        if "Self-test" in phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_engine(bundle, progress=interrupt)
    assert fake_gpu.leaks() == {}
    assert "self_test" not in records()[0]
    assert not open_engine(bundle).candidates[0].was_built


def test_what_the_bundle_lacks_is_refused(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="no fp16 graph"):
        prepare(bundle, "fp16")
    with pytest.raises(EngineError, match="unknown TensorRT flavour"):
        prepare(bundle, "fp32", flavour="onnxruntime")
