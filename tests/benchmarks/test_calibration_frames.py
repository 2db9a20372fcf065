from __future__ import annotations

import json
from pathlib import Path

import pytest

from segrd_edge.benchmarks.calibration_frames import METRICS, compare
from segrd_edge.calibration.frames import CalibrationFrame, choose_frames
from segrd_edge.frames import read_frame
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.data import Photo, scan
from segrd_edge.training.evaluate import evaluation_photos

from ..calibration.conftest import build_small
from ..conftest import write_photos

SIZE_HW = (32, 64)
PREPROCESS = Preprocess(SIZE_HW)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Photo]:
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path / "cache"))
    return evaluation_photos(scan(write_photos(tmp_path / "photos", size_hw=(80, 120))), set())


def test_frames_that_hold_the_defects_are_not_exceeded_by_them(photos: list[Photo], tmp_path: Path) -> None:
    good = sorted((tmp_path / "photos" / "train" / "good").iterdir())
    alone = choose_frames(good, PREPROCESS, count=6, synthetic=False)
    # What no one may do: calibrate on the defects that are tested on. Nothing can then be larger.
    seen = [
        CalibrationFrame(PREPROCESS.resize(read_frame(photo.path)), photo.path, "0" * 64, "good") for photo in photos
    ]
    frames = {"good only": alone, "all": [*alone, *seen]}
    found = compare(build_small(SIZE_HW), PREPROCESS, MapSpec(), frames, photos, ["head"], "max")
    json.dumps(found, allow_nan=False)
    assert found["test_images"] == {"good": 4, "defect": 4}
    assert [row["calibration"] for row in found["int8"]] == ["good only", "all"]
    assert found["fp32"]["score_moved_mean"] == 0
    for row in found["int8"]:
        assert row["scope"] == "head"
        assert row["score_moved_mean"] > 0
        assert all(0 <= row[name] <= 1 for name in METRICS)
    narrow, wide = (row["activations"] for row in found["int8"])
    assert narrow["with_a_scale"] == wide["with_a_scale"] > 0
    assert narrow["exceeded_by_defects"] > wide["exceeded_by_defects"] == 0
    assert narrow["largest_ratio"] > 1 >= wide["largest_ratio"]
    assert found["int8"][0]["frames"] == {"good": 6, "synthetic": 0}
