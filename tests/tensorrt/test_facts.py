"""What segrd-doctor says of other machines: through a driver of a few lines of C, and through made-up answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segrd_edge import doctor
from segrd_edge.probe import Answer
from segrd_edge.tensorrt import facts, jetson, requirements, smi
from segrd_edge.tensorrt.clocks import Clock
from segrd_edge.tensorrt.smi import Card

NO_DRIVER = Answer(False, None, "no NVIDIA driver: libcuda.so.1 cannot be loaded", "install the NVIDIA driver")
Asked = Callable[..., dict[str, Any]]


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """Facts of a machine, from what its processes would answer."""

    def collect(
        gpu: dict[str, str] | None,
        versions: dict[str, str],
        *,
        board: jetson.Jetson | None = None,
        cards: list[Card] | None = None,
        python: str = "3.10.12",
        missing: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        asked: list[str] = []

        def ask(function: str, *arguments: str) -> Answer:
            asked.append(" ".join((function, *arguments)))
            if function == "segrd_edge.tensorrt.facts:gpus":
                return NO_DRIVER if gpu is None else Answer(True, [gpu])
            if function == "segrd_edge.tensorrt.facts:version":
                return Answer(True, versions[arguments[0]])
            return Answer(False, None, "is missing", "install it") if arguments[0] in missing else Answer(True, None)

        installed = {facts.library.FLAVOURS[name].module for name in versions}
        monkeypatch.setattr(facts, "ask", ask)
        monkeypatch.setattr(facts, "find_spec", lambda module: module if module in installed else None)
        monkeypatch.setattr(requirements, "distributions", list)
        monkeypatch.setattr(jetson, "read", lambda: board)
        monkeypatch.setattr(smi, "cards", lambda: list(cards or []))
        monkeypatch.setattr(facts.platform, "python_version", lambda: python)
        monkeypatch.setenv("SEGRD_CACHE", str(tmp_path))
        found = facts.collect()
        json.dumps(found)  # it is printed as JSON
        return {**found, "asked": asked}

    return collect


def gpu(name: str, capability: str, cuda: str) -> dict[str, str]:
    return {"name": name, "compute_capability": capability, "cuda_version": cuda, "driver": "580.95.05"}


def here(found: dict[str, Any]) -> list[str]:
    return [row["machine"] for row in found["support"] if row["this_machine"]]


def test_a_pc_without_a_card(collected: Asked) -> None:
    found = collected(None, {"tensorrt-lean": "11.4.0", "tensorrt-rtx": "1.7.1.116"})
    assert found["driver"] == {"works": False, "detail": NO_DRIVER.detail, "fix": NO_DRIVER.fix}
    assert found["gpus"] == found["cards"] == found["warnings"] == here(found) == []
    assert found["tensorrt"]["tensorrt-rtx"]["version"] == "1.7.1.116"
    assert "segrd_edge.tensorrt.facts:version tensorrt-lean" not in found["asked"]  # it would not survive a later step


def test_a_pc_with_a_card(collected: Asked, tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    for name in ("a.plan", "b.plan"):
        (tmp_path / "engines" / name).write_bytes(bytes(2**20))
    (tmp_path / "engines/a.json").write_text("{}")
    card = Card("NVIDIA RTX A2000", "580.95.05", 210, 2100, 70.0, "Enabled", "Default")
    found = collected(
        gpu("NVIDIA RTX A2000", "8.6", "13.0"),
        {"tensorrt": "11.4.0.106"},
        cards=[card],
        python="3.12.3",
        missing=("cuda-bindings",),
    )
    assert here(found) == ["PC, tensorrt-cu13"]
    assert found["cuda_packages"]["pycuda"]["works"]
    assert found["cuda_packages"]["cuda-bindings"]["fix"] == "install it"
    assert found["cache"] == {"folder": str(tmp_path / "engines"), "engines": 2, "mib": 2.0}
    assert [warning["fix"].partition(",")[0] for warning in found["warnings"]] == ["sudo nvidia-smi -lgc 2100"]


def test_a_jetson(collected: Asked) -> None:
    board = jetson.Jetson(
        model="NVIDIA Jetson Orin Nano",
        l4t=(36, 4, 7),
        jetpack="6.2.1",
        power_mode="15W",
        power_modes={"15W": 0, "MAXN_SUPER": 2},
        gpu=Clock("GPU", 306, 306, 918, "nvhost_podgov"),
    )
    found = collected(gpu("Orin", "8.7", "12.6"), {"tensorrt": "10.3.0"}, board=board)
    assert here(found) == ["JetPack 6.1, 6.2 (Orin)"]
    assert found["jetson"]["l4t"] == "36.4.7"
    assert found["jetson"]["best_mode"] == "MAXN_SUPER"
    assert found["jetson"]["clocks"] == {"gpu": "GPU 306 of 918 MHz (nvhost_podgov), not locked", "cpu": None}
    assert [warning["fix"].partition(",")[0].partition(" (")[0] for warning in found["warnings"]] == [
        "sudo nvpmodel -m 2",
        "sudo jetson_clocks",
    ]


@pytest.mark.parametrize(
    ("l4t", "version", "python", "says"),
    [
        (
            (36, 4, 3),
            "10.3.0",
            "3.12.1",
            "Python 3.12.1, and TensorRT for JetPack 6.1, 6.2 (Orin) has bindings for 3.10",
        ),
        (
            (36, 4, 3),
            "11.4.0",
            "3.10.12",
            "tensorrt 11.4.0 on JetPack 6.1, 6.2 (Orin), which is known to run 10.3–10.7",
        ),
        ((36, 3, 0), "8.6.2", "3.10.12", "JetPack 6.0 (L4T R36.3.0) is none of JetPack 6.1, 6.2 (Orin), JetPack 7.1"),
        (None, "10.3.0", "3.10.12", "this Jetson's L4T release cannot be read"),
    ],
)
def test_a_jetson_off_the_table(
    collected: Asked, l4t: tuple[int, ...] | None, version: str, python: str, says: str
) -> None:
    board = jetson.Jetson(l4t=l4t, jetpack="6.0" if l4t == (36, 3, 0) else None)
    found = collected(gpu("Orin", "8.7", "12.6"), {"tensorrt": version}, board=board, python=python)
    (warning,) = found["warnings"]
    assert warning["what"].startswith(says)
    assert warning["fix"]


@pytest.mark.parametrize(
    ("environment", "state", "what", "fix"),
    [
        ({"FAKE_INIT": "100"}, "no", "the NVIDIA driver finds no GPU", "nvidia-smi -L"),
        ({"FAKE_INIT": "803"}, "no", "cuInit gives CUDA error 803 (driver mismatch)", "restart the machine"),
        ({"FAKE_MAJOR": "9", "FAKE_MINOR": "0"}, "no", "its compute capability is 9.0, and RTX cards", "tensorrt"),
        ({"FAKE_CUDA": "12040"}, "would work", "supports CUDA up to 12.4, and this tensorrt-rtx is made for", "r580"),
    ],
)
def test_the_engine_says_the_same_through_a_real_process(
    driver_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    state: str,
    what: str,
    fix: str,
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    for name, value in {"LD_LIBRARY_PATH": str(driver_folder), **environment}.items():
        monkeypatch.setenv(name, value)
    report = doctor.examine_engine("tensorrt-rtx")
    engine = report["engines"]["tensorrt-rtx"]
    assert not report["ok"]
    assert (engine["state"], engine["works"]) == (state, False)
    assert what in engine["detail"]
    assert fix in engine["fix"]


def test_facts_through_real_processes(driver_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver_folder))
    monkeypatch.setenv("FAKE_COUNT", "2")
    found = facts.collect()
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA RTX 4000"] * 2
    assert set(found["cuda_packages"]) == {"pycuda", "cuda-bindings"}
    for package in found["cuda_packages"].values():
        assert package["works"] or package["fix"]
