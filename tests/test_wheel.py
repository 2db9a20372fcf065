"""The wheel, in a fresh environment without torch: what a line PC installs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LARGEST_TEACHER_BYTES = 6_000_000


def run(*command: str | Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(c) for c in command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        cwd=ROOT.parent,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def line_pc(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and nothing but its dependencies."""
    folder = tmp_path_factory.mktemp("line_pc")
    venv.create(folder, with_pip=True)
    run(folder / "bin/pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    return folder / "bin"


def test_what_is_inside(wheel: Path) -> None:
    members = {info.filename: info.file_size for info in zipfile.ZipFile(wheel).infolist()}
    tops = {name.split("/")[0] for name in members}
    assert tops == {"segrd_edge", next(t for t in tops if t.endswith(".dist-info"))}
    for name in (
        "py.typed",
        "detector.py",
        "training/models/destseg.py",
        "calibration/rules/__init__.py",
        "export/deploy.py",
    ):
        assert f"segrd_edge/{name}" in members
    teacher = members["segrd_edge/training/teachers/resnet18-edge.safetensors"]
    assert 1_000_000 < teacher <= LARGEST_TEACHER_BYTES
    assert not any("test" in Path(name).parts for name in members)


def test_the_runtime_works_without_torch(line_pc: Path, bundle_path: Path, tmp_path: Path) -> None:
    assert run(line_pc / "python", "-c", "import torch", code=1).stderr.strip().endswith("No module named 'torch'")
    inspect = "segrd_edge.Detector(sys.argv[1]).inspect(numpy.zeros((50, 60, 3), 'uint8'))"
    script = f"import sys, numpy, segrd_edge; print({inspect}.verdict)"
    assert run(line_pc / "python", "-c", script, bundle_path).stdout.strip() in ("good", "defect")
    doctor = json.loads(run(line_pc / "segrd-doctor", "--json").stdout.splitlines()[-1])
    assert "torch" in json.dumps(doctor)


@pytest.mark.parametrize(("program", "extra"), [("segrd-train", "train"), ("segrd-export", "export")])
def test_missing_extras_are_named(line_pc: Path, tmp_path: Path, program: str, extra: str) -> None:
    (tmp_path / "photos").mkdir()
    arguments = ["photos", "--out", "run" if program == "segrd-train" else "x.segrd"]
    done = run(line_pc / program, *arguments, code=2)
    assert f"pip install 'segrd-edge[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
