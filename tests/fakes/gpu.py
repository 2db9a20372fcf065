"""Puts the fake GPU in the place of the real packages, for one test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from segrd_edge.errors import EngineError
from segrd_edge.tensorrt import driver, log, requirements

from . import cuda_bindings_driver, pycuda_driver, tensorrt
from .machine import FakeGpu

FLAVOURS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx", "tensorrt-lean": "tensorrt_lean"}
# What the lean runtime has not.
NOT_LEAN = (
    *("Builder", "IBuilderConfig", "INetworkDefinition", "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError"),
    *("BuilderFlag", "MemoryPoolType", "IProgressMonitor", "ITimingCache", "get_nv_onnx_parser_version", "IHostMemory"),
    "EngineInspector",
)
_PACKAGES = ("pycuda", "cuda", "cuda.bindings")


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeGpu]:
    """A machine with everything, and a cache folder of its own. Its attributes may be set until they are used."""
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path / "cache"))
    gpu = install(monkeypatch)
    yield gpu
    assert not gpu.misuse, gpu.misuse


def install(
    monkeypatch: pytest.MonkeyPatch,
    *,
    integrated: bool = False,
    pycuda: bool = True,
    cuda_bindings: bool = True,
    flavours: tuple[str, ...] = tuple(FLAVOURS),
    **machine: Any,
) -> FakeGpu:
    """A machine with a GPU, a driver, pycuda, cuda-bindings and TensorRT.

    Use the fixture `fake_gpu`, or set SEGRD_CACHE as well: engines would go to the user's own cache.

    Args:
        integrated: the GPU shares its memory with the processor, as on a Jetson.
        pycuda, cuda_bindings, flavours: which packages are installed.
        machine: the other arguments of `FakeGpu`.
    """
    gpu = FakeGpu(integrated=integrated, **machine)
    gpu.context_stack.clear()  # of this thread, which an earlier test may have left something on
    for fake in (pycuda_driver, cuda_bindings_driver, tensorrt):
        monkeypatch.setattr(fake, "gpu", gpu, raising=False)
    monkeypatch.setattr(pycuda_driver, "_is_initialised", False)
    for name in _PACKAGES:
        monkeypatch.setitem(sys.modules, name, _package(name))
    _put(monkeypatch, "pycuda", "driver", pycuda_driver if pycuda else None)
    _put(monkeypatch, "cuda.bindings", "driver", cuda_bindings_driver if cuda_bindings else None)
    if not pycuda:
        monkeypatch.setitem(sys.modules, "pycuda", None)  # what find_spec takes for a package that is not there
    if not cuda_bindings:
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    for flavour, module in FLAVOURS.items():
        monkeypatch.setitem(sys.modules, module, _flavour(module) if flavour in flavours else None)
    forget_contexts(monkeypatch)
    monkeypatch.setattr(log, "_loggers", {})  # those of the real packages belong to their classes
    package = requirements.Package(tensorrt.__version__, 13)
    monkeypatch.setattr(requirements, "installed_package", lambda flavour: package if flavour in flavours else None)
    monkeypatch.setattr(driver, "gpu", lambda index=0: _described(gpu, index))
    monkeypatch.setattr(driver, "gpus", lambda: [_described(gpu, 0)])
    return gpu


def forget_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contexts that this process keeps belong to another machine."""
    with suppress(ImportError):  # until segrd_edge.cuda is there
        from segrd_edge import cuda

        monkeypatch.setattr(cuda, "_contexts", {})


def _package(name: str) -> ModuleType:
    package = ModuleType(name)
    package.__path__ = []
    package.__spec__ = ModuleSpec(name, None, is_package=True)
    return package


def _put(monkeypatch: pytest.MonkeyPatch, package: str, name: str, module: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, f"{package}.{name}", module)
    if module is not None:
        setattr(sys.modules[package], name, module)


def _flavour(name: str) -> ModuleType:
    module = ModuleType(name)
    lacks = NOT_LEAN if name == "tensorrt_lean" else ()
    names = [key for key in vars(tensorrt) if not key.startswith("__") and key not in lacks]
    module.__dict__.update({key: vars(tensorrt)[key] for key in names})
    module.__dict__.update(__version__=tensorrt.__version__, __spec__=ModuleSpec(name, None))
    return module


def _described(gpu: FakeGpu, index: int) -> driver.Gpu:
    if index != 0:
        raise EngineError(f"no GPU {index}: the NVIDIA driver shows 1", fix="check nvidia-smi -L")
    major, minor = gpu.compute_capability
    return driver.Gpu(gpu.name, f"{major}.{minor}", "13.2", "580.65.06")
