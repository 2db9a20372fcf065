"""`segrd-doctor`: what this machine has, which engines work or would work, and what to do about the rest."""

from __future__ import annotations

import base64
import platform
import re
from importlib.metadata import requires
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__, machine
from .console import ERROR, OK, emit_json, json_option, print_table
from .errors import OptionError, SegrdError
from .probe import ask

# A deploy graph of 32×32 pixels whose map is the largest channel / 255 and whose score is the map's maximum. Encoded
# once, because the runtime has no ONNX package; tests/runtime/test_doctor.py builds it again and compares.
TINY_GRAPH = base64.b64decode(
    "CAg6rQIKIAoFaW1hZ2USBmxldmVscyIEQ2FzdCoJCgJ0bxgBoAECCjcKBmxldmVscxIEcGVhayIJUmVkdWNlTWF4KgsKBGF4ZXNA"
    "A6ABByoPCghrZWVwZGltcxgAoAECCh8KBHBlYWsKBXdoaXRlEgthbm9tYWx5X21hcCIDRGl2Cj8KC2Fub21hbHlfbWFwEgVzY29y"
    "ZSIJUmVkdWNlTWF4Kg0KBGF4ZXNAAUACoAEHKg8KCGtlZXBkaW1zGACgAQISBHRpbnkqDxABIgQAAH9DQgV3aGl0ZVofCgVpbWFn"
    "ZRIWChQIAhIQCgIIAQoCCCAKAgggCgIIA2ITCgVzY29yZRIKCggIARIECgIIAWIhCgthbm9tYWx5X21hcBISChAIARIMCgIIAQoC"
    "CCAKAgggQgQKABAN"
)
_TINY_SIZE_HW = (32, 32)
# State of an engine: it computed something here; it would once a package is installed, or has nothing to be tried on;
# it cannot, or failed.
WORKS, WOULD_WORK, NO = "works", "would work", "no"
_ENGINE_TIMEOUT_S = 300  # TensorRT's builder takes a minute to start on a Jetson
_BUNDLE_TIMEOUT_S = 3600  # engines for it may have to be built


def command(
    bundle: Annotated[
        Path | None, typer.Argument(help="Also run this bundle's golden images on every engine.", show_default=False)
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Ask for this engine alone, or for auto; the exit code is its own. Container health checks use it."
        ),
    ] = None,
    support: Annotated[
        bool, typer.Option("--support", help="Show which TensorRT runs on which machine, and where this one stands.")
    ] = False,
    json: Annotated[bool, json_option] = False,
) -> int:
    """Show what this machine has and which engines work. Exit code 0: an engine works; 2: none does."""
    from .doctor_tables import tables

    report = examine(bundle) if engine is None else examine_engine(engine, bundle)
    for table in tables(report, with_support=support):
        print_table(table, as_json=json)
    if json:
        emit_json(report)
    return OK if report["ok"] else ERROR


def examine(bundle: str | Path | None = None) -> dict[str, Any]:
    """Everything that `segrd-doctor --json` prints. `ok` says whether an engine (and the bundle, if given) works."""
    from .tensorrt import facts

    cpu, nvidia = machine.cpu(), facts.collect()
    report = {
        "ok": False,
        "segrd_edge": __version__,
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": cpu,
        "memory_gib": machine.memory_gib(),
        "nvidia": nvidia,
        "warnings": [*nvidia.pop("warnings"), *([] if nvidia["jetson"] else _cpu_warnings(cpu))],
        "engines": {name: _examined(name) for name in engine_names()},
        "extras": _extras(),
    }
    return _with_bundle(report, bundle)


def examine_engine(name: str, bundle: str | Path | None = None) -> dict[str, Any]:
    """The same for one engine alone; nothing else is asked, so that frames which are inspected meanwhile do not wait.

    Args:
        name: "auto" is the one that a Detector would take.

    Raises:
        OptionError: there is no such engine.
        EngineError: "auto" where no engine is installed.
    """
    from . import engines

    if name == "auto":
        name = engines.engine_class(name).name
    if name not in engine_names():
        known = ", ".join(["auto", *engine_names()])
        raise OptionError(f"--engine {name}", expected=f"one of {known}", fix="name one of these")
    return _with_bundle({"ok": False, "engines": {name: _examined(name)}}, bundle)


def engine_names() -> list[str]:
    """All engines and flavours of TensorRT, in the order of the engines."""
    from . import engines
    from .tensorrt import library

    return list(dict.fromkeys([*engines.ENGINES, *library.FLAVOURS]))


def verdict(name: str) -> dict[str, str]:
    """Whether an engine works here, tried on the tiny graph: state, detail and fix.

    What TensorRT needs is asked one by one before TensorRT is touched.
    """
    from . import engines
    from .tensorrt import library, requirements

    if name in library.FLAVOURS:
        lack = requirements.lack(name)
        if lack is not None:
            return _verdict(WOULD_WORK if lack.can_be_installed else NO, lack.what, lack.fix)
    elif not engines.engine_class(name).is_available():
        return _verdict(WOULD_WORK, "not installed", engines.engine_class(name).install)
    if name == "tensorrt-lean":
        return _verdict(WOULD_WORK, "all that it needs is here; it runs engines that a bundle carries, and builds none")
    try:
        return _verdict(WORKS, run_tiny_graph(name))
    except SegrdError as error:
        expected = f" (expected: {error.expected})" if error.expected else ""
        return _verdict(NO, error.what + expected, error.fix)


def run_tiny_graph(name: str) -> str:
    """Run the tiny graph on an engine and compare with numpy.

    Raises:
        SegrdError: the engine is missing, fails, or computes something else.
    """
    import numpy as np

    from . import engines

    image = np.random.default_rng(0).integers(0, 256, (*_TINY_SIZE_HW, 3), np.uint8)
    expected = image.max(axis=2) / np.float32(255)
    engine = engines.create(name, TINY_GRAPH, engines.EngineOptions(threads=1))
    score, anomaly_map = engine.run(image)
    difference = max(float(np.abs(anomaly_map - expected).max()), abs(score - float(expected.max())))
    if not difference < 1e-6:
        raise SegrdError(f"{name} computes the test graph with an error of {difference:.2g}")
    return "computes the test graph correctly"


def run_bundle(bundle: str, engine: str) -> str:
    """Run a bundle's golden images on an engine.

    Raises:
        SegrdError: the bundle is damaged, or the engine fails or computes something else.
    """
    from .detector import Detector

    with Detector(bundle, engine=engine) as detector:
        found = detector.self_test()
    return f"{found.frames} golden scores at {detector.precision} within {found.max_score_difference:.2g}"


def _examined(name: str) -> dict[str, Any]:
    answer = ask("segrd_edge.doctor:verdict", name, timeout_s=_ENGINE_TIMEOUT_S)
    found = answer.value if answer.works else _verdict(NO, answer.detail, answer.fix)
    return {"version": _version(name), "works": found["state"] == WORKS, **found}


def _verdict(state: str, detail: str, fix: str = "") -> dict[str, str]:
    return {"state": state, "detail": detail, "fix": fix}


def _version(name: str) -> str | None:
    from . import engines
    from .tensorrt import requirements

    if name in engines.ENGINES:
        return engines.engine_class(name).version()
    package = requirements.installed_package(name)
    return package.version if package is not None else None


def _with_bundle(report: dict[str, Any], bundle: str | Path | None) -> dict[str, Any]:
    engines = report["engines"]
    if bundle is None:
        return {**report, "ok": any(engine["works"] for engine in engines.values())}
    # The lean runtime lacks nothing and was not tried: a bundle may carry an engine for it.
    tried = [name for name, engine in engines.items() if engine["works"] or _lacks_nothing(engine)]
    answers = {
        name: ask("segrd_edge.doctor:run_bundle", str(bundle), name, timeout_s=_BUNDLE_TIMEOUT_S) for name in tried
    }
    golden = {
        name: {"works": answer.works, "detail": answer.value or answer.detail, "fix": answer.fix}
        for name, answer in answers.items()
    }
    return {**report, "bundle": golden, "ok": any(found["works"] for found in golden.values())}


def _lacks_nothing(engine: dict[str, Any]) -> bool:
    return engine["state"] == WOULD_WORK and not engine["fix"]


def _cpu_warnings(cpu: dict[str, Any]) -> list[dict[str, str]]:
    """A Jetson's processor is among what `facts` says of it."""
    if cpu["governor"] in (None, "performance"):
        return []
    what = f"the processor's clock follows its load (governor {cpu['governor']}): the first frame after a pause is slow"
    return [{"what": what, "fix": "sudo cpupower frequency-set -g performance"}]


def _extras() -> dict[str, dict[str, Any]]:
    """For each optional extra of the installed segrd-edge: which packages of it are missing."""
    packages: dict[str, list[str]] = {}
    nested: dict[str, list[str]] = {}  # extra → the extras that it takes in
    for requirement in requires("segrd-edge") or []:
        match = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?.*extra == ['\"]([\w-]+)['\"]", requirement)
        if match is None:
            continue
        package, inner, extra = match.groups()
        packages.setdefault(extra, [])
        if package == "segrd-edge":
            nested.setdefault(extra, []).extend(inner.split(","))
        elif machine.package_version(package) is None and package not in packages[extra]:
            packages[extra].append(package)
    return {extra: _extra(extra, _missing(extra, packages, nested)) for extra in packages}


def _missing(extra: str, packages: dict[str, list[str]], nested: dict[str, list[str]]) -> list[str]:
    inner = [name for other in nested.get(extra, []) for name in _missing(other, packages, nested)]
    return list(dict.fromkeys([*packages.get(extra, []), *inner]))


def _extra(name: str, missing: list[str]) -> dict[str, Any]:
    fix = f"pip install 'segrd-edge[{name}]'" if missing else ""
    return {"installed": not missing, "missing": missing, "fix": fix}
