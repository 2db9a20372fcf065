"""mypy over our TensorRT modules, with the stubs of one release in the place of TensorRT."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .bindings import CACHE, Bindings
from .uses import STATIONS

# The ordinary run of mypy is strict. This one asks only whether the calls fit the release, so it says nothing of
# ignores that one release needs and another does not. What TensorRT returns as null, its signatures do not mention.
_SETTINGS = """[mypy]
check_untyped_defs = True
ignore_missing_imports = True
follow_imports = silent
show_error_codes = True
show_absolute_path = True
color_output = False
error_summary = False
[mypy-tensorrt.*,tensorrt_rtx.*]
ignore_errors = True
"""
_LINE = re.compile(r"^(?P<path>[^:]+):(?P<line>\d+)(?::\d+)?: error: (?P<text>.*)$")


class Problem(NamedTuple):
    """One error: file, line from 1, and mypy's sentence."""

    path: str
    line: int
    text: str


def check_files(bindings: Bindings, *files: Path) -> list[Problem]:
    """Type-check files against one release. Paths are those given.

    Raises:
        RuntimeError: mypy itself failed.
    """
    return _mypy(bindings, [bindings.stubs], [str(path) for path in files])


def check_modules(bindings: Bindings, root: Path, modules: list[Path], copies: Path) -> list[Problem]:
    """Type-check modules of the package against one release, as they are in the folder `copies` (`typed.copy_package`).
    Paths are below `root`.

    Raises:
        RuntimeError: mypy itself failed.
    """
    targets = [argument for path in modules for argument in ("-m", module_name(path, root))]
    found = _mypy(bindings, [bindings.stubs, copies], targets)
    return [p._replace(path=_original(Path(p.path), copies)) for p in found if Path(p.path).is_relative_to(copies)]


def module_name(path: Path, root: Path) -> str:
    """The import name of a source: segrd_edge/x.py is segrd_edge.x, export/x.py is segrd_edge.export.x."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts if parts[0] == "segrd_edge" else ["segrd_edge", *parts])


def _original(path: Path, copies: Path) -> str:
    parts = path.relative_to(copies).parts
    return "/".join(parts[1:] if parts[1] in STATIONS else parts)


def _mypy(bindings: Bindings, search: list[Path], targets: list[str]) -> list[Problem]:
    settings = bindings.stubs.parent / "mypy.ini"
    settings.write_text(_SETTINGS, encoding="utf-8")
    # One cache for all releases: numpy and the rest are read once, and what depends on the stubs is checked again.
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings), "--cache-dir", str(CACHE / "mypy")]
    environment = os.environ | {"MYPYPATH": os.pathsep.join(str(folder) for folder in search)}
    done = subprocess.run(
        [*command, *targets], capture_output=True, text=True, check=False, env=environment, cwd=bindings.stubs.parent
    )
    lines = done.stdout.splitlines()
    found = [Problem(m["path"], int(m["line"]), m["text"]) for line in lines if (m := _LINE.match(line))]
    if done.returncode not in (0, 1) or (done.returncode == 1) != bool(found):
        raise RuntimeError(f"mypy ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return found
