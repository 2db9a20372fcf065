"""The doctor's tables on machines that are not this one, in narrow and wide terminals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from segrd_edge.doctor_tables import tables
from segrd_edge.tensorrt import jetson, support
from segrd_edge.tensorrt.clocks import Clock, Finding
from segrd_edge.tensorrt.smi import Card

YES = {"works": True, "detail": "", "fix": ""}
NO_DRIVER = {"works": False, "detail": "no NVIDIA driver: libcuda.so.1 cannot be loaded", "fix": "install the driver"}
WORKS = {"version": "1.0", "state": "works", "works": True, "detail": "computes the test graph correctly", "fix": ""}


def lacking(state: str, detail: str, fix: str) -> dict[str, Any]:
    return {"version": None, "state": state, "works": False, "detail": detail, "fix": fix}


def nvidia(row: int | None = None, **facts: Any) -> dict[str, Any]:
    rows = [
        {**dict(zip(support.HEADINGS, known.cells(), strict=True)), "this_machine": index == row}
        for index, known in enumerate(support.TABLE)
    ]
    nothing: dict[str, Any] = {"driver": YES, "gpus": [], "tensorrt": {}, "cuda_packages": {}, "jetson": None}
    cache = {"folder": "/home/line/.cache/segrd-edge/engines", "engines": 0, "mib": 0.0}
    return {**nothing, "cards": [], "cache": cache, "support": rows, **facts}


def report(
    nvidia: dict[str, Any], engines: dict[str, Any], warnings: Sequence[Finding] = (), governor: str | None = None
) -> dict[str, Any]:
    return {
        "ok": True,
        "segrd_edge": "0.1.0",
        "python": "3.10.12",
        "os": "Linux-5.15.148-tegra-aarch64-with-glibc2.35",
        "cpu": {
            "model": "ARMv8 Processor rev 1 (v8l)",
            "cores": 6,
            "usable_cores": 6,
            "flags": ["asimddp"],
            "governor": governor,
        },
        "memory_gib": 7.4,
        "nvidia": nvidia,
        "engines": engines,
        "warnings": [warning._asdict() for warning in warnings],
        "extras": {"train": {"installed": False, "missing": ["torch"], "fix": "pip install 'segrd-edge[train]'"}},
    }


def jetson_report() -> dict[str, Any]:
    board = jetson.Jetson(
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        l4t=(36, 4, 7),
        jetpack="6.2.1",
        power_mode="15W",
        power_modes={"15W": 0, "25W": 1, "MAXN_SUPER": 2, "7W": 3},
        gpu=Clock("GPU", 306, 306, 918, "nvhost_podgov"),
        cpu=Clock("CPU", 960, 730, 1344, "schedutil"),
    )
    facts = nvidia(
        0,
        gpus=[{"name": "Orin", "compute_capability": "8.7", "cuda_version": "12.6", "driver": "540.4.0 R36 4.7"}],
        tensorrt={"tensorrt": {"version": "10.3.0", "cuda": None, **YES}},
        cuda_packages={
            "pycuda": {"version": "2024.1.2", **YES},
            "cuda-bindings": {**YES, "version": None, "works": False, "detail": "is missing", "fix": "pip install it"},
        },
        jetson={
            **asdict(board),
            "l4t": "36.4.7",
            "best_mode": "MAXN_SUPER",
            "clocks": {"gpu": str(board.gpu), "cpu": str(board.cpu)},
        },
        cache={"folder": "/home/line/.cache/segrd-edge/engines", "engines": 1, "mib": 44.1},
    )
    engines = {
        "tensorrt": {**WORKS, "version": "10.3.0"},
        "tensorrt-rtx": lacking(
            "no",
            "TensorRT-RTX has no engines for Orin: its compute capability is 8.7, and RTX cards have 7.5, 8.6, 8.9",
            "take the engine tensorrt, which runs from compute capability 7.5 on",
        ),
        "openvino": lacking("would work", "not installed", "pip install 'segrd-edge[openvino]'"),
        "onnxruntime": WORKS,
    }
    return report(facts, engines, board.warnings(), "schedutil")


def pc_report() -> dict[str, Any]:
    card = Card("NVIDIA RTX A2000", "580.95.05", 210, 2100, 70.0, "Disabled", "Default", ("heat",))
    facts = nvidia(
        4,
        gpus=[{"name": card.name, "compute_capability": "8.6", "cuda_version": "13.0", "driver": ""}],
        tensorrt={
            "tensorrt": {"version": "11.4.0.106", "cuda": 13, **YES},
            "tensorrt-rtx": {"version": "1.7", "cuda": 13, "works": False, "detail": "broken", "fix": "install again"},
        },
        cards=[asdict(card)],
    )
    return report(facts, {"tensorrt": WORKS, "onnxruntime": WORKS}, card.warnings(is_windows=False))


def cpu_report() -> dict[str, Any]:
    engines = {"onnxruntime": WORKS, "tensorrt": lacking("no", NO_DRIVER["detail"], NO_DRIVER["fix"])}
    return report(nvidia(driver=NO_DRIVER), engines)


def rendered(report: dict[str, Any], width: int, *, with_support: bool = False) -> str:
    out = StringIO()
    console = Console(file=out, width=width, highlight=False)
    for table in tables(report, with_support=with_support):
        console.print(table)
    return out.getvalue()


def words(text: str) -> str:
    """The text of tables, line by line, without borders and blanks."""
    return " ".join("".join(" " if char in "│┃├┤┼─━" else char for char in text).split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("make", [jetson_report, pc_report, cpu_report])
def test_fits_the_terminal(make: Any, width: int) -> None:
    lines = [line for line in rendered(make(), width, with_support=True).splitlines() if line[:1] in "│┃┌┏├┡└"]
    assert len(lines) > 30
    for line in lines:
        assert len(line) <= width
        assert line.rstrip()[-1] in "│┃┐┓┤┩┘"  # nothing is cut off


def test_a_jetson() -> None:
    text = words(rendered(jetson_report(), 200))
    for line in (
        "INT8 arithmetic SDOT",
        "clock governor schedutil",
        "GPU Orin, compute capability 8.7",
        "driver 540.4.0 R36 4.7",
        "CUDA 12.6",
        "JetPack 6.2.1 (L4T R36.4.7)",
        "power mode 15W (of 15W, 25W, MAXN_SUPER, 7W)",
        "GPU 306 of 918 MHz (nvhost_podgov), not locked",
        "CPU 960 of 1344 MHz (schedutil), not locked",
        "tensorrt 10.3.0",
        "pycuda 2024.1.2",
        "cuda-bindings is missing fix: pip install it",
        "engine cache 1 engine, 44.1 MiB in /home/line/.cache/segrd-edge/engines",
        "openvino – would not installed fix: pip install 'segrd-edge[openvino]'",
        "fix: sudo nvpmodel -m 2",
        "fix: sudo jetson_clocks",
        "► JetPack 6.1, 6.2 (Orin)",
        "[train] no missing torch fix: pip install 'segrd-edge[train]'",
    ):
        assert line in text


def test_a_pc_with_a_card() -> None:
    text = words(rendered(pc_report(), 200))
    for line in (
        "driver 580.95.05",  # as nvidia-smi says it
        "tensorrt 11.4.0.106, made for CUDA 13",
        "tensorrt-rtx broken fix: install again",
        "clock and power 210 of 2100 MHz, up to 70 W, slowed down by heat",
        "engine cache 0 engines, 0 MiB",
        "fix: sudo nvidia-smi -pm 1",
        "► PC, tensorrt-cu13",
    ):
        assert line in text


def test_without_nvidia_hardware_the_table_is_shown_on_request() -> None:
    text = words(rendered(cpu_report(), 200))
    assert "driver no NVIDIA driver: libcuda.so.1 cannot be loaded fix: install the driver" in text
    assert "tensorrt – no needs an NVIDIA driver, see above" in text  # said once
    assert "TensorRT not installed" in text
    assert "JetPack" not in text
    assert "engine cache" not in text
    assert "JetPack 7.2 (Orin, Thor)" in words(rendered(cpu_report(), 200, with_support=True))


def test_one_engine_alone_says_all_of_it() -> None:
    text = words(rendered({"ok": False, "engines": {"tensorrt": lacking("no", NO_DRIVER["detail"], "install")}}, 200))
    assert "tensorrt – no no NVIDIA driver: libcuda.so.1 cannot be loaded fix: install" in text
    assert "Machine" not in text
