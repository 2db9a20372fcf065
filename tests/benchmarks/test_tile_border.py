from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from segrd_edge.benchmarks import tile_border
from segrd_edge.benchmarks.tile_border import SHARES, border_differences
from segrd_edge.console import build_app
from segrd_edge.errors import DataError

REACH = 11  # pixels that the filter below sees to every side


def blurred(image: np.ndarray) -> np.ndarray:
    found = cv2.blur(image[..., 0].astype(np.float32), (2 * REACH + 1, 1), borderType=cv2.BORDER_CONSTANT)
    return np.asarray(found, np.float32)


def test_the_edge_reaches_as_far_as_the_network_sees() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 400, 3), np.uint8)
    differences = border_differences(blurred, image, (64, 128))
    distances = [round(share * 128) for share in SHARES]
    assert all(value > 1 for value, distance in zip(differences, distances, strict=True) if distance < REACH)
    assert all(value < 1e-4 for value, distance in zip(differences, distances, strict=True) if distance >= REACH)
    assert differences[0] > differences[1] > differences[2]


def test_a_narrow_photograph_is_refused() -> None:
    with pytest.raises(DataError, match="150×64"):
        border_differences(blurred, np.zeros((64, 150, 3), np.uint8), (64, 128))


def test_a_network_of_single_pixels_has_no_border(tiled_bundle: Callable[[], Path], tmp_path: Path) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (128, 400, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "part.png"), photo)
    app = build_app(tile_border.command, name="tile_border", example="")
    result = CliRunner().invoke(app, [str(tiled_bundle()), str(tmp_path / "photos"), "--threads", "1"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output.splitlines()[-1])
    assert found["of_threshold"] == [0] * len(SHARES)
    assert found["pixels_from_edge"] == [0, 3, 6, 12, 18, 24, 36]
