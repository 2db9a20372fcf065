from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from segrd_edge.errors import DataError, FrameError
from segrd_edge.sources import count_images, frames, is_live


def write_image(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 10, 3), level, np.uint8))


def test_a_folder_is_read_recursively_in_order_past_bad_files(tmp_path: Path) -> None:
    write_image(tmp_path / "b" / "2.png", 2)
    write_image(tmp_path / "a.BMP", 1)
    write_image(tmp_path / "c.tif", 3)
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image either")
    found = list(frames(tmp_path))
    assert [name for name, _ in found] == ["a.BMP", "b/2.png", "bad.png", "c.tif"]
    assert isinstance(found[2][1], FrameError)
    assert [int(f[0, 0, 0]) for _, f in found if isinstance(f, np.ndarray)] == [1, 2, 3]
    assert count_images(tmp_path) == 4


@pytest.mark.parametrize("log", ["results.jsonl", "results.jsonl.part"])
@pytest.mark.parametrize("out", [".", "earlier"])
def test_overlays_of_an_earlier_result_are_no_photographs(tmp_path: Path, out: str, log: str) -> None:
    write_image(tmp_path / "1.png", 1)
    write_image(tmp_path / "overlays of mine" / "2.png", 2)
    write_image(tmp_path / out / "overlays" / "sub" / "1.jpg", 1)
    (tmp_path / out / log).touch()
    assert [name for name, _ in frames(tmp_path)] == ["1.png", "overlays of mine/2.png"]
    assert count_images(tmp_path / out / "overlays") == 1  # where just they are asked for


def test_a_folder_called_like_a_camera_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "0" / "1.png", 1)
    monkeypatch.chdir(tmp_path)
    assert [name for name, _ in frames("0")] == ["1.png"]
    assert not is_live("0")


def test_one_image(tmp_path: Path) -> None:
    write_image(tmp_path / "one.png", 9)
    ((name, frame),) = frames(tmp_path / "one.png")
    assert name == "one.png"
    assert isinstance(frame, np.ndarray)
    assert frame.shape == (8, 10, 3)
    assert count_images(tmp_path / "one.png") == 1


def test_a_video_is_numbered(tmp_path: Path) -> None:
    path = str(tmp_path / "line.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for level in (10, 100, 200):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    found = list(frames(path))
    assert [name for name, _ in found] == ["line_000000", "line_000001", "line_000002"]
    # Motion JPEG is lossy, but flat grey survives within a few levels.
    assert [int(f.mean()) for _, f in found if isinstance(f, np.ndarray)] == pytest.approx([10, 100, 200], abs=4)
    assert count_images(path) is None


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_a_video_that_breaks_off_is_no_whole_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"line.{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    for frame in noise:
        writer.write(frame)
    writer.release()
    assert len(list(frames(path))) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *whole, (name, error) = frames(path)
    assert 10 < len(whole) < 30
    assert all(isinstance(frame, np.ndarray) for _, frame in whole)
    assert name == f"line_{len(whole):06d}"
    assert isinstance(error, FrameError)
    assert f"ended after {len(whole)} of 40 frames" in error.what


@pytest.mark.parametrize("name", ["absent", "empty", "text.mp4"])
def test_a_source_that_cannot_be_used_is_an_error_at_the_call(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=name):
        frames(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "live"), [("0", True), ("rtsp://camera/1", True), ("frames", False), ("a.mp4", False)]
)
def test_cameras_are_live(source: str, live: bool) -> None:
    assert is_live(source) is live
