from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segrd_edge import Detector, draw_overlay
from segrd_edge.errors import FrameError
from segrd_edge.overlay import blend_heat
from segrd_edge.preprocess import Preprocess


@pytest.mark.parametrize("frame_hw", [(24, 24), (48, 300), (300, 48), (120, 180), (1000, 1400)])
def test_an_overlay_has_the_frames_size_and_leaves_the_frame_alone(
    bundle_path: Path, frame_hw: tuple[int, int]
) -> None:
    frame = np.full((*frame_hw, 3), (40, 120, 200), np.uint8)
    frame[frame_hw[0] // 2 :, frame_hw[1] // 2 :] = 255
    before = frame.copy()
    with Detector(bundle_path, precision="fp32") as detector:
        overlay = draw_overlay(frame, detector.inspect(frame))
    assert (overlay.shape, overlay.dtype) == (frame.shape, np.uint8)
    np.testing.assert_array_equal(frame, before)
    changed = (overlay != frame).any(axis=2)
    assert changed[frame_hw[0] * 3 // 4, frame_hw[1] * 3 // 4]  # heat on the defect
    assert changed[0].all()  # the banner runs along the whole top
    assert not changed[frame_hw[0] * 3 // 4, frame_hw[1] // 4]  # what is good stays as it was


def test_the_banner_tells_the_verdicts_apart(
    bundle_path: Path, good_frame: np.ndarray, defect_frame: np.ndarray
) -> None:
    with Detector(bundle_path) as detector:
        good, defect = (draw_overlay(f, detector.inspect(f))[0, -1] for f in (good_frame, defect_frame))
    assert good[0] > good[2]  # blue
    assert defect[2] > defect[0]  # red


def test_what_lies_outside_the_crop_is_dark(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    crop = Preprocess((64, 96), crop_xywh=(100, 60, 150, 100)).to_dict()
    frame = np.full((300, 400, 3), (40, 120, 200), np.uint8)
    frame[80:100, 120:150] = 255  # a defect inside
    frame[200:250, 300:350] = 255  # and one outside
    with Detector(make_bundle(tmp_path / "part.segrd", preprocess=crop), precision="fp32") as detector:
        inspection = detector.inspect(frame)
        overlay = draw_overlay(frame, inspection)
    dark = (frame * 0.4).round().astype(int)
    banner = 30
    outside = np.ones((300, 400), bool)
    outside[60:160, 100:250] = outside[:banner] = False
    assert np.abs(overlay.astype(int) - dark)[outside].max() <= 1
    assert (overlay[140:158, 102:248] == frame[140:158, 102:248]).all()  # good, inside
    assert (overlay[90, 135] != frame[90, 135]).any()  # heat on the defect
    small = blend_heat(frame[::4, ::4].copy(), inspection.anomaly_map, inspection.placement, 0.3)
    assert (small[20:24, 25:62] == frame[0, 0]).all(axis=2).any()
    assert np.abs(small[45:].astype(int) - dark[::4, ::4][45:]).max() <= 1


def test_grey_and_16_bit_frames(bundle_path: Path) -> None:
    deep = np.full((60, 80), 2000, np.uint16)
    with Detector(bundle_path, value_range=(0, 4095)) as detector:
        inspection = detector.inspect(deep)
    assert draw_overlay(deep, inspection, value_range=(0, 4095)).shape == (60, 80, 3)


def test_another_frame_is_refused(bundle_path: Path, good_frame: np.ndarray) -> None:
    with Detector(bundle_path) as detector:
        inspection = detector.inspect(good_frame)
    with pytest.raises(FrameError, match="180×110") as caught:
        draw_overlay(good_frame[:110], inspection)
    assert "180×120" in caught.value.expected
