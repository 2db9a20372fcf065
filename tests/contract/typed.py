"""Copies of our TensorRT modules in which mypy sees TensorRT's types.

TensorRT brings no stubs and comes in two flavours, so our source passes the module around, as `trt: Any`. In the copies
`trt` is the module of the release at hand, and what is annotated Any under one of the names in CLASSES is an object of
that class: a parameter, a declared variable, or a variable that a function returning Any fills. Lines keep their
numbers.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import NamedTuple

from .uses import CALLED, STATIONS

# Our names for TensorRT's objects. An object under another name is checked where TensorRT returned it, or where it is
# annotated with its class.
CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "logger": "ILogger",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "severity": "ILogger.Severity",
    "tensor": "ITensor",
    "timing_cache": "ITimingCache",
}
_MODULE = "_tensorrt_module"
_FUTURE = "from __future__ import annotations\n"
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class _Edit(NamedTuple):
    line: int  # from 1
    start: int  # bytes
    end: int
    text: str


def copy_package(root: Path, modules: list[Path], folder: Path) -> None:
    """The package as it is installed, below `folder`, with types in the modules named."""
    shutil.rmtree(folder, ignore_errors=True)
    for station in STATIONS:
        target = folder / "segrd_edge" / ("" if station == "segrd_edge" else station)
        for path in (root / station).rglob("*.py"):
            copy = target / path.relative_to(root / station)
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8")
            copy.write_text(with_types(text) if path in modules else text, encoding="utf-8")


def with_types(source: str) -> str:
    """The source with TensorRT's types in the place of Any. Unchanged where it does not speak of TensorRT."""
    tree = ast.parse(source)
    in_text = {id(node) for text in ast.walk(tree) if isinstance(text, ast.JoinedStr) for node in ast.walk(text)}
    edits: list[_Edit] = []
    for node in ast.walk(tree):
        if id(node) in in_text:  # before Python 3.12 these have no position of their own
            continue
        if isinstance(node, ast.Attribute | ast.Name) and _is_module(node):
            edits.append(_replace(node, _MODULE))
        elif isinstance(node, ast.arg) and _is_any(node.annotation):
            edits += _annotate(node.arg, node.annotation)
        elif isinstance(node, ast.AnnAssign) and _is_any(node.annotation):
            name = node.target.attr if isinstance(node.target, ast.Attribute) else getattr(node.target, "id", "")
            edits += _annotate(name, node.annotation)
        elif isinstance(node, _FUNCTIONS):
            edits += _declare_variables(node, _returning_any(tree))
    if not edits:
        return source
    typed = _apply(source, edits)
    assert _FUTURE in typed, "our modules begin with the future import of annotations"
    return typed.replace(_FUTURE, _FUTURE.replace("\n", f"; import tensorrt as {_MODULE}\n"), 1)


def _is_module(node: ast.Attribute | ast.Name) -> bool:
    """`trt` or `self._trt`, where it is read."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id
    return name in CALLED and isinstance(node.ctx, ast.Load) and node.lineno == node.end_lineno


def _is_any(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == "Any"


def _annotate(name: str, annotation: ast.expr | None) -> list[_Edit]:
    known = CLASSES.get(name.lstrip("_"))
    return [] if known is None or annotation is None else [_replace(annotation, f"{_MODULE}.{known}")]


def _returning_any(tree: ast.Module) -> set[str]:
    return {node.name for node in tree.body if isinstance(node, _FUNCTIONS) and _is_any(node.returns)}


def _declare_variables(function: ast.FunctionDef | ast.AsyncFunctionDef, any_functions: set[str]) -> list[_Edit]:
    """`network = _checked(…)`, where _checked returns Any: the first such assignment of each name gets its class."""
    arguments = function.args
    taken = {a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
    edits = []
    assignments = [node for node in ast.walk(function) if isinstance(node, ast.Assign) and len(node.targets) == 1]
    for node in sorted(assignments, key=lambda node: node.lineno):
        target, value = node.targets[0], node.value
        if not isinstance(target, ast.Name) or target.id in taken:
            continue
        taken.add(target.id)
        known = CLASSES.get(target.id)
        from_any = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in any_functions
        if known is not None and from_any:
            edits.append(_replace(target, f"{target.id}: {_MODULE}.{known}"))
    return edits


def _replace(node: ast.expr, text: str) -> _Edit:
    return _Edit(node.lineno, node.col_offset, node.end_col_offset or 0, text)


def _apply(source: str, edits: list[_Edit]) -> str:
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    outermost = sorted(set(edits), key=lambda edit: (edit.line, edit.start, -edit.end))
    done = (0, 0)
    kept = []
    for edit in outermost:  # self.trt.trt: the outer expression replaces the inner one
        if (edit.line, edit.start) >= done:
            kept.append(edit)
            done = (edit.line, edit.end)
    for edit in reversed(kept):
        line = lines[edit.line - 1]
        lines[edit.line - 1] = line[: edit.start] + edit.text.encode() + line[edit.end :]
    return b"".join(lines).decode()
