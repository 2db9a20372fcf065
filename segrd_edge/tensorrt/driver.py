"""The NVIDIA driver and its GPUs, asked through the driver's own C library.

Ask before making any TensorRT object: without a driver the lean runtime kills the process with a segmentation fault
when it deserialises a plan, and the others fail with a message about versions that misleads.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import EngineError
from .support import INSTALL_DRIVER

# CUdevice_attribute of cuda.h
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
# Where Linux says the exact driver: the kernel module's version, and the L4T release of a Jetson.
_VERSION_FILES = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))


@dataclass(frozen=True)
class Gpu:
    """One GPU and the driver that serves it."""

    name: str  # "NVIDIA GeForce RTX 4060"
    compute_capability: str  # "8.9"
    cuda_version: str  # the newest CUDA that the driver supports, "13.0"
    driver: str  # exact driver or L4T release where the system says it, else ""


def gpu(index: int = 0) -> Gpu:
    """The GPU of an index. Initialises the driver in this process, and no context on the GPU.

    Raises:
        EngineError: no driver, a driver that does not start, or no such GPU.
    """
    cuda = _Cuda()
    count = cuda.count()
    if not 0 <= index < count:
        raise EngineError(f"no GPU {index}: the NVIDIA driver shows {count}", fix="check nvidia-smi -L")
    return _gpu(cuda, index)


def gpus() -> list[Gpu]:
    """All GPUs, at least one.

    Raises:
        EngineError: as `gpu`.
    """
    cuda = _Cuda()
    return [gpu(0), *(_gpu(cuda, index) for index in range(1, cuda.count()))]


def _gpu(cuda: _Cuda, index: int) -> Gpu:
    device, version, major, minor = (ctypes.c_int() for _ in range(4))
    cuda.call("cuDriverGetVersion", ctypes.byref(version))
    cuda.call("cuDeviceGet", ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    cuda.call("cuDeviceGetName", name, len(name), device)
    for attribute, value in ((_COMPUTE_CAPABILITY_MAJOR, major), (_COMPUTE_CAPABILITY_MINOR, minor)):
        cuda.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    return Gpu(
        name=name.value.decode("utf-8", "replace"),
        compute_capability=f"{major.value}.{minor.value}",
        cuda_version=f"{version.value // 1000}.{version.value % 1000 // 10}",
        driver=_driver_release(),
    )


def gpu_or_none() -> Gpu | None:
    """The first GPU, or None where there is none that works."""
    try:
        return gpu()
    except EngineError:
        return None


class _Cuda:
    """The driver's library, with its error codes turned into exceptions."""

    def __init__(self) -> None:
        name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            reason = str(error).removeprefix(f"{name}: ")
            raise EngineError(f"no NVIDIA driver: {name} cannot be loaded ({reason})", fix=INSTALL_DRIVER) from error

    def count(self) -> int:
        """Number of GPUs, after starting the driver."""
        count = ctypes.c_int()
        self.call("cuInit", 0)
        self.call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def call(self, function: str, *arguments: object) -> None:
        code = int(getattr(self._library, function)(*arguments))
        if code == _NO_DEVICE:
            raise EngineError("the NVIDIA driver finds no GPU", fix=f"check nvidia-smi -L; {INSTALL_DRIVER}")
        if code != 0:
            raise EngineError(
                f"the NVIDIA driver does not work: {function} gives CUDA error {code} ({self._error_text(code)})",
                fix=f"restart the machine if the driver was just updated; otherwise {INSTALL_DRIVER}",
            )

    def _error_text(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        return (text.value or b"no description").decode("utf-8", "replace")


def _driver_release() -> str:
    found = []
    for path in _VERSION_FILES:
        try:
            first = path.read_text(errors="replace").partition("\n")[0]
        except OSError:
            continue
        found += re.findall(r"\d+\.\d+(?:\.\d+)*|R\d+|(?<=REVISION: )[\d.]+", first)[:2]
    return " ".join(found)
