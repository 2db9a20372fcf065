"""Fixtures that several folders of tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from .distance_detector import (  # noqa: F401  (fixtures)
    bundle_path,
    defect_frame,
    deploy_graph,
    good_frame,
    make_bundle,
    manifest_fields,
    painter,
    tiled_bundle,
)
from .fakes.gpu import fake_gpu  # noqa: F401  (fixture)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache folder, nor does a program that one starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist's workers ignore Ctrl-C, and so would the programs that tests start in them."""
    if hasattr(config, "workerinput"):
        signal.signal(signal.SIGINT, signal.default_int_handler)


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def texture(rng: np.random.Generator, size_hw: tuple[int, int] = (80, 80)) -> npt.NDArray[np.uint8]:
    """A good part: a striped surface whose phase and brightness vary a little."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)
    stripes = 120 + 30 * np.sin(x / 4 + rng.uniform(0, 1)) + 10 * np.sin(y / 9) + rng.uniform(-6, 6)
    noisy = stripes[..., None] + rng.normal(0, 3, (*size_hw, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def write_photos(
    root: Path, good: int = 20, test_good: int = 4, defects: int = 4, size_hw: tuple[int, int] = (80, 80)
) -> Path:
    """A small MVTec AD folder: striped good parts, and defects that are dark discs with masks."""
    rng = np.random.default_rng(5)
    for name in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", good), ("test", test_good)):
        for i in range(count):
            cv2.imwrite(str(root / split / "good" / f"{i:03d}.png"), texture(rng, size_hw))
    for i in range(defects):
        image = texture(rng, size_hw)
        mask = np.zeros(size_hw, np.uint8)
        centre = rng.integers(15, min(size_hw) - 15, 2).tolist()
        cv2.circle(mask, centre, 8, 255, -1)
        image[mask > 0] //= 4
        cv2.imwrite(str(root / "test" / "spot" / f"{i:03d}.png"), image)
        cv2.imwrite(str(root / "ground_truth" / "spot" / f"{i:03d}_mask.png"), mask)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs beside the checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"the real photographs are not there: no folder {SHARED.name} in ../shared beside the checkout")
    return SHARED
