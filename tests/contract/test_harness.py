"""The parts of the contract test that need no download: what counts as a use, and how stubs are repaired."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .stubs import repair
from .typecheck import module_name
from .typed import with_types
from .uses import Switch, switches, tensorrt_modules, uses


def found(source: str) -> set[tuple[str, bool]]:
    return {(use.name, use.is_switch) for use in uses(source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import tensorrt as t\nt.Builder(0).x", {"Builder"}),
        ("import tensorrt\ntensorrt.ILogger.Severity.ERROR", {"ILogger.Severity.ERROR"}),
        ("import tensorrt_rtx as r\nr.Runtime", {"Runtime"}),
        ("def f(trt): return trt.BuilderFlag.TF32", {"BuilderFlag.TF32"}),
        ("class A:\n def f(self): return self._trt.Logger", {"Logger"}),
        ("flavour().trt.OnnxParser(network)", {"OnnxParser"}),
        ("a(trt.Dims).trt.Weights", {"Dims", "Weights"}),
        ("from tensorrt import Builder as B\nB.create", {"Builder", "Builder.create"}),
        ("def f(e: trt.ICudaEngine) -> None: ...", {"ICudaEngine"}),
        ("trt", set()),
        ("from .tensorrt import builder\nbuilder.build", set()),
        ("import numpy as np\nnp.float32", set()),
    ],
)
def test_uses(source: str, expected: set[str]) -> None:
    assert found(source) == {(name, False) for name in expected}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("getattr(trt.BuilderFlag, 'FP16', None)", {("BuilderFlag", False), ("BuilderFlag.FP16", True)}),
        ("hasattr(trt, 'IStreamReaderV2')", {("IStreamReaderV2", True)}),
        ("getattr(trt, 'Builder')", {("Builder", False)}),
        ("getattr(trt.BuilderFlag, name, None)", {("BuilderFlag", False)}),
        ("getattr(other, 'X', None)", set()),
    ],
)
def test_capability_switches(source: str, expected: set[tuple[str, bool]]) -> None:
    assert found(source) == expected


def test_a_switch_covers_its_function() -> None:
    source = (
        "def f(config):\n"
        "    if hasattr(config, 'x'):\n"
        "        config.x = 1\n"
        "def g(config):\n"
        "    config.x = getattr(config, 'y')\n"
        "    getattr(config, name, None)\n"
    )
    assert switches(source) == [Switch(1, 3, "x")]


def test_types_take_the_place_of_any() -> None:
    source = (
        "from __future__ import annotations\n"
        "def checked(x: Any) -> Any: ...\n"
        "def f(trt: Any, logger: Any, other: Any, config: Config) -> None:\n"
        "    builder = checked(trt.Builder(logger, 'é', self._trt.X))\n"
        "    builder = checked(None)\n"
        "    config = checked(f'{trt.__version__}')\n"
        "    self.engine: Any = None\n"
    )
    assert with_types(source).splitlines() == [
        "from __future__ import annotations; import tensorrt as _tensorrt_module",
        "def checked(x: Any) -> Any: ...",
        "def f(trt: Any, logger: _tensorrt_module.ILogger, other: Any, config: Config) -> None:",
        "    builder: _tensorrt_module.Builder = checked(_tensorrt_module.Builder(logger, 'é', _tensorrt_module.X))",
        "    builder = checked(None)",
        "    config = checked(f'{trt.__version__}')",
        "    self.engine: _tensorrt_module.ICudaEngine = None",
    ]


def test_sources_without_tensorrt_stay_as_they_are() -> None:
    source = "def f(frame: Any) -> Any:\n    return frame\n"
    assert with_types(source) == source


def test_lines_are_those_of_the_source() -> None:
    assert [use.line for use in uses("import tensorrt as trt\n\ntrt.A\n(\n  trt.B\n)\n")] == [3, 5]


def test_modules_are_discovered_by_place_and_by_import(tmp_path: Path) -> None:
    sources = {
        "segrd_edge/tensorrt/plan.py": "",
        "segrd_edge/engines/tensorrt_lean.py": "",
        "segrd_edge/engines/openvino.py": "import numpy",
        "segrd_edge/doctor.py": "def f():\n    import tensorrt",
        "export/engine.py": "from tensorrt_rtx import Builder",
        "export/other.py": "from .tensorrt import build",
        "tests/test_x.py": "import tensorrt",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert {module_name(path, tmp_path) for path in tensorrt_modules(tmp_path)} == {
        "segrd_edge.tensorrt.plan",
        "segrd_edge.engines.tensorrt_lean",
        "segrd_edge.doctor",
        "segrd_edge.export.engine",
    }


def test_signatures_that_are_no_python_become_untyped() -> None:
    generated = (
        "import typing\n"
        "class Plugin:\n"
        "    def size(self, in: list[int], out: list[int]) -> int:\n"
        "        ...\n"
        "    def scale(self, a: int = 0, b: int) -> int:\n"
        "        ...\n"
        "    def fine(self, a: int = 0) -> int:\n"
        '        """A docstring: def in(in: it) -> x:"""\n'
    )
    repaired = repair(generated)
    assert repaired.untyped == {"size", "scale"}
    functions = [n for n in ast.walk(ast.parse(repaired.text)) if isinstance(n, ast.FunctionDef)]
    signatures = {function.name: ast.unparse(function.args) for function in functions}
    assert signatures["fine"] == "self, a: int=0"
    assert signatures["size"] == signatures["scale"] == "self, *args: typing.Any, **kwargs: typing.Any"


def test_other_errors_in_a_stub_are_not_hidden() -> None:
    with pytest.raises(SyntaxError):
        repair("class Plugin:\n    x = = 1\n")


def test_what_python_grants_is_written_down() -> None:
    generated = (
        "import typing\n"
        "class Dims:\n"
        "    def __len__(self) -> int: ...\n"
        "    @typing.overload\n"
        "    def __getitem__(self, i: int) -> int: ...\n"
        "    @typing.overload\n"
        "    def __getitem__(self, i: slice) -> tuple: ...\n"
        "class Plan:\n"
        '    """Exposes a buffer interface, by the buffer protocol."""\n'
        "class Half:\n"
        "    def __len__(self) -> int: ...\n"
        "def reshape(dims: Dims) -> Dims: ...\n"
        "def step(done: typing.SupportsInt) -> None: ...\n"
        "def first(at: nvinfer1::Dims = <Dims.NONE: 0>) -> nvonnxparser::IPlan:\n"
        "    ...\n"
        "def last() -> nvinfer1::v_1_0::Unknown: ...\n"
    )
    dims, plan, half, reshape, step, first, last = ast.parse(repair(generated).text).body[1:]
    assert "def __iter__(self) -> typing.Iterator[int]" in ast.unparse(dims)
    assert "def __buffer__(self, flags: int, /) -> memoryview" in ast.unparse(plan)
    assert "__iter__" not in ast.unparse(half)
    assert ast.unparse(first).startswith("def first(at: Dims | typing.Iterable[int]=...) -> Plan:")
    assert ast.unparse(last).startswith("def last() -> typing.Any:")
    assert ast.unparse(step).startswith("def step(done: int) -> None:")
    assert ast.unparse(reshape).startswith("def reshape(dims: Dims | typing.Iterable[int]) -> Dims:")
