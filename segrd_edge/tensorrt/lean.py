"""Engines that travel in the bundle, for line PCs with TensorRT's lean runtime: 110 MB instead of gigabytes.

    segrd-build part.segrd --lean      on a machine like the line PC, with TensorRT and the lean runtime
    Detector(…, engine="tensorrt-lean")      on the line PC, with the lean runtime alone

Such a plan is version-compatible, which is what the lean runtime takes. It is built without the copy of that runtime
that TensorRT would put in (`exclude_lean_runtime`): then it holds no host code, and the machine's own lean runtime,
which must be of the very version, runs it. Where a flavour cannot leave it out, the record says that the plan holds
host code, and loading allows that for a plan with the right checksum alone.

It is self-tested in the lean runtime before it is put into the bundle, and again wherever it is opened.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import NamedTuple

from ..bundle import Bundle, write_bundle
from ..engines import EngineOptions
from ..engines.tensorrt import TensorRtEngine, TensorRtLeanEngine
from ..errors import EngineError, OptionError
from ..manifest import LeanEngineRecord, Precision
from ..selftest import self_test
from . import library, requirements
from .build import BuildOptions
from .choose import Choice

RUNTIME = "tensorrt-lean"
BUILDER = "tensorrt"
_BUILD_HERE = "run segrd-build --lean on a machine like this one, or use the engine tensorrt, which builds on the spot"


class LeanPlan(NamedTuple):
    """A plan that fits this machine and is what its builder wrote."""

    plan: bytes
    record: LeanEngineRecord


def build_options(flavour: str, options: BuildOptions) -> BuildOptions:
    """Build options for the lean runtime: those given, and what it needs.

    Raises:
        OptionError: the flavour has no lean runtime.
        EngineError: the flavour, or the lean runtime that is to test the engine, is missing.
    """
    if flavour != BUILDER:
        raise OptionError(f"--lean with {flavour}, which has no lean runtime", fix=f"--engine {BUILDER}, or no --lean")
    flags = library.load(flavour).BuilderFlag
    if not hasattr(flags, "VERSION_COMPATIBLE"):
        raise OptionError(f"{flavour} {library.load(flavour).__version__} cannot build version-compatible engines")
    library.load(RUNTIME)
    fields = {"version_compatible": True, "exclude_lean_runtime": hasattr(flags, "EXCLUDE_LEAN_RUNTIME")}
    return BuildOptions(**{**vars(options), **fields})


def add_to_bundle(bundle: Bundle, choice: Choice, out: str | Path) -> None:
    """Write the bundle again with a chosen engine in it, in the place of an earlier one of its precision.

    Args:
        choice: as `choose.prepare` gives it with `build_options`.
        out: the bundle to write; may be the bundle itself, which is replaced as a whole.

    Raises:
        OptionError: the engine is not version-compatible; or a wrong suffix.
        BundleError: the bundle is damaged.
    """
    cached = choice.cached
    options = cached.key.options
    if not options["version_compatible"]:
        raise OptionError("only a version-compatible engine runs in the lean runtime", fix="use lean.build_options")
    file = f"engines/{cached.key.flavour}-{choice.precision}.plan"
    record = LeanEngineRecord(
        precision=choice.precision,
        file=file,
        plan_sha256=hashlib.sha256(cached.plan).hexdigest(),
        graph_sha256=cached.key.graph_sha256,
        version=cached.key.version,
        gpu=cached.key.gpu,
        compute_capability=cached.key.compute_capability,
        driver=cached.key.driver,
        os=cached.key.os,
        architecture=cached.key.architecture,
        holds_host_code=not options["exclude_lean_runtime"],
        self_test=dict(cached.record["self_test"]),
    )
    others = [engine for engine in bundle.manifest.lean_engines if engine.precision != choice.precision]
    manifest = bundle.manifest.model_copy(update={"lean_engines": [record, *others]})
    members = {member: bundle.read(member) for member in bundle.sha256 if member in manifest.files and member != file}
    write_bundle(out, manifest, {**members, file: cached.plan})


def read_plan(bundle: Bundle, precision: str, options: EngineOptions) -> LeanPlan:
    """The bundle's plan of a precision ("auto": the one put in last), checked against this machine.

    The driver is asked before anything else: without one the lean runtime ends the process. Then the record is compared
    with the machine, and the plan with the checksum that its builder wrote; nothing of TensorRT has seen it so far.

    Raises:
        EngineError: the bundle carries no such engine, something is missing here, or the engine was built for another
            machine, another graph or another version. Every difference is named.
        BundleError: the plan is damaged.
    """
    gpu = requirements.require(RUNTIME, options.device)
    record = _record(bundle, precision)
    here = {
        "GPU": (record.gpu, gpu.name),
        "compute capability": (record.compute_capability, gpu.compute_capability),
        "system": (record.os, platform.system()),
        "architecture": (record.architecture, platform.machine()),
        "TensorRT": (record.version, str(library.load(RUNTIME).__version__)),
    }
    different = [f"{what} {built}, here {found}" for what, (built, found) in here.items() if built != found]
    if different:
        raise EngineError(
            f"{bundle.path}: {record.file} was built for another machine: {'; '.join(different)}",
            fix=_fix(record, different),
        )
    plan = bundle.read(record.file)
    if hashlib.sha256(plan).hexdigest() != record.plan_sha256:
        raise EngineError(f"{bundle.path}: {record.file} is not the plan that its record describes", fix=_BUILD_HERE)
    if bundle.sha256[bundle.manifest.graphs[record.precision].file] != record.graph_sha256:
        raise EngineError(
            f"{bundle.path}: {record.file} was built from another {record.precision} graph", fix=_BUILD_HERE
        )
    return LeanPlan(plan, record)


def open_engine(bundle: Bundle, precision: str, options: EngineOptions) -> tuple[TensorRtEngine, Precision]:
    """`read_plan`, loaded and self-tested.

    Raises:
        As `read_plan`; EngineError too where the plan does not load, or fails its self-test.
    """
    plan, record = read_plan(bundle, precision, options)
    engine = TensorRtLeanEngine.from_plan(plan, options, host_code=record.holds_host_code)
    try:
        self_test(engine, bundle, record.precision)
    except BaseException:
        engine.close()
        raise
    return engine, record.precision


def _record(bundle: Bundle, precision: str) -> LeanEngineRecord:
    engines = {engine.precision: engine for engine in reversed(bundle.manifest.lean_engines)}
    if not engines:
        raise EngineError(f"{bundle.path} carries no engine for the lean runtime", fix=_BUILD_HERE)
    if precision == "auto":
        return bundle.manifest.lean_engines[0]
    for name, record in engines.items():
        if name == precision:
            return record
    raise OptionError(
        f"{bundle.path} carries no {precision} engine for the lean runtime", expected="auto, " + ", ".join(engines)
    )


def _fix(record: LeanEngineRecord, different: list[str]) -> str:
    if len(different) == 1 and different[0].startswith("TensorRT "):
        return (
            f"install that version of the lean runtime: pip install tensorrt-lean=={record.version}; or {_BUILD_HERE}"
        )
    return _BUILD_HERE
