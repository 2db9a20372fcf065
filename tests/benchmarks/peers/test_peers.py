"""The orchestration with workers that only pretend to be anomalib, and the table; anomalib itself is not needed."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segrd_edge.benchmarks.peers import contenders, installation, measure, table
from segrd_edge.benchmarks.peers.contenders import PEERS, Floor, Peer, Took, worker_command
from segrd_edge.benchmarks.peers.installation import PINS, Installed, install, requirements
from segrd_edge.benchmarks.peers.measure import Log, load_all, run_rounds
from segrd_edge.bundle import Bundle
from segrd_edge.errors import EngineError, OptionError, SegrdError
from segrd_edge.preprocess import Preprocess

# Speaks what `worker.serve` speaks. "stfpm int8" cannot be exported; a frame of 5 rows kills the worker.
FAKE = """
import json, sys
if sys.argv[1:3] == ["stfpm", "int8"]:
    sys.exit("RuntimeError: no such operator")
print(json.dumps({"ready": True}), flush=True)
for header in sys.stdin.buffer:
    shape = json.loads(header)["shape"]
    pixels = sys.stdin.buffer.read(shape[0] * shape[1] * shape[2])
    if shape[0] == 5:
        raise ValueError("five rows")
    print(json.dumps({"ms": 1000.0 * shape[0] + pixels[0], "processor_ms": 2.0, "score": 0.5}), flush=True)
"""
FRAMES = [np.full((40, 50, 3), level, np.uint8) for level in (1, 2)]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """A venv whose Python is this one, and whose worker is the fake."""
    worker = tmp_path / "worker.py"
    worker.write_text(FAKE)
    monkeypatch.setattr(contenders, "WORKER", worker)
    monkeypatch.setattr(Installed, "python", Path(sys.executable))
    return Installed(tmp_path, {"anomalib": PINS["anomalib"], "openvino": "1"})


def peer(installed: Installed, key: str = "stfpm", precision: str = "fp32") -> Peer:
    return Peer(key, precision, installed, installed.folder, (32, 64), 1)


def test_a_peer_is_timed_by_its_worker(installed: Installed) -> None:
    contender = peer(installed)
    assert [contender.run(frame).ms for frame in (*FRAMES, FRAMES[0][:20])] == [40001.0, 40002.0, 20001.0]
    assert contender.run(FRAMES[0]).processor_ms == 2
    contender.close()
    assert contender._process.poll() == 0  # it ended by itself when its requests did


def test_a_peer_that_cannot_start_or_go_on_says_its_last_words(installed: Installed) -> None:
    with pytest.raises(EngineError, match="anomalib STFPM int8 ended: RuntimeError: no such operator"):
        peer(installed, precision="int8")
    contender = peer(installed)
    with pytest.raises(EngineError, match="ended: ValueError: five rows"):
        contender.run(FRAMES[0][:5])
    with pytest.raises(EngineError, match="five rows"):
        contender.run(FRAMES[0])
    contender.close()


def test_a_worker_runs_in_the_venv_apart_from_this_folder() -> None:
    real = worker_command(Path("venv/bin/python"), "stfpm", "int8", (256, 128), 2, Path("frames"), Path("exports"))
    assert real[:2] == ["venv/bin/python", "-I"]
    assert " ".join(real[3:]) == "stfpm int8 --size 256 128 --threads 2 --frames frames --exports exports"
    shown = subprocess.run(
        [sys.executable, "-I", str(contenders.WORKER), "--help"], capture_output=True, text=True, check=True
    ).stdout  # its first lines import nothing but the standard library
    assert "--exports" in shown


class Scripted:
    """Takes as long of the processor as it is told, per grey level, and writes down what it was given."""

    kind, precision, version = "own", "fp32", "1"

    def __init__(self, name: str, ms: float, given: list[tuple[str, int]]) -> None:
        self.name, self._ms, self._given = name, ms, given

    def run(self, frame: np.ndarray) -> Took:
        self._given.append((self.name, len(frame)))
        return Took(100 * self._ms, self._ms * float(frame[0, 0, 0]))

    def close(self) -> None:
        self._given.append((self.name, 0))


def test_everyone_takes_turns_and_a_slow_round_cancels() -> None:
    given: list[tuple[str, int]] = []
    logs = [Log(Scripted("a", 2.0, given)), Log(Scripted("b", 3.0, given))]
    images = [frame[:8] for frame in FRAMES]
    shares = run_rounds(logs, FRAMES, images, 2, lambda line: None)
    assert len(shares) == 2
    turn = [40, 40, 40, 8, 8, 40], [40, 40, 8, 40, 40, 8]  # two untimed
    assert given == [(name, rows) for name, rows in zip("a" * 6 + "b" * 6, turn[0] * 2, strict=True)] + [
        (name, rows) for name, rows in zip("b" * 6 + "a" * 6, turn[1] * 2, strict=True)
    ]
    described = measure.describe(logs[1], logs)
    assert described["samples"] == 4
    assert described["frame"] == {
        "median_ms": 300, "p90_ms": None, "min_ms": 300, "processor_ms": 3, "ratio": 1.5, "speedup": None,
    }  # fmt: skip
    assert described["image"]["ratio"] == 1.5
    logs[1].contender.kind = "torch"
    assert measure.describe(logs[0], logs)["frame"]["speedup"] == 1.5


def test_who_cannot_be_loaded_is_named_and_the_others_are_closed(installed: Installed) -> None:
    given: list[tuple[str, int]] = []
    with ExitStack() as stack:
        loaders: dict[str, Any] = {
            "ours": lambda: Scripted("ours", 1.0, given),
            "theirs": lambda: peer(installed, precision="int8"),
        }
        logs, failed = load_all(loaders, stack, lambda line: None)
        assert [log.contender.name for log in logs] == ["ours"]
    assert "no such operator" in failed["theirs"]
    assert given == [("ours", 0)]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_floor_computes_the_graph_behind_our_resize(engine: str, bundle_path: Path) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    bundle = Bundle.open(bundle_path)
    preprocess = Preprocess.from_dict(bundle.manifest.preprocess)
    floor = Floor(engine, bundle.graph("fp32"), "fp32", preprocess, 1)
    seen: list[np.ndarray] = []
    infer = floor._infer
    floor._infer = lambda item: (seen.append(item), infer(item))
    frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    image = preprocess.resize(frame)
    assert floor.run(frame).ms > 0
    assert floor.run(image).ms > 0
    for item in seen:
        assert np.array_equal(item[0], image)
    floor.close()


def test_from_bundles_to_the_table(
    bundle_path: Path, installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    record = measure.measure([bundle_path], installed, frame_hw=(90, 120), rounds=2, threads=1, said=said.append)
    path = tmp_path / "peers.json"
    path.write_text(json.dumps(record, allow_nan=False))
    text = table.write_table(path).read_text()
    kinds = [each["kind"] for each in record["contenders"]]
    assert kinds.count("peer") == 2 * len(PEERS) - 1
    assert kinds[0] == "own"
    assert record["contenders"][0]["frame"]["ratio"] == 1
    assert set(record["failed"]) == {"anomalib STFPM int8"}
    assert "anomalib STFPM int8 was left out: anomalib STFPM int8 ended: RuntimeError: no such operator" in text
    row = next(line for line in text.splitlines() if line.startswith("| anomalib EfficientAD-S (peers) | fp32 |"))
    assert row.split(" | ")[2].startswith("900")  # ms of the fake: a thousand per row, and the first pixel
    assert "frames of 120×90" in text
    assert f"anomalib {PINS['anomalib']}" in text
    assert "round 2 of 2" in said
    assert "torch |" not in text
    for each in record["contenders"]:
        for size in ("frame", "image"):
            each[size]["speedup"] = 7.25
    assert "| × as fast as torch |" in table.render(record)
    assert table.render(record).count("| 7.25 |") == 2 * len(kinds)


def test_bundles_of_different_sizes_cannot_be_compared() -> None:
    sizes = [SimpleNamespace(path=name, manifest=SimpleNamespace(preprocess=Preprocess(size).to_dict()))
             for name, size in (("a", (32, 64)), ("b", (64, 64)))]  # fmt: skip
    with pytest.raises(OptionError, match=r"a \(32, 64\), b \(64, 64\)"):
        measure._network_size(sizes)  # type: ignore[arg-type]


def test_what_pip_is_given_is_pinned() -> None:
    assert "anomalib[openvino]==" + PINS["anomalib"] in requirements()
    assert all("==" in each for each in requirements())


def test_an_installation_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venv without pip: the first step that needs it fails, with the reason."""
    venv.EnvBuilder(with_pip=False).create(tmp_path / "venv")
    with pytest.raises(SegrdError, match=r"pip does not run in .*No module named pip"):
        install(tmp_path / "venv")
    (tmp_path / "broken/bin").mkdir(parents=True)
    (tmp_path / "broken/bin/python").write_text("no program")
    with pytest.raises(SegrdError, match="pip does not run in") as raised:
        install(tmp_path / "broken")
    assert "makes it again" in raised.value.fix


def fake_pip(monkeypatch: pytest.MonkeyPatch, lists: list[list[tuple[str, str]]]) -> list[list[str]]:
    """`pip list` gives one of `lists` after the other; returns the commands."""
    commands: list[list[str]] = []

    def run(command: list[str], problem: str) -> str:
        commands.append(command[4:])
        if "list" not in command:
            return ""
        return json.dumps([{"name": name, "version": version} for name, version in lists.pop(0)])

    monkeypatch.setattr(installation, "_run", run)
    return commands


def test_anomalib_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    there = [("anomalib", PINS["anomalib"]), ("Torch", "2.13.0+cpu"), ("six", "1")]
    commands = fake_pip(monkeypatch, [[("six", "1")], there, there])
    assert install(tmp_path).versions == {"anomalib": PINS["anomalib"], "torch": "2.13.0+cpu"}
    assert [command[0] for command in commands] == ["list", "install", "list"]
    assert commands[1][1:] == requirements()
    install(tmp_path)
    assert [command[0] for command in commands[3:]] == ["list"]


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    fake_pip(monkeypatch, [[("anomalib", "0.1")]] * 2)
    with pytest.raises(SegrdError, match=r"has anomalib 0\.1"):
        install(tmp_path)


def test_eager_torch_is_measured_beside_ours(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without anomalib; `TorchContender` has its own tests."""
    given: list[tuple[str, int]] = []
    closed: list[bool] = []

    def fake(run: Path, bundle: Bundle, threads: int) -> Any:
        given.append((run.name, threads))
        return SimpleNamespace(version="2", inspect=lambda frame: sum(range(10000)), close=lambda: closed.append(True))

    monkeypatch.setattr(contenders, "TorchContender", fake)
    run = tmp_path / "official"
    record = measure.measure([bundle_path], run=run, frame_hw=(90, 120), rounds=1, threads=2)
    assert given == [("official", 2)]
    assert closed == [True]
    assert not [each for each in record["contenders"] if each["kind"] == "peer"]
    ours, torch = (next(e for e in record["contenders"] if e["kind"] == kind)["frame"] for kind in ("own", "torch"))
    assert torch["speedup"] == 1
    assert ours["ratio"] == 1
    assert ours["speedup"] == torch["ratio"] > 0  # both are torch's over ours
    assert "| eager torch, official (eager) | fp32 | " in table.render(record)
