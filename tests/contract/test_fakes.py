"""The fake GPU of tests/fakes against the real packages: every name that it has exists there, and takes the same
parameters. So a test on the fake cannot pass with a call that the real package would not take."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from ..fakes.gpu import NOT_LEAN
from .bindings import ROOT, Bindings
from .conftest import prepared
from .packages import CUDA_BINDINGS, PYCUDA, cuda_bindings, pycuda
from .releases import LEAN_RELEASES
from .surface import Surface, differences, of_python
from .typecheck import check_modules
from .typed import copy_package
from .uses import uses

pytestmark = pytest.mark.contract

FAKES = ROOT / "tests" / "fakes"
OWN = frozenset({"gpu", "MAGIC", "ALIGNMENT", "make_plan", "precision_of"})
ENUMERATIONS = ("DataType", "TensorIOMode", "ILogger.Severity", "ProfilingVerbosity")
# Modules that run plans, and so run with the lean runtime too.
RUNNING = ("segrd_edge/engines/tensorrt_runner.py", "segrd_edge/tensorrt/plan.py", "segrd_edge/tensorrt/log.py")


@cache
def fake(name: str) -> Surface:
    return of_python((FAKES / f"{name}.py").read_text(encoding="utf-8"))


def public(surface: Surface) -> list[str]:
    return [name for name in surface if name not in OWN and "_" not in (name[0], name.rpartition(".")[2][0])]


def test_the_fakes_have_what_is_compared() -> None:
    assert "IExecutionContext.execute_async_v3" in fake("tensorrt")
    assert "cuGraphLaunch" in fake("cuda_bindings_driver")
    assert "Stream.synchronize" in fake("pycuda_driver")


def test_tensorrt(bindings: Bindings) -> None:
    found = differences(fake("tensorrt"), of_python(bindings.stub), own=OWN, unreadable=bindings.untyped)
    assert not found, f"{bindings.release.name}:\n" + "\n".join(found)


def test_numbers_of_tensorrt(bindings: Bindings) -> None:
    """The log's severities are told apart by their numbers."""
    from ..fakes import tensorrt

    for enumeration in ENUMERATIONS:
        owner = tensorrt.ILogger.Severity if enumeration == "ILogger.Severity" else getattr(tensorrt, enumeration)
        members = {f"{enumeration}.{member.name}": int(member.value) for member in owner}
        assert bindings.numbers(list(members)) == members


@pytest.fixture(scope="module", params=LEAN_RELEASES, ids=lambda release: release.name)
def lean(request: pytest.FixtureRequest) -> Bindings:
    found = prepared(request.param)
    if not isinstance(found, Bindings):
        pytest.skip(f"{request.param.machines} is not checked: {found}")
    return found


def test_tensorrt_lean(lean: Bindings) -> None:
    running = {name: s for name, s in fake("tensorrt").items() if name.partition(".")[0] not in NOT_LEAN}
    found = differences(running, of_python(lean.stub), own=OWN, unreadable=lean.untyped)
    assert not found, f"{lean.release.name}:\n" + "\n".join(found)


def test_what_runs_plans_runs_with_the_lean_runtime(lean: Bindings, tmp_path: Path) -> None:
    modules = [ROOT / path for path in RUNNING]
    used = [use.name for path in modules for use in uses(path.read_text(encoding="utf-8")) if not use.is_switch]
    assert "Runtime" in used
    # The inspector is asked for by the builder's side, on the machine that built.
    assert lean.missing(used) - {"LayerInformationFormat.JSON"} == set()
    copies = tmp_path / "source"
    copy_package(ROOT, modules, copies)
    problems = [
        p for p in check_modules(lean, ROOT, modules, copies) if p.path in RUNNING and "LayerInformation" not in p.text
    ]
    assert problems == []


@pytest.mark.parametrize("version", CUDA_BINDINGS)
def test_cuda_bindings(version: str) -> None:
    surface = fake("cuda_bindings_driver")
    real, numbers = cuda_bindings(version, [name for name in public(surface) if "." not in name])
    assert differences(surface, real, own=OWN) == []
    from ..fakes import cuda_bindings_driver as driver

    for owner in (driver.CUresult, driver.CUstreamCaptureMode):
        for member in owner:
            assert numbers[f"{owner.__name__}.{member.name}"] == member.value


@pytest.mark.parametrize("version", PYCUDA)
def test_pycuda(version: str) -> None:
    assert differences(fake("pycuda_driver"), pycuda(version), own=OWN) == []


# What is compared notices a difference. Each line of the fake below is wrong in one way.

REAL = """
class Runtime:
    def __init__(self, logger: ILogger) -> None: ...
    def load(self, path: str, mode: int = 0) -> Engine: ...
    @property
    def logger(self) -> ILogger: ...
"""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("def load(self, path, mode=0): ...", None),
        ("def load(self, path): ...", None),
        ("def _load(self, anything): ...", None),
        ("def load(self, file, mode=0): ...", "takes (path, mode; 1 required), and the fake (file, mode; 1 required)"),
        ("def load(self): ...", "Runtime.load takes"),
        ("def load(self, path, mode): ...", "Runtime.load takes"),
        ("def load(self, path, mode=0, more=0): ...", "Runtime.load takes"),
        ("def save(self): ...", "Runtime.save does not exist"),
        ("    def __init__(self, log): ...".strip(), "Runtime.__init__ takes"),
        ("threads = 0", "Runtime.threads does not exist"),
        ("logger = None", None),
    ],
)
def test_a_difference_is_noticed(line: str, says: str | None) -> None:
    found = differences(of_python(f"class Runtime:\n    {line}\n"), of_python(REAL))
    assert [says in text for text in found] == ([] if says is None else [True])


def test_a_name_that_pycuda_lacks_is_noticed() -> None:
    wrong = """
class Stream:
    def __init__(self, options=0): ...
    def synchronise(self): ...
    def is_done(self, now): ...
def memcpy_htod_async(dest, src, queue=None): ...
"""
    found = differences(of_python(wrong), pycuda(PYCUDA[-1]))
    assert [text.split()[0] for text in found] == [
        "Stream.__init__",
        "Stream.synchronise",
        "Stream.is_done",
        "memcpy_htod_async",
    ]
