"""The flavours of TensorRT, and one place that imports them.

All speak the same Python API. TensorRT-RTX has the newer one (that of TensorRT 11), compiles without a GPU, and its
engines run on RTX cards only; TensorRT builds on the very GPU that the engine will run on. The lean runtime has no
builder: it runs the version-compatible engines that TensorRT built.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import EngineError
from .advice import advise


@dataclass(frozen=True)
class Flavour:
    """What has to be known of a flavour before it is imported."""

    name: str
    module: str
    install: str  # the command that installs it
    builds_without_gpu: bool
    has_timing_cache: bool  # TensorRT-RTX keeps the calls, deprecated and without effect


_JETSON = "on a Jetson it comes with JetPack (apt install python3-libnvinfer, and a venv with --system-site-packages)"
_JETSON_LEAN = "on a Jetson: apt install python3-libnvinfer-lean, and a venv with --system-site-packages"
FLAVOURS: dict[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour("tensorrt", "tensorrt", f"pip install 'segrd-edge[tensorrt]'; {_JETSON}", False, True),
        Flavour("tensorrt-rtx", "tensorrt_rtx", "pip install 'segrd-edge[tensorrt-rtx]'", True, False),
        Flavour("tensorrt-lean", "tensorrt_lean", f"pip install tensorrt-lean; {_JETSON_LEAN}", False, False),
    )
}


def flavour_named(name: str) -> Flavour:
    """The flavour behind a name.

    Raises:
        EngineError: no flavour has this name.
    """
    if name not in FLAVOURS:
        raise EngineError(f"unknown TensorRT flavour {name!r}", expected=" or ".join(FLAVOURS), fix="name one of these")
    return FLAVOURS[name]


def is_installed(name: str) -> bool:
    """Whether a flavour's Python package is there. It can still fail to import; `load` says why."""
    return find_spec(flavour_named(name).module) is not None


def load(name: str) -> Any:
    """Import a flavour.

    Returns:
        The module, `tensorrt` or `tensorrt_rtx`. It has no stubs of its own, so it is `Any` here; a contract test
        checks every name that we use against the bindings of each supported release.

    Raises:
        EngineError: the package is not installed, or a library that it needs is missing or cannot be loaded.
    """
    flavour = flavour_named(name)
    if not is_installed(name):
        raise EngineError(f"{name} needs the package {flavour.module!r}, which is not installed", fix=flavour.install)
    try:
        return import_module(flavour.module)
    except (ImportError, OSError) as error:  # OSError: a shared library was not found or has undefined symbols
        fixes = advise([str(error)]) or [flavour.install]
        raise EngineError(f"{name} is installed but cannot be imported: {error}", fix="; ".join(fixes)) from error
