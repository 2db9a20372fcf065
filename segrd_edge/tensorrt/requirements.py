"""What a TensorRT engine needs of a machine, asked in the order in which it is needed. Each lack is one sentence with
the fix, and it is the same in an exception as in segrd-doctor's table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import NamedTuple

from ..errors import EngineError
from . import driver, jetson, library, support

_OTHER_ENGINES = "the engines openvino and onnxruntime run on the processor"


@dataclass(frozen=True)
class Lack:
    """The first thing that an engine needs and this machine has not."""

    what: str
    fix: str
    can_be_installed: bool  # a package is all that is missing: GPU and driver would do


def require(flavour: str, device: int = 0) -> driver.Gpu:
    """The GPU of an index, where this flavour of TensorRT can build or load an engine on it.

    The driver is asked before TensorRT is imported: without one the lean runtime ends the process.

    Raises:
        EngineError: what is lacking, and what mends it.
    """
    gpu = driver.gpu(device)
    found = _card(flavour, gpu) or _package(flavour) or _cuda(flavour, gpu)
    if found is not None:
        raise EngineError(found.what, fix=found.fix)
    return gpu


def lack(flavour: str, device: int = 0) -> Lack | None:
    """The first thing that this machine lacks to run engines of a flavour, None where there is nothing."""
    try:
        gpu = driver.gpu(device)
    except EngineError as error:
        return Lack(error.what, error.fix, can_be_installed=False)
    return _card(flavour, gpu) or _package(flavour) or _cuda(flavour, gpu) or _pycuda()


class Package(NamedTuple):
    """An installed package of a flavour."""

    version: str
    cuda: int | None  # major version of the CUDA that it is made for; None where its name does not say, as JetPack's


def installed_package(flavour: str) -> Package | None:
    """The package that brought a flavour, without importing it: the one with its CUDA in the name (tensorrt-cu13) where
    there are several. None where it was not installed as a Python package."""
    module = re.escape(library.flavour_named(flavour).module).replace("_", "[-_]")
    pattern = re.compile(rf"{module}(?:[-_]cu(?P<cuda>\d+))?(?:[-_](?:bindings|libs))?", re.IGNORECASE)
    found = [(pattern.fullmatch(str(d.metadata["Name"])), d) for d in distributions()]
    packages = [Package(d.version, int(match["cuda"]) if match["cuda"] else None) for match, d in found if match]
    return max(packages, key=lambda package: package.cuda or 0, default=None)


def _card(flavour: str, gpu: driver.Gpu) -> Lack | None:
    capability = gpu.compute_capability
    if flavour == "tensorrt-rtx":
        if capability in support.RTX_CAPABILITIES:
            return None
        cards = ", ".join(support.RTX_CAPABILITIES)
        return Lack(
            f"TensorRT-RTX has no engines for {gpu.name}: its compute capability is {capability}, and RTX cards have "
            f"{cards}",
            f"take the engine tensorrt, which runs from compute capability {_least_capability()} on",
            can_be_installed=False,
        )
    if support.parse_version(capability) >= support.LEAST_CAPABILITY:
        return None
    return Lack(
        f"{gpu.name} is too old for TensorRT: its compute capability is {capability}, and {_least_capability()} is the "
        "least",
        f"a card of the Turing generation (GTX 16, RTX 20) or newer; {_OTHER_ENGINES}",
        can_be_installed=False,
    )


def _package(flavour: str) -> Lack | None:
    try:
        library.load(flavour)
    except EngineError as error:
        return Lack(error.what, error.fix, can_be_installed=True)
    return None


def _cuda(flavour: str, gpu: driver.Gpu) -> Lack | None:
    """A driver that is older than the CUDA of the package: TensorRT would say cudaError 35."""
    package, supported = installed_package(flavour), support.parse_version(gpu.cuda_version)
    made_for = package.cuda if package is not None else None
    if made_for is None or supported >= (made_for,):
        return None
    least = support.LEAST_DRIVER.get(made_for, f"one for CUDA {made_for}")
    fix = f"install the NVIDIA driver {least} or newer, or the {flavour} of CUDA {supported[0]}"
    if flavour == "tensorrt" and supported[0] == 12:
        fix += " in a new environment: pip install 'segrd-edge[tensorrt-cu12]'"
    if jetson.read() is not None:
        fix = f"pip uninstall it, and take JetPack's own: {library.flavour_named(flavour).install}"
    return Lack(
        f"the NVIDIA driver {gpu.driver}".rstrip()
        + f" supports CUDA up to {gpu.cuda_version}, and this {flavour} is made for CUDA {made_for}",
        fix,
        can_be_installed=True,
    )


def _pycuda() -> Lack | None:
    from .. import cuda

    try:
        cuda.import_pycuda()
    except EngineError as error:
        return Lack(error.what, error.fix, can_be_installed=True)
    return None


def _least_capability() -> str:
    return support.format_version(support.LEAST_CAPABILITY)
