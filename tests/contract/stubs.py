"""Turns what pybind11-stubgen writes for TensorRT into stubs that a type checker can read.

pybind11 takes signatures from C++, where names and defaults obey other rules: a parameter called `in`, or one without a
default after one with. Such a signature becomes untyped, and is reported, so that nobody relies on a check which is not
made. C++ types, such as nvonnxparser::IParserError, become the Python classes of that name. What Python grants without
a method to show for it is written down:

- iteration, to a class with `__getitem__` and `__len__` (the sequence protocol);
- `bytes(plan)`, to a class whose own documentation speaks of the buffer protocol;
- a tuple where Dims is asked for, which the documentation of Dims promises.

Newer bindings say SupportsInt where older ones say int, of arguments that they take and of those that they give to a
callback; int is what both mean for a callback, and what the older ones take.
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

_CPP_TYPE = re.compile(r"\bnv\w+::(?:\w+::)*(\w+)")
_SIGNATURE = re.compile(r"^( *)def (\w+)\(.*:$")


class Repaired(NamedTuple):
    """A stub's text, and the names of the functions whose signatures it lost."""

    text: str
    untyped: frozenset[str]


def repair(text: str) -> Repaired:
    """Make a stub readable.

    Raises:
        SyntaxError: what remains is no Python for another reason.
    """
    lines, untyped = [], set()
    text = text.replace("typing.SupportsInt", "int").replace("typing.SupportsFloat", "float")
    for line in _in_python(text).splitlines():
        match = _SIGNATURE.match(line)
        if match is not None and not _is_python(line):
            indent, name = match[1], match[2]
            untyped.add(name)
            line = f"{indent}def {name}(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:"
        lines.append(line)
    tree = ast.parse("\n".join(lines))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            _make_iterable(node)
            _make_buffer(node)
        elif isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name) and node.annotation.id == "Dims":
            node.annotation = ast.parse("Dims | typing.Iterable[int]", mode="eval").body
    return Repaired(ast.unparse(tree) + "\n", frozenset(untyped))


def _in_python(text: str) -> str:
    """The text with Python's names for C++ types, and without defaults that are no expressions."""
    classes = set(re.findall(r"^class (\w+)", text, re.MULTILINE))

    def python_name(match: re.Match[str]) -> str:
        names = [name for name in (match[1], match[1].removeprefix("I")) if name in classes]
        return names[0] if names else "typing.Any"

    return re.sub(r"= <[\w.]+: -?\d+>", "= ...", _CPP_TYPE.sub(python_name, text))


def _is_python(signature: str) -> bool:
    try:
        ast.parse(signature.strip() + " ...")
    except SyntaxError:
        return False
    return True


def _make_iterable(node: ast.ClassDef) -> None:
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    if not {"__getitem__", "__len__"} <= methods or "__iter__" in methods:
        return
    returns = [item.returns for item in node.body if isinstance(item, ast.FunctionDef) and _takes_an_index(item)]
    element = ast.unparse(returns[0]) if returns and returns[0] is not None else "typing.Any"
    node.body += ast.parse(f"def __iter__(self) -> typing.Iterator[{element}]: ...").body


def _takes_an_index(function: ast.FunctionDef) -> bool:
    """Whether it is `__getitem__`, and not the overload for slices."""
    return function.name == "__getitem__" and "slice" not in ast.unparse(function.args)


def _make_buffer(node: ast.ClassDef) -> None:
    if "buffer protocol" in (ast.get_docstring(node) or ""):
        node.body += ast.parse("def __buffer__(self, flags: int, /) -> memoryview: ...").body
