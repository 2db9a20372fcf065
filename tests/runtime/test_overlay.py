from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segrd_edge import Detector, draw_overlay
from segrd_edge.errors import FrameError


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
