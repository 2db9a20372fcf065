"""Our TensorRT modules against the real bindings of every release that they are to run on, with no GPU.

What is checked: the names of the module, and the types of every call on an object whose class is known (`typed` says
how). What cannot be checked this way: what TensorRT does, and calls on objects of which only Any is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from .bindings import ROOT, Bindings
from .typecheck import check_files, check_modules
from .typed import copy_package, with_types
from .uses import attribute_names, switches, tensorrt_modules, uses

pytestmark = pytest.mark.contract

SAMPLES = Path(__file__).with_name("samples")


class Source(NamedTuple):
    """A module's path below the checkout, and its text."""

    path: str
    text: str


RIGHT, WRONG, WRONG_ANY = (
    Source(name, (SAMPLES / name).read_text(encoding="utf-8")) for name in ("right.py", "wrong.py", "wrong_any.py")
)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    found = tensorrt_modules(ROOT)
    assert found, "no module of segrd_edge talks to TensorRT any more: where did they go?"
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in found]


@pytest.fixture(scope="module")
def copies(sources: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, with TensorRT's types in the modules that talk to it."""
    folder = tmp_path_factory.mktemp("typed") / "source"
    copy_package(ROOT, [ROOT / source.path for source in sources], folder)
    return folder


def _excused(source: Source, line: int, bindings: Bindings, all_bindings: list[Bindings]) -> bool:
    """Whether the line's function asks for a capability that this release lacks, and another release has."""
    lacking = set().union(*(other.members for other in all_bindings)) - bindings.members
    return any(s.first <= line <= s.last and s.name in lacking for s in switches(source.text))


def _missing_names(bindings: Bindings, all_bindings: list[Bindings], sources: list[Source]) -> list[str]:
    used = [(source, use) for source in sources for use in uses(source.text) if not use.is_switch]
    missing = bindings.missing([use.name for _, use in used])
    return [
        f"{bindings.release.name}: {source.path}:{use.line}: trt.{use.name}"
        for source, use in used
        if use.name in missing and not _excused(source, use.line, bindings, all_bindings)
    ]


def _unknown_switches(all_bindings: list[Bindings], sources: list[Source]) -> list[str]:
    asked = [(source.path, use) for source in sources for use in uses(source.text) if use.is_switch]
    names = [use.name for _, use in asked]
    nowhere = set(names).intersection(*(bindings.missing(names) for bindings in all_bindings))
    return [f"{path}:{use.line}: trt.{use.name}" for path, use in asked if use.name in nowhere]


def _marked(kind: str, sample: Source, bindings: Bindings) -> set[int]:
    """Lines of a sample that carry `# no <kind>: which`, where the release at hand is one of those."""
    version = bindings.release.version
    applies = {"all": True, "10.3": version.startswith("10.3."), "11": not version.startswith("10.")}
    return {
        number
        for number, line in enumerate(sample.text.splitlines(), start=1)
        for mark in line.split("# ")[1:]
        if "`" not in line and mark.startswith(f"no {kind}: ") and applies[mark.split(": ")[1].strip()]
    }


def test_the_bindings_are_the_release_they_are_named_after(bindings: Bindings) -> None:
    needed = ["Builder", "Runtime", "OnnxParser", "ICudaEngine.create_execution_context", "NoSuchName"]
    assert bindings.missing(needed) == {"NoSuchName"}
    stub = next((bindings.stubs / bindings.release.module).glob("__init__.pyi")).read_text(encoding="utf-8")
    assert f"'{bindings.release.version}" in stub


def test_right_sample_passes(bindings: Bindings, all_bindings: list[Bindings]) -> None:
    assert len(uses(RIGHT.text)) > 15
    assert _missing_names(bindings, all_bindings, [RIGHT]) == []
    found = check_files(bindings, SAMPLES / RIGHT.path)
    assert [p for p in found if not _excused(RIGHT, p.line, bindings, all_bindings)] == []


def test_wrong_sample_is_refused_line_by_line(bindings: Bindings, all_bindings: list[Bindings]) -> None:
    missing = _missing_names(bindings, all_bindings, [WRONG])
    assert {int(problem.split(":")[2]) for problem in missing} == _marked("name", WRONG, bindings)
    found = check_files(bindings, SAMPLES / WRONG.path)
    assert {problem.line for problem in found} == _marked("type", WRONG, bindings)


def test_wrong_sample_is_refused_where_it_says_any(
    bindings: Bindings, all_bindings: list[Bindings], tmp_path: Path
) -> None:
    missing = _missing_names(bindings, all_bindings, [WRONG_ANY])
    assert {int(problem.split(":")[2]) for problem in missing} == _marked("name", WRONG_ANY, bindings)
    assert check_files(bindings, SAMPLES / WRONG_ANY.path) == []  # on Any, mypy has nothing to say
    typed = tmp_path / "typed.py"
    typed.write_text(with_types(WRONG_ANY.text), encoding="utf-8")
    assert {problem.line for problem in check_files(bindings, typed)} == _marked("type", WRONG_ANY, bindings)


def test_misspelt_switch_of_the_sample_is_in_no_release(all_bindings: list[Bindings]) -> None:
    (found,) = _unknown_switches(all_bindings, [WRONG])
    assert found.endswith(": trt.BuilderFlag.EDITABLE_TIMING_CASH")


def test_every_name_exists(bindings: Bindings, all_bindings: list[Bindings], sources: list[Source]) -> None:
    assert any(uses(source.text) for source in sources), "modules were found, and not one name of TensorRT in them"
    problems = _missing_names(bindings, all_bindings, sources)
    assert not problems, "this release lacks (ask with getattr or hasattr):\n" + "\n".join(problems)


def test_every_switch_exists_somewhere(all_bindings: list[Bindings], sources: list[Source]) -> None:
    unknown = _unknown_switches(all_bindings, sources)
    assert not unknown, "asked for with getattr or hasattr, and in no release:\n" + "\n".join(unknown)


def test_every_call_fits(bindings: Bindings, all_bindings: list[Bindings], sources: list[Source], copies: Path) -> None:
    by_path = {source.path: source for source in sources}
    problems = [
        problem
        for problem in check_modules(bindings, ROOT, [ROOT / source.path for source in sources], copies)
        if problem.path in by_path and not _excused(by_path[problem.path], problem.line, bindings, all_bindings)
    ]
    listed = "\n".join(f"{bindings.release.name}: {p.path}:{p.line}: {p.text}" for p in problems)
    assert not problems, f"calls that this release does not take:\n{listed}"


def test_no_call_relies_on_an_unreadable_signature(bindings: Bindings, sources: list[Source]) -> None:
    named = set().union(*(attribute_names(source.text) for source in sources))
    assert not named & bindings.untyped, "their generated signatures are no Python, so their calls are not checked"
