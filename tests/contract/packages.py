"""What the fakes besides TensorRT's are held to: wheels of cuda-bindings, and pycuda's sources. Kept like the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from .bindings import CACHE
from .surface import Signature, Surface, of_pycuda

CUDA_BINDINGS = ("12.9.10", "13.5.0")  # for JetPack 6, and for CUDA 13
PYCUDA = ("2024.1", "2026.1")  # the oldest that is taken, and today's
_CPP = "src/wrapper/wrap_cudadrv.cpp"
_ASK = """
import inspect, json, sys
from cuda.bindings import driver
found = {}
for name in json.load(sys.stdin):
    value = getattr(driver, name, None)
    if isinstance(value, type):
        members = getattr(value, "__members__", {})
        found[name] = {member: int(number) for member, number in members.items()}
    elif value is not None:
        parameters = inspect.signature(value).parameters.values()
        found[name] = [p.name for p in parameters], sum(p.default is p.empty for p in parameters)
print(json.dumps(found))
"""


def cuda_bindings_folder(version: str) -> Path:
    """A folder for PYTHONPATH with this release of cuda-bindings."""
    folder = CACHE / f"cuda-bindings-{version}-py{sys.version_info.major}{sys.version_info.minor}"
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _pip("install", "--no-deps", "--target", str(folder), f"cuda-bindings=={version}", "cuda-pathfinder")
        (folder / "whole").touch()
    return folder


def cuda_bindings(version: str, names: list[str]) -> tuple[Surface, dict[str, int]]:
    """Those of the names that a release of cuda.bindings.driver has, and the numbers of its enumerations' members."""
    folder = cuda_bindings_folder(version)
    done = _run([sys.executable, "-c", _ASK], stdin=json.dumps(names), PYTHONPATH=str(folder))
    surface: Surface = {}
    numbers: dict[str, int] = {}
    for name, found in json.loads(done.splitlines()[-1]).items():
        if isinstance(found, dict):
            surface |= {name: [], **{f"{name}.{member}": [] for member in found}}
            numbers |= {f"{name}.{member}": number for member, number in found.items()}
        else:
            surface[name] = [Signature(tuple(found[0]), found[1])]
    return surface, numbers


def pycuda(version: str) -> Surface:
    """The module that pycuda.driver takes its names from."""
    source = CACHE / f"pycuda-{version}" / "wrap_cudadrv.cpp"
    if not source.exists():
        source.parent.mkdir(parents=True, exist_ok=True)
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(source.parent)]
        _pip("download", *options, f"pycuda=={version}")
        (archive,) = source.parent.glob("*.tar.gz")
        with tarfile.open(archive) as members:
            content = members.extractfile(f"pycuda-{version}/{_CPP}")
            assert content is not None
            source.write_bytes(content.read())
    return of_pycuda(source.read_text(encoding="utf-8"))


def _pip(verb: str, *arguments: str) -> None:
    _run([sys.executable, "-m", "pip", verb, "--quiet", *arguments])


def _run(command: list[str | Path], stdin: str | None = None, **environment: str) -> str:
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command[:6]))} … ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
