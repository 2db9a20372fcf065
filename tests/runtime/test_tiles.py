from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from segrd_edge import Detector, memory
from segrd_edge.engines import EngineOutput
from segrd_edge.errors import FrameError, OptionError
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.regions import find_regions
from segrd_edge.tiles import TileGrid, join, on_tiles, tile_grid

from ..distance_detector import PART_BGR, SIZE_HW, TILE_HW, TOP_PIXELS, paint


@pytest.mark.parametrize("image", [64, 65, 80, 111, 112, 113, 160, 500])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_tiles_cover_the_image_and_share_what_was_asked(image: int, overlap: float) -> None:
    grid = tile_grid((image, 64), (64, 64), overlap)
    assert grid.lefts == (0,)
    assert (grid.tops[0], grid.tops[-1]) == (0, image - 64)
    shared = 64 - np.diff(grid.tops)
    # Places are whole pixels, so that neighbours may share one less.
    assert (shared >= 64 * overlap - 1).all()
    fewer = len(grid.tops) - 1
    assert fewer == 0 or (fewer - 1) * 64 * (1 - overlap) + 64 < image  # one tile less would not do


@pytest.mark.parametrize("image_hw", [(64, 96), (64, 97), (150, 96), (200, 331)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_tiles_of_one_picture_give_it_back(image_hw: tuple[int, int], overlap: float) -> None:
    picture = np.random.default_rng(1).random(image_hw, np.float32)
    grid = tile_grid(image_hw, SIZE_HW, overlap)
    tiles = grid.cut(picture)
    assert len(tiles) == len(grid)
    assert {tile.shape for tile in tiles} == {SIZE_HW}
    assert grid.stitch(tiles) == pytest.approx(picture, abs=1e-6)


def test_a_stitched_map_stays_in_its_range() -> None:
    grid = tile_grid((200, 331), SIZE_HW, 0.4)
    whole = grid.stitch([np.ones(SIZE_HW, np.float32)] * len(grid))
    assert whole.max() <= 1
    assert whole.min() >= 1 - 1e-6


def blurred(images: Sequence[np.ndarray]) -> list[EngineOutput]:
    """A network in small: it sees 15 pixels to every side, and zeros beyond its image."""
    maps = [cv2.blur(image[..., 0] / np.float32(255), (31, 31), borderType=cv2.BORDER_CONSTANT) for image in images]
    return [EngineOutput(0.0, np.asarray(found, np.float32)) for found in maps]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_defect_on_a_seam_is_found_as_well_as_inside_a_tile(overlap: float) -> None:
    """A spot of 11 pixels goes across a seam, one pixel at a time. Without an overlap the network never sees it whole,
    and its score falls by more than a third."""
    grid = tile_grid((64, 320), (64, 64), overlap)
    seam = 64 if overlap == 0 else grid.lefts[1] + (64 - grid.lefts[1]) // 2  # where neither tile outweighs the other
    spec = MapSpec(activation="none", top_pixels=50)
    scores = []
    for centre in range(seam - 16, seam + 17):
        image = np.zeros((64, 320, 3), np.uint8)
        image[27:38, centre - 5 : centre + 6] = 255
        scores.append(on_tiles(blurred, image, grid, spec).score)
    inside = spec.score(blurred([image])[0].anomaly_map)  # of the last one, undivided
    worst = min(scores) / inside
    assert worst == pytest.approx(1, abs=0.02) if overlap else worst < 0.67


def expected_map(frame: np.ndarray, map_hw: tuple[int, int]) -> np.ndarray:
    """The distance detector's map of the whole frame, undivided."""
    resized = cv2.resize(frame, map_hw[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(np.abs(resized - PART_BGR).mean(axis=2) / 255, np.float32)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_large_frame_gives_the_map_of_the_whole_frame(tiled_bundle: Callable[[int], Path], batch: int) -> None:
    """Frames of 500×300 pixels are 250×150 network pixels: three rows of four tiles."""
    frame = paint((300, 500), (400, 200, 60, 40), (20, 30, 30, 20))
    small = paint(TILE_HW, (20, 30, 30, 20))
    with Detector(tiled_bundle(batch)) as detector:
        detector.self_test()
        large, one_tile, again = detector.inspect_batch([frame, small, frame])
        bare = detector.run_engine(detector.preprocess.resize(frame))
        ignoring = np.zeros((300, 500), np.uint8)
        ignoring[190:250, 390:470] = 1
    with Detector(tiled_bundle(batch), ignore_mask=ignoring) as detector:
        ignored = detector.inspect(frame)
    wanted = expected_map(frame, (150, 250))
    assert large.anomaly_map == pytest.approx(wanted, abs=1e-5)
    assert large.score == pytest.approx(np.sort(wanted.ravel())[-TOP_PIXELS:].mean(), abs=1e-5)
    assert large.placement.size_hw == (150, 250)
    assert large.map_in_frame().shape == (300, 500)
    assert [region.box_xywh for region in large.regions] == [(400, 200, 60, 40), (20, 30, 30, 20)]
    assert np.array_equal(again.anomaly_map, large.anomaly_map)
    assert np.array_equal(bare.anomaly_map, large.anomaly_map)
    assert bare.score == large.score
    assert one_tile.anomaly_map == pytest.approx(expected_map(small, SIZE_HW), abs=1e-5)
    assert [region.box_xywh for region in ignored.regions] == [(20, 30, 30, 20)]


def test_tiles_share_runs_of_the_engine(tiled_bundle: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with Detector(tiled_bundle(4)) as detector:
        runs: list[int] = []
        engine = detector._engine
        run = engine._run
        monkeypatch.setattr(engine, "_run", lambda images: runs.append(len(images)) or run(images))
        detector.inspect_batch([paint((300, 500)), paint(TILE_HW), paint(TILE_HW), paint((128, 330))])
    assert runs == [4, 4, 4, 4]  # three times four tiles; then one, one and two


def test_a_frame_whose_tiles_do_not_fit_the_memory_is_refused(
    tiled_bundle: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve tiles of 64×96 in 150×250 pixels. What has been inspected once is not looked at again."""
    needed = tile_grid((150, 250), SIZE_HW, 0.25).needed_bytes
    asked: list[int] = []
    with Detector(tiled_bundle(1)) as detector:
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: asked.append(1) or needed - 1)
        for refuse in (detector.inspect, detector.check_frame):
            with pytest.raises(FrameError, match=r"500×300 pixels, 12 tiles at once, would take 0\.0 GiB of memory"):
                refuse(paint((300, 500)))
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: asked.append(1) or needed)
        for _ in range(2):
            detector.inspect(paint((300, 500)))
    assert len(asked) == 3


def test_the_memory_that_tiles_need_is_that_of_a_defect_everywhere() -> None:
    """As allocated: from the frame to the regions, less the engine."""
    preprocess = Preprocess(SIZE_HW, tile_hw=TILE_HW)
    frame, spec = paint((2400, 3200)), MapSpec(activation="none", top_pixels=50)
    placement = preprocess.placement((2400, 3200))
    grid = preprocess.grid(placement.size_hw)
    tracemalloc.start()
    tiles = grid.cut(preprocess.resize(frame))
    outputs = [EngineOutput(1.0, np.ones(SIZE_HW, np.float32)) for _ in tiles]
    found = find_regions(join(grid, outputs, spec).anomaly_map, placement, 0.5)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.regions) == 1
    assert most <= grid.needed_bytes <= 1.2 * most


def test_a_frame_smaller_than_a_tile_is_refused(tiled_bundle: Callable[[int], Path]) -> None:
    with (
        Detector(tiled_bundle(1)) as detector,
        pytest.raises(FrameError, match=r"190×300.*\n.*at least one tile of 192×128") as caught,
    ):
        detector.inspect(paint((300, 190)))
    assert "--tile" in caught.value.fix


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"tile_hw": (0, 5)}, "tiles of 0x5"),
        ({"tile_hw": (128, 128), "overlap": 1.0}, "an overlap of 1.0"),
        ({"tile_hw": (128, 128), "fit": "letterbox"}, "with tiles"),
        ({"tile_hw": (128, 128), "crop_xywh": (0, 0, 200, 100)}, "in a crop of 200×100"),
    ],
)
def test_impossible_tiles_are_refused(options: dict[str, object], what: str) -> None:
    with pytest.raises(OptionError, match=what):
        Preprocess(**options)  # type: ignore[arg-type]


def test_tiles_survive_json() -> None:
    preprocess = Preprocess(tile_hw=(512, 640), overlap=0.5)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


def test_a_crop_is_cut_before_the_tiles() -> None:
    preprocess = Preprocess((64, 64), crop_xywh=(50, 20, 256, 128), tile_hw=(128, 128), overlap=0.25)
    frame = np.random.default_rng(3).integers(0, 256, (200, 320, 3), np.uint8)
    place, images = preprocess.placement((200, 320)), preprocess.network_images(frame)
    assert (place.size_hw, len(images)) == ((64, 128), 3)
    alone = Preprocess((64, 64), crop_xywh=(50, 20, 128, 128)).resize(frame)
    assert np.array_equal(images[0], alone)
    assert isinstance(preprocess.grid(place.size_hw), TileGrid)
