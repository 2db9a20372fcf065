"""`segrd-doctor`: what this machine has, what works, and what to do about the rest.

Whatever could crash the interpreter (an engine on a processor that it was not built for, a GPU driver) is tried in a
process of its own.
"""

from __future__ import annotations

import base64
import platform
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from . import __version__, machine
from .console import ERROR, OK, emit_json, json_option, new_table, print_table
from .errors import SegrdError

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
_INT8_FLAGS = {"avx2": "AVX2", "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "amx_int8": "AMX-INT8"}
_TIMEOUT_S = 60
_PROBE_CUDA = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
number = ctypes.c_int()
code = cuda.cuInit(0) or cuda.cuDriverGetVersion(ctypes.byref(number))
assert code == 0, f"cuInit failed with CUDA error {code}"
print(f"CUDA {number.value // 1000}.{number.value % 1000 // 10}")
"""


class Probe(NamedTuple):
    """Outcome of one attempt."""

    works: bool
    detail: str


def command(
    bundle: Annotated[
        Path | None, typer.Argument(help="Also run this bundle's golden images on every engine.", show_default=False)
    ] = None,
    json: Annotated[bool, json_option] = False,
) -> int:
    """Show what this machine has and which engines work. Exit code 0: an engine works; 2: none does."""
    report = examine(bundle)
    for table in _tables(report):
        print_table(table, as_json=json)
    if json:
        emit_json(report)
    return OK if report["ok"] else ERROR


def examine(bundle: str | Path | None = None) -> dict[str, Any]:
    """Everything that `segrd-doctor --json` prints. `ok` says whether an engine (and the bundle, if given) works."""
    from . import engines

    probes = {name: probe_engine(name) for name in engines.ENGINES}
    report: dict[str, Any] = {
        "ok": any(probe.works for probe in probes.values()),
        "segrd_edge": __version__,
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": machine.cpu(),
        "memory_gib": machine.memory_gib(),
        "engines": {
            name: {"version": engines.engine_class(name).version(), **probe._asdict()} for name, probe in probes.items()
        },
        "extras": _extras(),
        "nvidia_driver": _probe(_PROBE_CUDA)._asdict(),
        "tensorrt": "not in this release",
    }
    if bundle is not None:
        golden = {name: _probe_bundle(bundle, name) for name, probe in probes.items() if probe.works}
        report["bundle"] = {name: probe._asdict() for name, probe in golden.items()}
        report["ok"] = any(probe.works for probe in golden.values())
    return report


def probe_engine(name: str) -> Probe:
    """Load the tiny graph into an engine and check what it computes, in a process of its own."""
    return _probe(f"from segrd_edge.doctor import run_tiny_graph; print(run_tiny_graph({name!r}))")


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


def _probe(code: str) -> Probe:
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Probe(False, f"no answer within {_TIMEOUT_S} s")
    if done.returncode == 0:
        return Probe(True, done.stdout.strip())
    if done.returncode < 0:
        return Probe(False, f"the process was ended by signal {-done.returncode}")
    return Probe(False, _exception_text(done.stderr))


def _exception_text(stderr: str) -> str:
    """The message of a traceback, without the stack and without the exception's class."""
    last = re.split(r"^(?=\S*(?:Error|Exception)\b)", stderr.strip(), flags=re.MULTILINE)[-1]
    return re.sub(r"^[\w.]+: ", "", last).strip() or "failed without a message"


def _probe_bundle(bundle: str | Path, engine: str) -> Probe:
    from .detector import Detector

    try:
        with Detector(bundle, engine=engine) as detector:
            found = detector.self_test()
    except SegrdError as error:
        return Probe(False, str(error))
    return Probe(True, f"{found.frames} golden scores at {detector.precision} within {found.max_score_difference:.2g}")


def _extras() -> dict[str, dict[str, Any]]:
    """For each optional extra of the installed segrd-edge: which of its own packages are missing."""
    missing: dict[str, list[str]] = {}
    for requirement in requires("segrd-edge") or []:
        match = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", requirement)
        if match is not None and match[1] != "segrd-edge":
            missing.setdefault(match[2], []).extend([] if machine.package_version(match[1]) else [match[1]])
    return {
        extra: {"installed": not names, "missing": names, "fix": f"pip install 'segrd-edge[{extra}]'" if names else ""}
        for extra, names in missing.items()
    }


def _tables(report: dict[str, Any]) -> list[Any]:
    from rich.markup import escape

    cpu, flags, driver = report["cpu"], report["cpu"]["flags"], report["nvidia_driver"]
    facts = new_table("Machine", "", "")
    facts.show_header = False
    facts.columns[1].justify = "left"
    for name, value in (
        ("segrd-edge", report["segrd_edge"]),
        ("Python", report["python"]),
        ("system", report["os"]),
        ("processor", f"{cpu['model']}, {cpu['usable_cores']} of {cpu['cores']} logical cores usable"),
        ("INT8 arithmetic", "unknown" if flags is None else _listed(flags)),
        ("memory", "unknown" if report["memory_gib"] is None else f"{report['memory_gib']} GiB"),
        ("NVIDIA driver", driver["detail"] if driver["works"] else f"none ({driver['detail']})"),
        ("TensorRT", report["tensorrt"]),
    ):
        facts.add_row(name, escape(str(value)))
    works = new_table("Engines and extras", "", "version", "works", "detail")
    works.columns[3].justify = "left"
    for name, engine in report["engines"].items():
        works.add_row(name, engine["version"] or "none", _mark(engine["works"]), escape(engine["detail"]))
    for name, probe in report.get("bundle", {}).items():
        works.add_row(f"bundle on {name}", "", _mark(probe["works"]), escape(probe["detail"]))
    for name, extra in report["extras"].items():
        detail = "" if extra["installed"] else f"missing {', '.join(extra['missing'])}; {extra['fix']}"
        works.add_row(escape(f"[{name}]"), "", _mark(extra["installed"]), escape(detail))
    return [facts, works]


def _listed(flags: list[str]) -> str:
    return ", ".join(label for flag, label in _INT8_FLAGS.items() if flag in flags) or "no VNNI or AMX"


def _mark(works: bool) -> str:
    return "[green]yes[/]" if works else "[red]no[/]"
