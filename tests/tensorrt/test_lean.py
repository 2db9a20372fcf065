"""Engines that travel in the bundle, on the fake GPU, which does not tell the lean runtime from the whole one."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrd_edge import Detector
from segrd_edge.bundle import Bundle, write_bundle
from segrd_edge.engines import EngineOptions, engine_class
from segrd_edge.engines.tensorrt import TensorRtLeanEngine
from segrd_edge.errors import BundleError, EngineError, OptionError
from segrd_edge.tensorrt import driver, lean, library
from segrd_edge.tensorrt.build import BuildOptions
from segrd_edge.tensorrt.choose import prepare

from ..fakes.gpu import install
from ..fakes.machine import FakeGpu, Outputs

PLAN = "engines/tensorrt-fp32.plan"


def add(bundle: Bundle, out: Path, precision: str = "fp32") -> Bundle:
    options = lean.build_options("tensorrt", BuildOptions())
    choice = prepare(bundle, precision, build_options=options)
    choice.engine.close()
    lean.add_to_bundle(bundle, choice, out)
    return Bundle.open(out)


@pytest.fixture
def carrying(fake_gpu: FakeGpu, bundle_path: Path, tmp_path: Path) -> Bundle:
    return add(Bundle.open(bundle_path), tmp_path / "lean.segrd")


def with_record(bundle: Bundle, out: Path, plan: bytes | None = None, **changes: Any) -> Bundle:
    """The bundle with something else in the record of its engine, or another plan."""
    (record,) = bundle.manifest.lean_engines
    manifest = bundle.manifest.model_copy(update={"lean_engines": [record.model_copy(update=changes)]})
    members = {member: bundle.read(member) for member in manifest.files}
    write_bundle(out, manifest, {**members, PLAN: plan or members[PLAN]})
    return Bundle.open(out)


def test_the_engine_travels_in_the_bundle(
    carrying: Bundle, fake_gpu: FakeGpu, bundle_path: Path, defect_frame: np.ndarray
) -> None:
    builds = fake_gpu.counts["build"]
    with Detector(carrying, engine="tensorrt-lean") as detector:
        assert (detector.engine, detector.precision) == ("tensorrt-lean", "fp32")
        found = detector.inspect(defect_frame)
    with Detector(bundle_path, engine="onnxruntime", precision="fp32") as detector:
        assert found.score == pytest.approx(detector.inspect(defect_frame).score)
    assert fake_gpu.counts["build"] == builds
    assert fake_gpu.leaks() == {}


def test_its_record_says_where_it_may_run(carrying: Bundle, fake_gpu: FakeGpu) -> None:
    (record,) = carrying.manifest.lean_engines
    plan = carrying.read(PLAN)
    assert record.plan_sha256 == hashlib.sha256(plan).hexdigest()
    assert record.graph_sha256 == carrying.sha256["graphs/fp32.onnx"]
    assert (record.file, record.gpu, record.compute_capability) == (PLAN, "Fake RTX", "8.9")
    assert record.version == library.load("tensorrt").__version__
    assert not record.holds_host_code
    assert record.self_test["frames"] == 2


def test_all_else_in_the_bundle_stays(carrying: Bundle, bundle_path: Path) -> None:
    before = Bundle.open(bundle_path)
    assert carrying.manifest.model_copy(update={"lean_engines": []}) == before.manifest
    assert {name: carrying.sha256[name] for name in before.manifest.files} == {
        name: before.sha256[name] for name in before.manifest.files
    }


def test_a_second_engine_of_a_precision_replaces_the_first(carrying: Bundle, tmp_path: Path) -> None:
    twice = add(carrying, carrying.path)  # in place
    assert [record.precision for record in twice.manifest.lean_engines] == ["fp32"]
    both = add(twice, tmp_path / "both.segrd", "int8")
    assert [record.precision for record in both.manifest.lean_engines] == ["int8", "fp32"]
    options = EngineOptions()
    assert lean.read_plan(both, "auto", options).record.precision == "int8"  # the one put in last
    assert lean.read_plan(both, "fp32", options).record.precision == "fp32"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"gpu": "NVIDIA RTX 4000"}, "GPU NVIDIA RTX 4000, here Fake RTX"),
        ({"compute_capability": "8.6"}, "compute capability 8.6, here 8.9"),
        ({"os": "Windows"}, "system Windows, here Linux"),
        ({"architecture": "aarch64"}, "architecture aarch64, here x86_64"),
        ({"version": "11.1.0"}, "TensorRT 11.1.0, here 11.4.0.106"),
        ({"graph_sha256": "0" * 64}, "built from another fp32 graph"),
        ({"plan_sha256": "0" * 64}, "not the plan that its record describes"),
        ({"plan": b"another plan"}, "not the plan that its record describes"),
    ],
)
def test_what_does_not_fit_never_reaches_tensorrt(
    changes: dict[str, Any], what: str, carrying: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_record(carrying, tmp_path / "other.segrd", **changes)
    monkeypatch.setattr(TensorRtLeanEngine, "from_plan", lambda *_, **__: pytest.fail("it reached TensorRT"))
    with pytest.raises(EngineError, match=what) as caught:
        TensorRtLeanEngine.open(bundle)
    assert "segrd-build --lean" in caught.value.fix
    if "version" in changes:
        assert "pip install tensorrt-lean==11.1.0" in caught.value.fix


def test_every_difference_is_named(carrying: Bundle, tmp_path: Path) -> None:
    bundle = with_record(carrying, tmp_path / "other.segrd", gpu="Another", compute_capability="8.6")
    with pytest.raises(EngineError, match=r"GPU Another, here Fake RTX; compute capability 8\.6, here 8\.9"):
        TensorRtLeanEngine.open(bundle)


def test_another_driver_may_run_it(carrying: Bundle, tmp_path: Path) -> None:
    engine, _ = TensorRtLeanEngine.open(with_record(carrying, tmp_path / "other.segrd", driver="1.0"))
    engine.close()


def test_the_driver_is_asked_before_anything_else(carrying: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(index: int = 0) -> driver.Gpu:
        raise EngineError("no NVIDIA driver")

    monkeypatch.setattr(driver, "gpu", no_driver)
    monkeypatch.setattr(library, "load", lambda name: pytest.fail("the lean runtime was imported first"))
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        TensorRtLeanEngine.open(carrying)


def test_a_damaged_plan_is_found_when_the_bundle_is_opened(carrying: Bundle, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.segrd"
    shutil.copy(carrying.path, damaged)
    content = damaged.read_bytes()
    place = content.index(b"fake-plan") + 50
    damaged.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    with pytest.raises(BundleError, match=PLAN):
        Bundle.open(damaged)


def test_it_is_tested_where_it_is_opened(carrying: Bundle, fake_gpu: FakeGpu) -> None:
    def lift(outputs: Outputs, precision: str) -> None:
        outputs["score"] += 0.2

    fake_gpu.faults.outputs = lift
    with pytest.raises(EngineError, match="golden scores that differ"):
        TensorRtLeanEngine.open(carrying)


def test_a_plan_with_host_code_is_allowed_it_by_its_record(
    fake_gpu: FakeGpu, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release whose builder cannot leave the lean runtime out of a plan."""
    flags = type("BuilderFlag", (), {"TF32": 0, "VERSION_COMPATIBLE": 1})
    assert lean.build_options("tensorrt", BuildOptions()).exclude_lean_runtime
    monkeypatch.setattr(library.load("tensorrt"), "BuilderFlag", flags)
    assert not lean.build_options("tensorrt", BuildOptions()).exclude_lean_runtime
    bundle = add(Bundle.open(bundle_path), tmp_path / "lean.segrd")
    assert bundle.manifest.lean_engines[0].holds_host_code
    engine, _ = TensorRtLeanEngine.open(bundle)
    engine.close()
    with pytest.raises(EngineError, match="host code"):
        TensorRtLeanEngine.open(with_record(bundle, tmp_path / "other.segrd", holds_host_code=False))


def test_who_has_no_lean_runtime_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle_path: Path, make_bundle: Callable[..., Path]
) -> None:
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path / "cache"))
    install(monkeypatch, flavours=("tensorrt", "tensorrt-rtx"))
    with pytest.raises(OptionError, match="tensorrt-rtx, which has no lean runtime"):
        lean.build_options("tensorrt-rtx", BuildOptions())
    with pytest.raises(EngineError, match="tensorrt-lean needs the package") as caught:
        lean.build_options("tensorrt", BuildOptions())
    assert "pip install tensorrt-lean" in caught.value.fix


def test_a_bundle_without_such_an_engine_says_what_to_do(
    fake_gpu: FakeGpu, bundle_path: Path, carrying: Bundle
) -> None:
    with pytest.raises(EngineError, match="carries no engine for the lean runtime") as caught:
        engine_class("tensorrt-lean").open(Bundle.open(bundle_path))
    assert "segrd-build --lean" in caught.value.fix
    with pytest.raises(OptionError, match="no int8 engine") as refused:
        engine_class("tensorrt-lean").open(carrying, "int8")
    assert refused.value.expected == "auto, fp32"


def test_only_a_version_compatible_engine_is_put_in(fake_gpu: FakeGpu, bundle_path: Path, tmp_path: Path) -> None:
    choice = prepare(Bundle.open(bundle_path), "fp32")
    choice.engine.close()
    with pytest.raises(OptionError, match="version-compatible"):
        lean.add_to_bundle(Bundle.open(bundle_path), choice, tmp_path / "x.segrd")
