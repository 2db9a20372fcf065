"""What a module offers: its names, and the parameters of what can be called. For the tests that hold the fakes of
tests/fakes to the packages that they stand in for.

    of_python  from Python's source or a stub
    of_pycuda  from pycuda's C++ source, in which boost::python names every class, method and parameter
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple


class Signature(NamedTuple):
    """Parameters without self. `names` is None where they cannot be passed by name, or are not known."""

    names: tuple[str, ...] | None
    required: int


# Dotted name → its signatures, several where it is overloaded, none where it cannot be called.
Surface = dict[str, list[Signature]]


def differences(
    fake: Surface, real: Surface, *, own: frozenset[str] = frozenset(), unreadable: frozenset[str] = frozenset()
) -> list[str]:
    """What the fake has and the real one has not, or takes otherwise.

    Args:
        own: names that the fake has for itself, besides those with an underscore.
        unreadable: names of functions whose real parameters are not known.
    """
    found = []
    for name, signatures in fake.items():
        last = name.rpartition(".")[2]
        if name in own or any(part.startswith("_") for part in name.split(".") if part != "__init__"):
            continue
        if name not in real and last != "__init__":
            found.append(f"{name} does not exist")
        elif last not in unreadable and signatures and real.get(name) and not _fits(signatures, real[name]):
            found.append(f"{name} takes {_shown(real[name])}, and the fake {_shown(signatures)}")
    return found


def _fits(fakes: list[Signature], reals: list[Signature]) -> bool:
    return all(any(_suits(fake, real) for real in reals) for fake in fakes)


def _suits(fake: Signature, real: Signature) -> bool:
    """Whether what the fake takes, the real one takes. The fake may leave out what is optional at the end."""
    if fake.names is None or real.names is None:
        return fake.names in (None, ()) and real.names is None
    return fake.names == real.names[: len(fake.names)] and fake.required == real.required


def _shown(signatures: list[Signature]) -> str:
    return " or ".join(f"({', '.join(s.names or ['positions alone'])}; {s.required} required)" for s in signatures)


def of_python(source: str) -> Surface:
    """Every name of a module and of the classes in it."""
    return dict(_merged(_body(ast.parse(source).body, "")))


def _merged(entries: Iterator[tuple[str, list[Signature]]]) -> Surface:
    surface: Surface = {}
    for name, signatures in entries:
        surface.setdefault(name, []).extend(signatures)
    return surface


def _body(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, list[Signature]]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield f"{prefix}{node.name}", []
            yield from _body(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", [] if _is_property(node) else [_signature(node, is_method=bool(prefix))]
            if prefix and node.name == "__init__":
                yield from ((f"{prefix}{name}", []) for name in _own_attributes(node))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from ((f"{prefix}{name}", []) for name in _targets(node))


def _is_property(node: ast.FunctionDef) -> bool:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return "property" in decorators or any(name.endswith(".setter") for name in decorators)


def _signature(node: ast.FunctionDef, *, is_method: bool) -> Signature:
    arguments = node.args
    is_static = any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
    everything = [*arguments.posonlyargs, *arguments.args][1 if is_method and not is_static else 0 :]
    names = None if arguments.posonlyargs and everything else tuple(a.arg for a in everything)
    return Signature(names, len(everything) - len(arguments.defaults))


def _own_attributes(constructor: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(constructor):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def _targets(node: ast.Assign | ast.AnnAssign) -> Iterator[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for target in targets:
        yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))


_CLASS = re.compile(
    r"typedef\s+(?:\w+::)*(?P<type>\w+)\s+cl;\s*"
    r'py::class_<(?P<parameters>[^;{]*?)>\s*(?:wrp\s*)?\(\s*"(?P<name>\w+)"\s*,?\s*(?P<init>.*?)\)\s*(?=[;.])',
    re.DOTALL,
)
_MEMBER = re.compile(
    r'\.def\("(?P<name>\w+)"(?P<rest>(?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)'
    r"|\.DEF_SIMPLE_METHOD\((?P<simple>\w+)\)"
    r'|\.add_property\("(?P<property>\w+)"'
    r'|\.attr\("(?P<attribute>\w+)"\)'
    r'|\.value\("(?P<value>\w+)"'
)
_FUNCTION = re.compile(r'py::def\("(?P<name>\w+)"(?P<rest>[^;]*)\);|DEF_SIMPLE_FUNCTION\((?P<simple>\w+)\);')
_NAMES = re.compile(r'py::args?\((?P<names>(?:"\w+"(?:,\s*)?)+)\)(?P<default>\s*=)?')
_ENUM = re.compile(r'py::enum_<\w+>\("(?P<name>\w+)"\)(?P<body>[^;]*);')
_FLAGS = re.compile(r'py::class_<\w+> cls\("(?P<name>\w+)", py::no_init\);(?P<body>.*?)\n  \}', re.DOTALL)


def of_pycuda(source: str) -> Surface:
    """The module `pycuda._driver`, from wrap_cudadrv.cpp. Parameters are known where they have names."""
    return _merged(_pycuda(re.sub(r"^#.*$", "", source, flags=re.MULTILINE)))  # without the preprocessor's lines


def _pycuda(source: str) -> Iterator[tuple[str, list[Signature]]]:
    yield from ((name, []) for name in re.findall(r"DECLARE_EXC\((\w+),", source))
    for match in _FUNCTION.finditer(source):
        yield (match["name"] or match["simple"]), [_boost_signature(match["rest"] or "")]
    for match in [*_ENUM.finditer(source), *_FLAGS.finditer(source)]:
        yield match["name"], []
        yield from _members(match["name"], match["body"])
    names = {match["type"]: match["name"] for match in _CLASS.finditer(source)}
    for match in _CLASS.finditer(source):
        yield match["name"], []
        if "py::init" in match["init"]:
            yield f"{match['name']}.__init__", [_boost_signature(match["init"], optional="optional" in match["init"])]
        yield from _members(match["name"], _rest_of_class(source, match.end()))
        for base in re.findall(r"py::bases<(\w+)>", match["parameters"]):
            (parent,) = [m for m in _CLASS.finditer(source) if m["name"] == names[base]]
            yield from _members(match["name"], _rest_of_class(source, parent.end()))


def _rest_of_class(source: str, start: int) -> str:
    """To the end of the block that the class is declared in."""
    end = re.compile(r"\n  \}").search(source, start)
    return source[start : end.start() if end else None]


def _members(owner: str, body: str) -> Iterator[tuple[str, list[Signature]]]:
    for match in _MEMBER.finditer(body):
        if match["name"]:
            yield f"{owner}.{match['name']}", [_boost_signature(match["rest"])]
        elif match["simple"]:
            yield f"{owner}.{match['simple']}", [Signature(None, 0)]
        else:
            yield f"{owner}.{match['property'] or match['attribute'] or match['value']}", []


def _boost_signature(text: str, *, optional: bool = False) -> Signature:
    """Parameters that boost::python was given names for, all or none of them."""
    names: list[str] = []
    required = 0
    for match in _NAMES.finditer(text):
        found = [name for name in re.findall(r'"(\w+)"', match["names"]) if name != "self"]
        names += found
        required += 0 if match["default"] or optional else len(found)
    return Signature(tuple(names) if names else None, required)
