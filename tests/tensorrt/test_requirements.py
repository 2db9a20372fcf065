"""Every lack of a machine, one at a time, and the sentence that names it."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from segrd_edge.errors import EngineError
from segrd_edge.tensorrt import driver, jetson, library, requirements
from segrd_edge.tensorrt.driver import Gpu

RTX_4060 = Gpu("NVIDIA GeForce RTX 4060", "8.9", "13.0", "580.95.05")
ORIN = Gpu("Orin", "8.7", "12.6", "540.4.0 R36 4.3")
GTX_1080 = Gpu("NVIDIA GeForce GTX 1080", "6.1", "12.6", "560.35.03")


class Machine:
    """A machine with a GPU, TensorRT of all flavours and pycuda, from which a test takes something away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.has(RTX_4060)
        self.packages("tensorrt", "tensorrt_rtx", "tensorrt_lean", "pycuda")
        self.distributions()
        monkeypatch.setattr(jetson, "read", lambda: None)

    def has(self, gpu: Gpu | EngineError) -> None:
        def answer(index: int = 0) -> Gpu:
            if isinstance(gpu, EngineError):
                raise gpu
            return gpu

        self._monkeypatch.setattr(driver, "gpu", answer)

    def packages(self, *present: str) -> None:
        for name in ("tensorrt", "tensorrt_rtx", "tensorrt_lean", "pycuda", "pycuda.driver"):
            module = ModuleType(name)
            module.__path__ = []
            module.driver = None  # type: ignore[attr-defined]
            module.__spec__ = ModuleSpec(name, None)
            self._monkeypatch.setitem(sys.modules, name, module if name.partition(".")[0] in present else None)
        found = {name: SimpleNamespace() if name in present else None for name in sys.modules}
        self._monkeypatch.setattr(library, "find_spec", found.get)

    def distributions(self, *names: str) -> None:
        found = [SimpleNamespace(metadata={"Name": name}, version=f"{len(name)}.0") for name in names]
        self._monkeypatch.setattr(requirements, "distributions", lambda: found)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize("flavour", list(library.FLAVOURS))
def test_a_machine_with_everything(machine: Machine, flavour: str) -> None:
    machine.distributions("tensorrt-cu13", "tensorrt_rtx_cu13", "tensorrt-lean-cu13-libs", "numpy")
    assert requirements.lack(flavour) is None
    assert requirements.require(flavour) == RTX_4060


@pytest.mark.parametrize("flavour", list(library.FLAVOURS))
def test_without_a_driver_tensorrt_is_not_touched(
    machine: Machine, flavour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has(EngineError("no NVIDIA driver: libcuda.so.1 cannot be loaded", fix="install the NVIDIA driver"))
    touched: list[str] = []
    monkeypatch.setattr(library, "load", touched.append)
    with pytest.raises(EngineError, match="no NVIDIA driver") as caught:
        requirements.require(flavour)
    assert caught.value.fix == "install the NVIDIA driver"
    assert touched == []


@pytest.mark.parametrize(
    ("flavour", "gpu", "what", "fix"),
    [
        ("tensorrt", GTX_1080, "GTX 1080 is too old for TensorRT: its compute capability is 6.1", "Turing generation"),
        ("tensorrt-lean", GTX_1080, "too old", "onnxruntime"),
        ("tensorrt-rtx", GTX_1080, "compute capability is 6.1, and RTX cards have 7.5, 8.6", "from compute capability"),
        ("tensorrt-rtx", ORIN, "no engines for Orin: its compute capability is 8.7", "the engine tensorrt"),
    ],
)
def test_a_wrong_card(machine: Machine, flavour: str, gpu: Gpu, what: str, fix: str) -> None:
    machine.has(gpu)
    lack = requirements.lack(flavour)
    assert lack is not None
    assert what in lack.what
    assert fix in lack.fix
    assert not lack.can_be_installed


@pytest.mark.parametrize("capability", ["7.5", "8.7", "10.0", "11.0", "12.1"])
def test_cards_of_tensorrt(machine: Machine, capability: str) -> None:
    machine.has(Gpu("any", capability, "13.0", ""))
    assert requirements.lack("tensorrt") is None


@pytest.mark.parametrize(
    ("missing", "flavour", "fix"),
    [
        ("tensorrt", "tensorrt", "pip install 'segrd-edge[tensorrt]'; on a Jetson it comes with JetPack"),
        ("tensorrt_rtx", "tensorrt-rtx", "pip install 'segrd-edge[tensorrt-rtx]'"),
        ("tensorrt_lean", "tensorrt-lean", "pip install tensorrt-lean"),
        ("pycuda", "tensorrt", "pip install 'pycuda"),
    ],
)
def test_a_missing_package(machine: Machine, missing: str, flavour: str, fix: str) -> None:
    machine.packages(*{"tensorrt", "tensorrt_rtx", "tensorrt_lean", "pycuda"} - {missing})
    lack = requirements.lack(flavour)
    assert lack is not None
    assert f"the package '{missing}'" in lack.what
    assert lack.fix.startswith(fix)
    assert lack.can_be_installed


def test_a_library_that_l4t_lacks(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: str) -> None:
        raise OSError("libnvdla_compiler.so: cannot open shared object file: No such file or directory")

    machine.has(ORIN)
    monkeypatch.setattr(library, "import_module", fail)
    lack = requirements.lack("tensorrt")
    assert lack is not None
    assert lack.what.startswith("tensorrt is installed but cannot be imported: libnvdla_compiler.so")
    assert "L4T R39" in lack.fix


@pytest.mark.parametrize(
    ("package", "cuda", "lacks"),
    [
        ("tensorrt-cu13", "12.4", True),
        ("tensorrt_cu13_bindings", "12.8", True),
        ("tensorrt-cu13", "13.2", False),
        ("tensorrt-cu12", "12.2", False),
        ("tensorrt-cu12", "13.0", False),  # drivers run what older CUDAs built
        ("tensorrt-rtx-cu13", "12.4", False),  # another flavour's
        ("tensorrt", "12.4", False),  # JetPack's: the name does not say
    ],
)
def test_an_old_driver(machine: Machine, package: str, cuda: str, lacks: bool) -> None:
    machine.has(Gpu("NVIDIA RTX A2000", "8.6", cuda, "550.54"))
    machine.distributions("numpy", package)
    lack = requirements.lack("tensorrt")
    assert (lack is not None) is lacks
    if lack is not None:
        assert lack.what == (
            f"the NVIDIA driver 550.54 supports CUDA up to {cuda}, and this tensorrt is made for CUDA 13"
        )
        assert lack.fix.startswith("install the NVIDIA driver r580 or newer, or the tensorrt of CUDA 12 in a new env")
        assert "segrd-edge[tensorrt-cu12]" in lack.fix


def test_a_driver_whose_version_is_hidden(machine: Machine) -> None:
    machine.has(Gpu("NVIDIA RTX A2000", "8.6", "12.4", ""))
    machine.distributions("tensorrt-cu13")
    lack = requirements.lack("tensorrt")
    assert lack is not None
    assert lack.what.startswith("the NVIDIA driver supports CUDA up to 12.4")


def test_a_package_of_pip_on_a_jetson(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(ORIN)
    machine.distributions("tensorrt-cu13")
    monkeypatch.setattr(jetson, "read", lambda: jetson.Jetson(l4t=(36, 4, 3)))
    lack = requirements.lack("tensorrt")
    assert lack is not None
    assert "take JetPack's own" in lack.fix
    assert "r580" not in lack.fix


@pytest.mark.parametrize(
    ("names", "package"),
    [
        (("tensorrt", "tensorrt_cu13", "tensorrt_cu13_bindings"), ("13.0", 13)),
        (("tensorrt",), ("8.0", None)),
        (("tensorrt-rtx-cu13", "tensorrt_lean_cu13", "torch-tensorrt"), None),
    ],
)
def test_the_installed_package(machine: Machine, names: tuple[str, ...], package: tuple[str, int] | None) -> None:
    machine.distributions(*names)
    assert requirements.installed_package("tensorrt") == package
