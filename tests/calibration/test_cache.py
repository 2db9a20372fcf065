from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from segrd_edge.calibration import ranges
from segrd_edge.calibration.cache import ObservationCache
from segrd_edge.calibration.ranges import BLOCK, Observed, observe
from segrd_edge.calibration.session import GraphSession

TENSORS = ["concat.out", "stem.relu.out"]
COUNT = 2 * BLOCK + 3  # three blocks, the last one not full


class Runs:
    """Counts the frames that are run, and stops as Ctrl-C does before frame `stop_at` of all calls together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.stop_at = 0, 10**6
        run = GraphSession.run

        def counted(session: GraphSession, *args: Any, **inputs: Any) -> list[npt.NDArray[Any]]:
            if self.count == self.stop_at:
                raise KeyboardInterrupt
            self.count += 1
            return run(session, *args, **inputs)

        monkeypatch.setattr(ranges.GraphSession, "run", counted)

    def taken(self) -> int:
        """Frames run since the last question."""
        count, self.count = self.count, 0
        return count


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


@pytest.fixture
def many(images: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
    return [np.roll(images[k % len(images)], k, axis=1) for k in range(COUNT)]


@pytest.fixture
def cache(tmp_path: Path) -> ObservationCache:
    return ObservationCache(tmp_path)


def look(model: onnx.ModelProto, images: list[npt.NDArray[np.uint8]], cache: ObservationCache | None) -> Observed:
    return observe(model, TENSORS, images, by_channel=TENSORS[:1], also=["stem.out"], cache=cache)


def assert_same(one: Observed, other: Observed) -> None:
    assert one.largest == other.largest
    for name, histogram in one.histograms.items():
        np.testing.assert_array_equal(histogram.counts, other.histograms[name].counts)
        assert (histogram.zeros, histogram.width, histogram.largest) == (
            other.histograms[name].zeros, other.histograms[name].width, other.histograms[name].largest,
        )  # fmt: skip
        assert histogram.percentile(99.9) == other.histograms[name].percentile(99.9)
    assert list(one.channel_largest) == list(other.channel_largest) == TENSORS[:1]
    np.testing.assert_array_equal(one.channel_largest[TENSORS[0]], other.channel_largest[TENSORS[0]])
    assert [output.score for output in one.outputs] == [output.score for output in other.outputs]
    np.testing.assert_array_equal([o.anomaly_map for o in one.outputs], [o.anomaly_map for o in other.outputs])


def test_a_finished_observation_is_not_made_again(
    model: onnx.ModelProto, many: list[npt.NDArray[np.uint8]], cache: ObservationCache, runs: Runs
) -> None:
    without = look(model, many, None)
    first = look(model, many, cache)
    assert runs.taken() == 2 * COUNT
    again = look(model, many, cache)
    assert runs.taken() == 0
    assert_same(first, without)
    assert_same(again, without)


def test_an_interrupted_observation_goes_on_where_it_stopped(
    model: onnx.ModelProto, many: list[npt.NDArray[np.uint8]], cache: ObservationCache, runs: Runs
) -> None:
    runs.stop_at = BLOCK + 5
    with pytest.raises(KeyboardInterrupt):
        look(model, many, cache)
    runs.stop_at = 10**6
    runs.taken()
    resumed = look(model, many, cache)
    assert runs.taken() == COUNT - BLOCK
    assert_same(resumed, look(model, many, None))


def test_other_questions_have_other_answers(
    model: onnx.ModelProto, many: list[npt.NDArray[np.uint8]], cache: ObservationCache, runs: Runs
) -> None:
    block = many[:BLOCK]
    look(model, block, cache)
    runs.taken()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    weight = next(tensor for tensor in other.graph.initializer if tensor.name == "stem.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    assert look(other, block, cache).largest["stem.out"] != look(model, block, None).largest["stem.out"]
    observe(model, TENSORS, block, cache=cache)
    observe(model, TENSORS[::-1], block, by_channel=TENSORS[:1], also=["stem.out"], cache=cache)
    look(model, [*block[1:], block[0]], cache)
    look(model, [block[0] ^ 1, *block[1:]], cache)
    assert runs.taken() == 6 * BLOCK
    look(model, block, cache)
    assert runs.taken() == 0


def test_blocks_of_frames_are_shared(
    model: onnx.ModelProto, many: list[npt.NDArray[np.uint8]], cache: ObservationCache, runs: Runs
) -> None:
    look(model, many[: 2 * BLOCK], cache)
    runs.taken()
    look(model, many, cache)
    assert runs.taken() == COUNT - 2 * BLOCK


def damaged(content: bytes) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    yield b""
    yield content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize("how", range(3))
def test_a_damaged_entry_is_made_again_and_said(
    model: onnx.ModelProto,
    images: list[npt.NDArray[np.uint8]],
    cache: ObservationCache,
    runs: Runs,
    caplog: pytest.LogCaptureFixture,
    suffix: str,
    how: int,
) -> None:
    first = look(model, images, cache)
    (path,) = cache.folder.glob(f"*{suffix}")
    path.write_bytes(list(damaged(path.read_bytes()))[how])
    runs.taken()
    with caplog.at_level(logging.WARNING, "segrd_edge"):
        assert_same(look(model, images, cache), first)
    assert runs.taken() == len(images)
    assert "damaged" in caplog.text
    caplog.clear()
    look(model, images, cache)
    assert (runs.taken(), caplog.text) == (0, "")


def test_a_folder_that_cannot_be_written_costs_the_cache_and_nothing_else(
    model: onnx.ModelProto, images: list[npt.NDArray[np.uint8]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "calibration").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "segrd_edge"):
        assert_same(look(model, images, ObservationCache(tmp_path)), look(model, images, None))
    assert "not kept" in caplog.text


def test_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    cache = ObservationCache(tmp_path)
    for number in range(4):
        cache.write({"number": number}, {"values": np.random.default_rng(number).random(1000)})
        for path in cache.folder.iterdir():
            stamp = path.stat().st_mtime - 10  # as if every write were 10 s after the one before
            os.utime(path, (stamp, stamp))
    assert cache.read({"number": 0}) is not None  # used again
    total = sum(path.stat().st_size for path in cache.folder.iterdir())
    ObservationCache(tmp_path, limit_bytes=total * 5 // 8).tidy()
    assert [number for number in range(4) if cache.read({"number": number}) is not None] == [0, 3]
