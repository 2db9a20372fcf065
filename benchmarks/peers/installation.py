"""The Python that has anomalib: a venv of its own, because anomalib pins packages that would hold ours back."""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segrd_edge.errors import SegrdError
from segrd_edge.machine import package_version

# What its own requirements leave open is pinned, so that two people measure the same; with its `openvino` extra.
PINS = {"anomalib": "2.7.0", "torch": "2.13.0", "torchvision": "0.28.0", "nncf": "3.4.0", "onnx": "1.23.2"}
SHOWN = (*PINS, "openvino", "numpy")
_INSTALL_LIMIT_S = 3600


@dataclass(frozen=True)
class Installed:
    """A venv that has anomalib."""

    folder: Path
    versions: dict[str, str]  # of the packages in SHOWN

    @property
    def python(self) -> Path:
        return python_of(self.folder)


def python_of(folder: Path) -> Path:
    """A venv's Python, as an absolute path: workers run in a folder of their own."""
    return folder.absolute() / "bin" / "python"


def install(folder: Path, said: Callable[[str], None] = lambda line: None) -> Installed:
    """Make the venv and install anomalib unless it is there.

    Takes minutes and 2 GB; several GB more where pip takes a torch with CUDA.

    Raises:
        SegrdError: pip cannot install it, or what it installed is another version.
    """
    python = python_of(folder)
    if not python.exists():
        said(f"making {folder}")
        venv.EnvBuilder(with_pip=True).create(folder)
    versions = _versions(python)
    if not _is_wanted(versions):
        said(f"installing anomalib {PINS['anomalib']} into {folder}, which takes minutes")
        _run([str(python), "-I", "-m", "pip", "install", *requirements()], f"anomalib cannot be installed in {folder}")
        versions = _versions(python)
    if not _is_wanted(versions):
        found = ", ".join(f"{name} {versions.get(name)}" for name in PINS)
        raise SegrdError(
            f"{folder} has {found}", expected=" ".join(requirements()), fix="name an empty folder as --venv"
        )
    return Installed(folder, {name: versions[name] for name in SHOWN if name in versions})


def requirements() -> list[str]:
    """What pip is given. OpenVINO is ours in version, so that engines are not compared instead of programs."""
    pins = dict(PINS)
    own = package_version("openvino")
    if own is not None:
        pins["openvino"] = own
    return [f"{'anomalib[openvino]' if name == 'anomalib' else name}=={version}" for name, version in pins.items()]


def _is_wanted(versions: dict[str, str]) -> bool:
    return versions.get("anomalib") == PINS["anomalib"]


def _versions(python: Path) -> dict[str, str]:
    listed = _run([str(python), "-I", "-m", "pip", "list", "--format=json"], f"pip does not run in {python}")
    return {package["name"].lower(): package["version"] for package in json.loads(listed)}


def _run(command: Sequence[str], problem: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_INSTALL_LIMIT_S, check=False
        )
    except OSError as error:
        raise SegrdError(f"{problem}: {error}", fix="remove the folder, and this command makes it again") from error
    except subprocess.TimeoutExpired as error:
        raise SegrdError(f"{problem}: not done within {_INSTALL_LIMIT_S} s") from error
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise SegrdError(f"{problem}: {' '.join(reasons[-2:])}", fix="what pip was given: " + " ".join(requirements()))
    return done.stdout
