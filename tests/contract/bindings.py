"""Real TensorRT bindings without TensorRT: fetched with pip, imported over import-only libraries, written as stubs.

Everything lies in build/contract/ of the checkout and is made once; removing that folder starts afresh.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .releases import Release
from .stubs import repair

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "contract"
SOURCE = Path(__file__).with_name("import_only.c")
_NO_WHEEL = ("No matching distribution found", "Could not find a version")
# Follows each dotted name from the module, and prints those that lead nowhere.
_MISSING = """
import importlib, json, sys
def leads_somewhere(chain):
    found = module
    for name in chain.split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True
module = importlib.import_module(sys.argv[1])
print(json.dumps([chain for chain in json.load(sys.stdin) if not leads_somewhere(chain)]))
"""

# Every name in the module, its classes and the classes in them.
_MEMBERS = """
import importlib, json, sys
def names(owner):
    for name, value in vars(owner).items():
        yield name
        if isinstance(value, type) and value.__module__.startswith("tensorrt"):
            yield from dir(value)
            if value is not owner:
                yield from names(value)
print(json.dumps(sorted(set(names(importlib.import_module(sys.argv[1]))))))
"""


# The integers behind dotted names, such as members of an enumeration.
_NUMBERS = """
import functools, importlib, json, sys
module = importlib.import_module(sys.argv[1])
value = lambda chain: int(functools.reduce(getattr, chain.split("."), module))
print(json.dumps([value(chain) for chain in json.load(sys.stdin)]))
"""


class NoWheelError(Exception):
    """No wheel of this release is published for this Python."""


@dataclass(frozen=True)
class Bindings:
    """One release, ready to be looked at: `stubs` is a folder for MYPYPATH, with the release under the names
    `tensorrt` and `tensorrt_rtx`; `untyped` are the methods whose generated signature is no Python, `members` the names
    of everything in the module and in its classes."""

    release: Release
    package: Path
    libraries: Path
    stubs: Path
    untyped: frozenset[str]
    members: frozenset[str]

    def missing(self, names: list[str]) -> set[str]:
        """Those of the dotted names, such as "BuilderFlag.FP16", that this release does not have."""
        environment = _environment(self.package, self.libraries)
        return set(_ask(_MISSING, self.release, environment, json.dumps(sorted(set(names)))))

    def numbers(self, names: list[str]) -> dict[str, int]:
        """The integers behind dotted names, such as "ILogger.Severity.ERROR"."""
        environment = _environment(self.package, self.libraries)
        found = _ask(_NUMBERS, self.release, environment, json.dumps(names))
        return {name: int(number) for name, number in zip(names, found, strict=True)}

    @property
    def stub(self) -> str:
        """The text of the stub with everything in it."""
        (path,) = [p for p in (self.stubs / self.release.module).glob("*.pyi") if p.stem != "__init__"]
        return path.read_text(encoding="utf-8")


def prepare(release: Release, cache: Path = CACHE) -> Bindings:
    """Fetch a release, compile what it links against and write its stubs, unless that was done before.

    Raises:
        NoWheelError: this release has no wheel for this Python.
        RuntimeError: pip, the compiler or the stub generator failed, or there is no compiler.
    """
    folder = cache / f"{release.name}-py{sys.version_info.major}{sys.version_info.minor}"
    made, package, libraries, stubs = folder / "made.json", folder / "package", folder / "libraries", folder / "stubs"
    if not made.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _fetch(release, package)
        _compile(release, libraries)
        untyped = _write_stubs(release, package, libraries, stubs)
        members = _ask(_MEMBERS, release, _environment(package, libraries))
        facts = {"untyped": sorted(untyped), "members": members}
        made.write_text(json.dumps(facts), encoding="utf-8")  # last: only then is it whole
    facts = json.loads(made.read_text(encoding="utf-8"))
    return Bindings(release, package, libraries, stubs, frozenset(facts["untyped"]), frozenset(facts["members"]))


def _fetch(release: Release, package: Path) -> None:
    wheel = f"{release.distribution}=={release.version}"
    try:
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(package), wheel])
    except RuntimeError as error:
        if any(text in str(error) for text in _NO_WHEEL):
            python = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise NoWheelError(f"pip finds no {wheel} for Python {python} on this machine") from error
        raise


def _compile(release: Release, folder: Path) -> None:
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError("no C compiler (cc, gcc or clang): install one, such as `apt-get install gcc`")
    folder.mkdir(parents=True)
    for library in release.libraries:
        _run([compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library), str(SOURCE)])


def _write_stubs(release: Release, package: Path, libraries: Path, stubs: Path) -> set[str]:
    raw = stubs.with_name("generated")
    # With the expressions that are no Python, because `repair` makes Python of most.
    options = ["--print-invalid-expressions-as-is", "--output-dir", str(raw), release.package]
    _run([sys.executable, "-m", "pybind11_stubgen", *options], environment=_environment(package, libraries))
    untyped: set[str] = set()
    # Our modules say `import tensorrt` or `tensorrt_rtx` for what the wheel alone calls tensorrt_bindings. Both names
    # lead to the release at hand, so that code which is given either module is checked against each.
    for path in (raw / release.package).glob("*.pyi"):
        text = path.read_text(encoding="utf-8").replace(release.package, release.module)
        repaired = repair(text)
        untyped |= repaired.untyped
        _write(stubs / release.module / path.name, repaired.text)
    inner = next(path.stem for path in (stubs / release.module).glob("*.pyi") if path.stem != "__init__")
    for other in {"tensorrt", "tensorrt_rtx"} - {release.module}:
        _write(stubs / other / "__init__.pyi", f"from {release.module}.{inner} import *\n__version__: str\n")
    return untyped


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _environment(package: Path, libraries: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(package), "LD_LIBRARY_PATH": str(libraries)}


def _ask(script: str, release: Release, environment: dict[str, str], stdin: str | None = None) -> list[str]:
    """What a script prints last, about the module it is given."""
    done = _run([sys.executable, "-c", script, release.package], stdin=stdin, environment=environment)
    found: list[str] = json.loads(done.splitlines()[-1])
    return found


def _run(command: list[str], stdin: str | None = None, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:6])} … ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
