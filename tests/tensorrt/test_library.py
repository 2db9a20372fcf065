from __future__ import annotations

import sys
from pathlib import Path

import pytest

from segrd_edge.errors import EngineError
from segrd_edge.tensorrt import library


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    (folder / "tensorrt.py").write_text(body)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


@pytest.mark.parametrize("name", list(library.FLAVOURS))
def test_a_missing_package_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library.FLAVOURS[name].module, None)
    monkeypatch.setattr(library, "find_spec", lambda module: None)
    assert not library.is_installed(name)
    with pytest.raises(EngineError, match=f"{name} needs the package") as caught:
        library.load(name)
    package = "tensorrt-lean" if name == "tensorrt-lean" else f"'segrd-edge[{name}]'"
    assert f"pip install {package}" in caught.value.fix


@pytest.mark.parametrize(
    ("raised", "fix"),
    [
        ("OSError('libnvdla_compiler.so: cannot open shared object file: No such file or directory')", "L4T"),
        ("ImportError('libnvinfer.so.10: cannot open shared object file: No such file or directory')", "own libraries"),
        ("OSError('libsomething.so: file too short')", "pip install"),
    ],
)
def test_a_library_that_is_missing_gets_advice(
    raised: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, monkeypatch, f"raise {raised}")
    with pytest.raises(EngineError, match=r"tensorrt is installed but cannot be imported: lib\w+\.so") as caught:
        library.load("tensorrt")
    assert fix in caught.value.fix


def test_an_unknown_flavour_lists_the_known() -> None:
    with pytest.raises(EngineError, match="unknown TensorRT flavour 'trt'") as caught:
        library.load("trt")
    assert caught.value.expected == "tensorrt or tensorrt-rtx or tensorrt-lean"


def test_load_gives_the_module() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    assert library.load("tensorrt-rtx") is trt
    assert library.is_installed("tensorrt-rtx")
