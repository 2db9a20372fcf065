"""Which precision "auto" takes on a GPU, and what it says of it; on the fake one, whose clock the tests set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrd_edge import Detector
from segrd_edge.bundle import Bundle
from segrd_edge.errors import EngineError
from segrd_edge.machine import cache_folder
from segrd_edge.manifest import Manifest
from segrd_edge.tensorrt import choose, timing
from segrd_edge.tensorrt import prepare as prepare_module
from segrd_edge.tensorrt.build import BuildOptions
from segrd_edge.tensorrt.choose import Choice, candidates, prepare

from ..fakes.gpu import install
from ..fakes.machine import FakeGpu, Outputs


@pytest.fixture(autouse=True)
def _quick(fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake GPU's clock runs by itself, so that few runs say everything."""
    fake_gpu.copy_ms = 0
    monkeypatch.setattr(timing, "_BURST_S", 0)
    monkeypatch.setattr(timing, "_WARM_UP_S", 0)
    monkeypatch.setattr(timing, "_ROUNDS", 2)


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)


@pytest.fixture
def engines() -> Iterator[list[Choice]]:
    """Choices of a test, closed after it."""
    made: list[Choice] = []
    yield made
    for choice in made:
        choice.engine.close()


@pytest.fixture
def take(bundle: Bundle, engines: list[Choice]) -> Callable[..., Choice]:
    def taken(**options: Any) -> Choice:
        choice = prepare(options.pop("bundle", bundle), options.pop("precision", "auto"), **options)
        engines.append(choice)
        return choice

    return taken


def break_int8(outputs: Outputs, precision: str) -> None:
    if precision == "int8":
        outputs["score"] += 0.5


@pytest.mark.parametrize(
    ("graphs", "default", "wanted", "reason"),
    [
        (("fp32",), "fp32", ["fp32"], "no INT8 graph"),
        (("fp32", "fp16"), "fp32", ["fp16"], "no INT8 graph"),
        (("fp32", "int8"), "int8", ["fp32", "int8"], ""),
        (("fp32", "fp16", "int8", "mixed"), "mixed", ["fp16", "mixed"], ""),
        (("fp32", "fp16", "int8", "mixed"), "int8", ["fp16", "mixed"], ""),
        (("fp32", "fp16", "int8"), "fp32", ["fp16", "int8"], ""),  # what is too slow for a processor need not be here
        (("int8",), "int8", ["int8"], "no float graph"),
    ],
)
def test_what_is_in_question(
    graphs: tuple[str, ...],
    default: str,
    wanted: list[str],
    reason: str,
    manifest_fields: Callable[..., dict[str, Any]],
) -> None:
    fields = manifest_fields()
    graph = fields["graphs"]["fp32"]
    fields["graphs"] = {name: {**graph, "file": f"graphs/{name}.onnx"} for name in graphs}
    found = candidates(Manifest(**{**fields, "default_precision": default}))
    assert list(found) == wanted
    assert reason in found.reason
    assert bool(reason) == bool(found.reason)


@pytest.mark.parametrize(
    ("is_safe", "wanted"), [(True, ["fp16", "mixed"]), (False, ["fp16"]), (None, ["fp16", "mixed"])]
)
def test_mixed_has_to_pass_too(
    is_safe: bool | None, wanted: list[str], manifest_fields: Callable[..., dict[str, Any]]
) -> None:
    fields = manifest_fields()
    graph = fields["graphs"]["fp32"]
    fields["graphs"] |= {name: {**graph, "file": f"graphs/{name}.onnx"} for name in ("fp16", "mixed")}
    fields["graphs"]["mixed"]["is_safe"] = is_safe
    found = candidates(Manifest(**fields))
    assert list(found) == wanted
    assert ("did not pass the accuracy gate" in found.reason) == (is_safe is False)


def test_the_faster_one_is_taken(fake_gpu: FakeGpu, take: Callable[..., Choice]) -> None:
    fake_gpu.run_ms.update(fp32=2.6, int8=1.9)
    choice = take()
    assert choice.precision == "int8"
    assert choice.reason.startswith("int8: 1.90 ms against fp32 2.60 ms; INT8 passed the accuracy gate at export")
    assert {c.precision: c.run_ms for c in choice.candidates} == {
        "fp32": pytest.approx(2.6),
        "int8": pytest.approx(1.9),
    }
    assert choice.was_decided
    assert fake_gpu.alive["engine"] == 1  # the slower one was closed


@pytest.mark.parametrize("int8_ms", [2.6, 3.0, 2.55])
def test_int8_must_be_clearly_faster(int8_ms: float, fake_gpu: FakeGpu, take: Callable[..., Choice]) -> None:
    fake_gpu.run_ms.update(fp32=2.6, int8=int8_ms)
    choice = take()
    assert choice.reason == f"fp32: INT8 is not faster here: 2.60 ms against int8 {int8_ms:.2f} ms"
    assert choice.precision == "fp32"


def test_the_drift_at_export_is_in_the_reason(
    fake_gpu: FakeGpu,
    take: Callable[..., Choice],
    make_bundle: Callable[..., Path],
    manifest_fields: Any,
    tmp_path: Path,
) -> None:
    calibration = {**manifest_fields()["calibration"], "scope": "all", "drift": {"all": {"score_mean": 0.00412}}}
    fake_gpu.run_ms.update(fp32=2.6, int8=1.9)
    path = make_bundle(tmp_path / "part.segrd", calibration=calibration)
    assert take(bundle=Bundle.open(path)).reason.endswith("at export: mean score drift 0.0041")


def test_a_failing_int8_falls_back_and_says_why(
    fake_gpu: FakeGpu, take: Callable[..., Choice], caplog: pytest.LogCaptureFixture
) -> None:
    fake_gpu.faults.outputs = break_int8
    with caplog.at_level(logging.INFO, "segrd_edge"):
        choice = take()
    assert choice.precision == "fp32"
    assert choice.reason.startswith(
        "fp32: int8 is out of the question: the int8 engine was built, failed its self-test"
    )
    assert "differ by 0.5" in {c.precision: c.error for c in choice.candidates}["int8"]
    assert "int8 is out of the question" in caplog.text
    assert len(list((cache_folder() / "engines").glob("*.plan"))) == 1


def test_fallback_can_be_switched_off(fake_gpu: FakeGpu, bundle: Bundle, take: Callable[..., Choice]) -> None:
    fake_gpu.faults.outputs = break_int8
    take()  # with fallback: its decision does not bind
    with pytest.raises(EngineError, match=r"int8 engine .* failed its self-test"):
        prepare(bundle, fallback=False)
    with pytest.raises(EngineError, match=r"int8 engine .* failed its self-test"):
        prepare(bundle, "int8")


def test_where_nothing_works_every_reason_is_given(fake_gpu: FakeGpu, bundle: Bundle) -> None:
    fake_gpu.faults.build = "no tactics"
    with pytest.raises(EngineError, match="no engine of this bundle works here") as caught:
        prepare(bundle)
    assert "fp32: tensorrt 11.4.0.106 cannot build" in caught.value.what
    assert "int8: tensorrt 11.4.0.106 cannot build" in caught.value.what
    assert not list((cache_folder() / "decisions").glob("*.json"))


def test_what_the_machine_lacks_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Bundle, fake_gpu: FakeGpu
) -> None:
    install(monkeypatch, pycuda=False)
    with pytest.raises(EngineError) as caught:
        prepare(bundle)
    assert "pycuda" in caught.value.what
    assert "no engine of this bundle" not in caught.value.what


def test_a_decision_is_kept(fake_gpu: FakeGpu, take: Callable[..., Choice]) -> None:
    fake_gpu.run_ms.update(fp32=2.6, int8=1.9)
    first = take()
    fake_gpu.run_ms.update(int8=9.9)
    builds = fake_gpu.counts["build"]
    again = take()
    assert not again.was_decided
    assert (again.precision, again.reason) == (first.precision, first.reason)
    assert [c.run_ms for c in again.candidates] == [c.run_ms for c in first.candidates]
    assert fake_gpu.counts["build"] == builds
    assert fake_gpu.alive["engine"] == 2


@pytest.mark.parametrize("change", ["driver", "options", "bundle", "damage"])
def test_it_is_decided_again_where_anything_changed(
    change: str,
    fake_gpu: FakeGpu,
    take: Callable[..., Choice],
    make_bundle: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_gpu.run_ms.update(fp32=2.6, int8=1.9)
    assert take().precision == "int8"
    fake_gpu.run_ms.update(int8=9.9)
    options: dict[str, Any] = {}
    if change == "driver":
        found = choose.Key.of(b"", BuildOptions(), "tensorrt").machine
        other = type(
            "Gpu", (), {"name": found["gpu"], "compute_capability": "8.9", "cuda_version": "13.2", "driver": "9"}
        )
        monkeypatch.setattr("segrd_edge.tensorrt.driver.gpu", lambda index=0: other)
    elif change == "options":
        options["build_options"] = BuildOptions(optimisation_level=5)
    elif change == "bundle":
        graphs = {"fp32": Bundle.open(make_bundle(tmp_path / "a.segrd")).graph("fp32")}
        graphs["int8"] = Bundle.open(tmp_path / "a.segrd").graph("int8") + b"\x12\x01x"  # another producer name
        options["bundle"] = Bundle.open(make_bundle(tmp_path / "b.segrd", graphs=graphs))
    else:
        (path,) = (cache_folder() / "decisions").glob("*.json")
        path.write_text(path.read_text().replace("1.90", "1.80"))
    assert take(**options).precision == "fp32"


def test_a_decision_whose_engine_fails_now_is_made_again(fake_gpu: FakeGpu, take: Callable[..., Choice]) -> None:
    fake_gpu.run_ms.update(fp32=2.6, int8=1.9)
    assert take().precision == "int8"
    for path in (cache_folder() / "engines").glob("*.plan"):
        path.unlink()
    fake_gpu.faults.outputs = break_int8
    again = take()
    assert again.precision == "fp32"
    assert again.was_decided


def test_a_passing_lack_of_memory_decides_nothing(
    fake_gpu: FakeGpu, take: Callable[..., Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpu.run_ms.update(fp32=2.6, int8=1.9)
    load = prepare_module._load

    def short_of_memory(setup: Any, cached: Any) -> Any:
        if b"QuantizeLinear" in cached.plan:
            raise EngineError("tensorrt cannot load the engine: out of memory")
        return load(setup, cached)

    with monkeypatch.context() as patched:
        patched.setattr(prepare_module, "_load", short_of_memory)
        assert take().precision == "fp32"
        assert not list((cache_folder() / "decisions").glob("*.json"))
    assert take().precision == "int8"
    assert not take().was_decided


def test_graphs_of_different_inputs_are_not_compared(
    fake_gpu: FakeGpu, take: Callable[..., Choice], make_bundle: Callable[..., Path], deploy_graph: Any, tmp_path: Path
) -> None:
    graphs = {"fp32": deploy_graph(batch=2), "int8": deploy_graph(int8=True)}
    fake_gpu.run_ms.update(fp32=2.6, int8=1.9)
    choice = take(bundle=Bundle.open(make_bundle(tmp_path / "part.segrd", graphs=graphs)))
    assert choice.precision == "fp32"
    assert "cannot be compared" in choice.reason


def test_a_bundle_with_one_graph_needs_no_clock(
    fake_gpu: FakeGpu, take: Callable[..., Choice], make_bundle: Callable[..., Path], deploy_graph: Any, tmp_path: Path
) -> None:
    path = make_bundle(
        tmp_path / "part.segrd", graphs={"fp32": deploy_graph()}, default_precision="fp32", calibration=None
    )
    choice = take(bundle=Bundle.open(path))
    assert choice.reason == "fp32: the bundle has no INT8 graph"
    assert choice.candidates[0].run_ms is None


def test_frames_and_batches_are_timed_as_they_run(
    fake_gpu: FakeGpu, take: Callable[..., Choice], make_bundle: Callable[..., Path], deploy_graph: Any, tmp_path: Path
) -> None:
    graphs = {"fp32": deploy_graph(batch=2, shrink=2), "int8": deploy_graph(int8=True, batch=2, shrink=2)}
    fake_gpu.run_ms.update(fp32=2.6, int8=1.9)
    choice = take(bundle=Bundle.open(make_bundle(tmp_path / "part.segrd", graphs=graphs)))
    assert choice.precision == "int8"
    assert choice.engine.takes_frames
    assert choice.engine.batch == 2


def test_a_detector_takes_what_was_chosen(fake_gpu: FakeGpu, bundle: Bundle, defect_frame: np.ndarray) -> None:
    fake_gpu.run_ms.update(fp32=2.6, int8=1.9)
    for engine in ("tensorrt", "tensorrt-rtx"):
        with Detector(bundle, engine=engine) as detector:
            assert (detector.engine, detector.precision) == (engine, "int8")
            assert detector.inspect(defect_frame).is_defect
    names = [path.name for path in (cache_folder() / "decisions").glob("*.json")]
    assert sorted(name.rpartition("-")[0] for name in names) == ["tensorrt", "tensorrt-rtx"]
