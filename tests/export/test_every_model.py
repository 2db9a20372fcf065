"""Every registered model from photographs to the Detector: trained, exported, quantised, built by TensorRT-RTX, run.

`test_tensorrt` looks at what that compiler makes of each of them in every precision.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from segrd_edge.bundle import Bundle
from segrd_edge.calibration.check import violations
from segrd_edge.calibration.settings import Int8Settings
from segrd_edge.detector import Detector
from segrd_edge.export.bundle import export_bundle
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import Preprocess
from segrd_edge.tensorrt.build import build
from segrd_edge.tensorrt.layers import convolution_dtypes
from segrd_edge.training.predict import predict
from segrd_edge.training.run import RunConfig
from segrd_edge.training.train import train

from ..every_model import EVERY_MODEL, name_and_options

SIZE_HW = (64, 96)


@pytest.mark.parametrize("case", EVERY_MODEL)
def test_from_photographs_to_the_detector(case: str, photos: Path, tmp_path: Path) -> None:
    name, options = name_and_options(case, head_width=16)
    config = RunConfig(
        data=str(photos),
        model=name,
        options=options,
        preprocess=Preprocess(SIZE_HW),
        steps=3,
        batch=4,
    )
    run = train(config, tmp_path / "run")
    assert run is not None
    exported = export_bundle(run, tmp_path / "part.segrd", settings=Int8Settings(frames=4, scope="all"), evaluate=False)
    assert exported.calibration is not None
    assert violations(exported.calibration.model) == []
    assert len(exported.calibration.plan.quantised) > 0.8 * len(exported.calibration.plan.left_float)
    if find_spec("tensorrt_rtx"):  # Linux on x86-64
        int8 = Bundle.open(exported.path).graph("int8")
        dtypes = convolution_dtypes(build(int8, flavour="tensorrt-rtx").layers)
        quantised = exported.calibration.plan.quantised
        assert sum(dtypes.get(node) == "Int8" for node in quantised) > 0.8 * len(quantised)  # some are matrix products
    frame = read_frame(next(iter((photos / "test/spot").iterdir())))
    (wanted,) = predict(run.model, run.preprocess, [frame])
    for precision in ("fp32", "int8"):
        with Detector(exported.path, precision=precision, engine="onnxruntime") as detector:
            found = detector.inspect(frame)
        assert found.anomaly_map.shape == SIZE_HW
        assert 0 <= found.anomaly_map.min() <= found.anomaly_map.max() <= 1
        if precision == "fp32":
            assert np.abs(found.anomaly_map - wanted.anomaly_map).max() < 1e-3
            assert found.score == pytest.approx(wanted.score, abs=1e-3)
