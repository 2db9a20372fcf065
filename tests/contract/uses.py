"""Which names of the `trt` module our source touches, and which capabilities it asks for, found in its syntax tree.

The TensorRT module is whatever is bound by `import tensorrt as …` (or tensorrt_rtx), and whatever is called `trt` or
`_trt`: a variable, a parameter, or an attribute such as `self._trt`.

A capability switch is `hasattr(x, "name")` or `getattr(x, "name", None)`. A function with a switch whose name a release
lacks is not held to that release: it says itself what it does there. The releases that have the name check it whole.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

TENSORRT_PACKAGES = ("tensorrt", "tensorrt_rtx")
CALLED = frozenset({"trt", "_trt"})
STATIONS = ("segrd_edge", "training", "calibration", "export", "benchmarks")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Use(NamedTuple):
    """`name` is dotted below the TensorRT module, such as "BuilderFlag.TF32". A switch asks whether it is there."""

    line: int
    name: str
    is_switch: bool


def tensorrt_modules(root: Path) -> list[Path]:
    """The sources that talk to TensorRT: all below segrd_edge/tensorrt/, the TensorRT engines, and every other module
    of the package that imports a TensorRT package."""
    sources = sorted(path for station in STATIONS for path in (root / station).rglob("*.py"))
    return [path for path in sources if _by_place(path.relative_to(root)) or _imports_tensorrt(path)]


class Switch(NamedTuple):
    """A capability that a function asks for; `first` and `last` are the function's lines."""

    first: int
    last: int
    name: str


def switches(source: str) -> list[Switch]:
    """Every capability switch that stands in a function, of whatever object."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, _FUNCTIONS):
            asked = [_asked(node) for node in ast.walk(function) if isinstance(node, ast.Call)]
            last = function.end_lineno or function.lineno
            found += [Switch(function.lineno, last, a.name) for a in asked if a is not None and a.may_lack]
    return found


def uses(source: str) -> list[Use]:
    """Every use, in the order of the source's lines."""
    tree = ast.parse(source)
    finder = _Finder(_aliases(tree))
    finder.visit(tree)
    return sorted(set(finder.found))


def attribute_names(source: str) -> set[str]:
    """Every attribute name in the source, of whatever object."""
    return {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}


def _by_place(path: Path) -> bool:
    return path.parts[:2] == ("segrd_edge", "tensorrt") or (
        path.parts[:2] == ("segrd_edge", "engines") and path.stem.startswith("tensorrt")
    )


def _imports_tensorrt(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        if any(name.partition(".")[0] in TENSORRT_PACKAGES for name in names):
            return True
    return False


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Local name to dotted name below the TensorRT module; "" is the module itself."""
    found = dict.fromkeys(CALLED, "")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in TENSORRT_PACKAGES:
                    found[alias.asname or alias.name] = ""
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in TENSORRT_PACKAGES:
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
    return found


class _Finder(ast.NodeVisitor):
    def __init__(self, aliases: dict[str, str]) -> None:
        self.found: list[Use] = []
        self._aliases = aliases

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self._name(node)
        if name is None:
            self.generic_visit(node)
            return
        if name:
            self.found.append(Use(node.lineno, name, False))
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            inner = inner.value
        self.visit(inner)  # flavour(trt.X).trt.Y: what stands in front may use the module too

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0 and node.module in TENSORRT_PACKAGES:
            self.found += [Use(node.lineno, alias.name, False) for alias in node.names]

    def visit_Call(self, node: ast.Call) -> None:
        asked = _asked(node)
        owner = None if asked is None else self._name(node.args[0])
        if asked is not None and owner is not None:
            self.found.append(Use(node.lineno, f"{owner}.{asked.name}".lstrip("."), asked.may_lack))
        self.generic_visit(node)

    def _name(self, node: ast.expr) -> str | None:
        """The dotted name below the TensorRT module that an expression stands for, or None."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in self._aliases:
            return ".".join([self._aliases[node.id], *parts]).strip(".")
        modules = [i for i, part in enumerate(parts) if part in CALLED]
        return ".".join(parts[modules[0] + 1 :]) if modules else None


class _Asked(NamedTuple):
    name: str
    may_lack: bool


def _asked(call: ast.Call) -> _Asked | None:
    """What getattr or hasattr with a literal name asks for."""
    if not (isinstance(call.func, ast.Name) and call.func.id in ("getattr", "hasattr") and len(call.args) >= 2):
        return None
    literal = call.args[1]
    if not (isinstance(literal, ast.Constant) and isinstance(literal.value, str)):
        return None
    return _Asked(literal.value, call.func.id == "hasattr" or len(call.args) == 3)
