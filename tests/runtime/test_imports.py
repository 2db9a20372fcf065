"""The runtime needs numpy, OpenCV and one engine; `import segrd_edge` alone needs none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_TRAINING_ONLY = ("torch", "onnx", "onnxscript", "onnx_graphsurgeon", "sklearn", "scipy", "matplotlib", "jinja2")


def run_without(code: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter where the blocked packages cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False)


def test_import_loads_neither_training_packages_nor_opencv() -> None:
    code = "import segrd_edge; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    done = run_without(code)
    assert done.returncode == 0, done.stderr
    loaded = set(eval(done.stdout))
    assert "segrd_edge" in loaded
    assert not loaded & {"cv2", "numpy", "openvino", "onnxruntime", "pydantic", *_TRAINING_ONLY}


def test_import_works_with_everything_heavy_blocked() -> None:
    done = run_without("import segrd_edge; print(segrd_edge.__version__)", "cv2", *_TRAINING_ONLY)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_detector_works_without_training_packages(bundle_path: Path, engine: str) -> None:
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}[engine]
    code = (
        "import numpy as np, segrd_edge\n"
        f"with segrd_edge.Detector({str(bundle_path)!r}) as detector:\n"
        "    inspection = detector.inspect(np.full((50, 70, 3), 255, np.uint8))\n"
        "print(detector.engine, inspection.verdict)\n"
    )
    done = run_without(code, other, *_TRAINING_ONLY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [engine, "defect"]


def test_public_names_resolve() -> None:
    import segrd_edge

    for name in segrd_edge.__all__:
        assert getattr(segrd_edge, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = segrd_edge.Nothing
