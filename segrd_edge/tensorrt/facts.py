"""What segrd-doctor says of a machine's NVIDIA side: driver, GPUs, TensorRT, Jetson, clocks, engine cache."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from .. import cuda
from ..machine import cache_folder, package_version
from ..probe import Answer, ask
from . import driver, jetson, library, requirements, smi, support
from .clocks import Finding

_CUDA_PACKAGES = ("pycuda", "cuda-bindings")
_SEE_L4T = "start the container with -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro"


def collect() -> dict[str, Any]:
    """All of it, as JSON has it. Asks the driver and every package in processes of their own."""
    driver_answer = ask("segrd_edge.tensorrt.facts:gpus")
    gpus = driver_answer.value or []
    board = jetson.read()
    cards = smi.cards() if gpus and board is None else []
    flavours = _flavours(has_gpu=bool(gpus))
    row = _row(board, gpus, flavours)
    return {
        "driver": _plain(driver_answer),
        "gpus": gpus,
        "tensorrt": flavours,
        "cuda_packages": {name: _cuda_package(name) for name in _CUDA_PACKAGES} if gpus else {},
        "jetson": None if board is None else _board(board),
        "cards": [asdict(card) for card in cards],
        "cache": _cache(),
        "support": [
            {**dict(zip(support.HEADINGS, known.cells(), strict=True)), "this_machine": known == row}
            for known in support.TABLE
        ],
        "warnings": [finding._asdict() for finding in _warnings(board, cards, row, flavours)],
    }


def gpus() -> list[dict[str, Any]]:
    """Raises EngineError where there is none."""
    return [asdict(gpu) for gpu in driver.gpus()]


def version(flavour: str) -> str:
    """Version of an installed flavour. Raises EngineError where it cannot be imported."""
    return str(library.load(flavour).__version__)


def import_package(name: str) -> None:
    """Import pycuda or cuda-bindings. Raises EngineError where that fails."""
    cuda.import_pycuda() if name == "pycuda" else cuda.import_bindings()


def _flavours(*, has_gpu: bool) -> dict[str, Any]:
    """The installed ones. The lean runtime is not touched without a driver, which it would not survive."""
    found = {}
    for name, flavour in library.FLAVOURS.items():
        if find_spec(flavour.module) is None:
            continue
        may_import = has_gpu or flavour.name != "tensorrt-lean"
        answer = ask("segrd_edge.tensorrt.facts:version", name) if may_import else Answer(True, None)
        package = requirements.installed_package(name) or requirements.Package("", None)
        found[name] = {"version": answer.value or package.version, "cuda": package.cuda, **_plain(answer)}
    return found


def _cuda_package(name: str) -> dict[str, Any]:
    answer = ask("segrd_edge.tensorrt.facts:import_package", name)
    return {"version": package_version(name), **_plain(answer)}


def _row(board: jetson.Jetson | None, gpus: list[dict[str, Any]], flavours: Mapping[str, Any]) -> support.Row | None:
    """The row of the support table that this machine is, as far as it can be known."""
    if not gpus or (board is not None and board.l4t is None):
        return None
    l4t = None if board is None else board.l4t
    name = next((name for name in ("tensorrt", "tensorrt-rtx") if name in flavours), "tensorrt")
    found = flavours.get(name, {})
    cuda = found.get("cuda") or support.parse_version(gpus[0]["cuda_version"])[0]
    return support.row_for(l4t=l4t, tensorrt=found.get("version"), cuda=cuda, flavour=name)


def _warnings(
    board: jetson.Jetson | None, cards: list[smi.Card], row: support.Row | None, flavours: Mapping[str, Any]
) -> list[Finding]:
    found = board.warnings() if board is not None else []
    for card in cards:
        found += card.warnings(is_windows=platform.system() == "Windows")
    if board is not None and board.l4t is None:
        found.append(Finding("this Jetson's L4T release cannot be read", _SEE_L4T))
    elif board is not None and row is None:
        release = f"JetPack {board.jetpack or '?'} (L4T R{support.format_version(board.l4t or ())})"
        known = ", ".join(row.machine for row in support.TABLE if row.l4t is not None)
        found.append(Finding(f"{release} is none of {known}", "update JetPack; segrd-doctor --support shows the table"))
    if row is not None:
        found += _off_the_table(row, flavours.get(row.flavour, {}).get("version"))
    return found


def _off_the_table(row: support.Row, version: str | None) -> list[Finding]:
    """What differs from the row of this machine."""
    found = []
    python = platform.python_version()
    if not row.has_python(python):
        found.append(
            Finding(
                f"Python {python}, and TensorRT for {row.machine} has bindings for {row.cells()[4]}",
                "make the virtual environment with that Python"
                + (", the system's: python3 -m venv --system-site-packages" if row.l4t else ""),
            )
        )
    if version is not None and not row.has_tensorrt(version):
        found.append(
            Finding(
                f"{row.flavour} {version} on {row.machine}, which is known to run {row.cells()[2]}",
                "install one of these, or see with a bundle's golden images whether it works: segrd-doctor BUNDLE",
            )
        )
    return found


def _board(board: jetson.Jetson) -> dict[str, Any]:
    l4t = support.format_version(board.l4t) if board.l4t else None
    texts = {name: None if clock is None else str(clock) for name, clock in (("gpu", board.gpu), ("cpu", board.cpu))}
    return {**asdict(board), "l4t": l4t, "best_mode": board.best_mode, "clocks": texts}


def _cache() -> dict[str, Any]:
    folder = cache_folder() / "engines"
    with suppress(OSError):  # one that is removed meanwhile
        sizes = [path.stat().st_size for path in folder.glob("*.plan")]
        return {"folder": str(folder), "engines": len(sizes), "mib": round(sum(sizes) / 2**20, 1)}
    return {"folder": str(folder), "engines": None, "mib": None}


def _plain(answer: Answer) -> dict[str, Any]:
    return {"works": answer.works, "detail": answer.detail, "fix": answer.fix}
