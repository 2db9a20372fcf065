from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrd_edge import Bundle, Detector
from segrd_edge.counting import Counting
from segrd_edge.engines import EngineOutput, engine_class
from segrd_edge.errors import EngineError, FrameError, OptionError
from segrd_edge.preprocess import Placement, Preprocess
from segrd_edge.selftest import TOLERANCE, golden_frame

WHITE_ANOMALY = (215 + 135 + 55) / 3 / 255
ENGINE = pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])


@pytest.fixture
def detector(bundle_path: Path) -> Iterator[Detector]:
    with Detector(bundle_path, precision="fp32") as opened:
        yield opened


@ENGINE
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_good_and_defect(
    bundle_path: Path, engine: str, precision: str, good_frame: np.ndarray, defect_frame: np.ndarray
) -> None:
    with Detector(bundle_path, engine=engine, precision=precision) as detector:
        good, defect = detector.inspect(good_frame), detector.inspect(defect_frame)
        assert (detector.engine, detector.precision) == (engine, precision)
        assert detector.threshold == {"fp32": 0.3, "int8": 0.32}[precision]
    assert (good.verdict, good.is_defect, good.score, good.regions) == ("good", False, 0.0, ())
    assert defect.is_defect
    assert defect.score == pytest.approx(WHITE_ANOMALY, abs=1e-6 if precision == "fp32" else 0.5 / 127)
    assert defect.frame_hw == (120, 180)
    assert defect.anomaly_map.shape == (64, 96)
    assert defect.map_in_frame().shape == (120, 180)
    (region,) = defect.regions
    left, top, width, height = region.box_xywh
    # The white box is x 60..90, y 30..50; one network pixel is 1.875 frame pixels.
    assert abs(left - 60) <= 2
    assert abs(top - 30) <= 2
    assert abs(left + width - 90) <= 2
    assert abs(top + height - 50) <= 2


@pytest.mark.parametrize(
    ("vnni", "speedup", "share", "twice", "expected"),
    [
        (True, None, 1.0, 0.5, "int8"),  # nothing is tried
        (False, 1.5, 1.0, 0.0, "int8"),
        (False, 1.05, 1.0, 0.0, "fp32"),
        (False, 1.5, 0.2, 0.0, "fp32"),  # little of the network gains by it
        (False, 1.5, 1.0, 0.1, "int8"),
        (False, 1.5, 1.0, 0.4, "fp32"),  # what runs in two terms loses more than the rest gains
    ],
)
def test_auto_takes_int8_only_where_it_is_faster(
    make_bundle: Callable[..., Path],
    manifest_fields: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vnni: bool,
    speedup: float | None,
    share: float,
    twice: float,
    expected: str,
) -> None:
    monkeypatch.setattr("segrd_edge.engines.openvino.int8_is_exact", lambda: vnni)
    monkeypatch.setattr("segrd_edge.engines.openvino.int8_speedup", lambda: speedup or pytest.fail("tried"))
    calibration = manifest_fields()["calibration"] | {"int8_share": share, "two_term_share": twice}
    path = make_bundle(tmp_path / "part.segrd", calibration=calibration)
    with Detector(path) as fast, Detector(path, engine="onnxruntime") as portable:
        assert (fast.engine, fast.precision) == ("openvino", expected)
        assert (portable.precision, portable.threshold) == ("fp32", 0.3)


def test_auto_goes_on_where_an_engine_does_not_work(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, good_frame: np.ndarray
) -> None:
    def refuse(*_: Any) -> None:
        raise EngineError("no such instruction")

    monkeypatch.setattr(engine_class("openvino"), "_load", refuse)
    with Detector(bundle_path, device=3) as detector:
        assert (detector.engine, detector.inspect(good_frame).verdict) == ("onnxruntime", "good")
    assert "openvino does not work here, so another is taken: no such instruction" in caplog.text
    assert "onnxruntime runs on the processor: device=3" in caplog.text
    with pytest.raises(EngineError, match="no such instruction"):
        Detector(bundle_path, engine="openvino")


def test_timings_add_up(detector: Detector, good_frame: np.ndarray) -> None:
    timings = detector.inspect(good_frame).timings_ms
    assert list(timings) == ["preprocess", "engine", "postprocess", "total"]
    assert all(value > 0 for value in timings.values())
    assert timings["preprocess"] + timings["engine"] + timings["postprocess"] <= timings["total"]


def test_an_inspection_is_json(detector: Detector, defect_frame: np.ndarray) -> None:
    inspection = detector.inspect(defect_frame)
    values = json.loads(json.dumps(inspection.to_dict()))
    assert values["verdict"] == "defect"
    assert tuple(values["regions"][0]["box_xywh"]) == inspection.regions[0].box_xywh


@ENGINE
def test_results_are_repeatable_and_never_alias(
    bundle_path: Path, engine: str, good_frame: np.ndarray, defect_frame: np.ndarray
) -> None:
    with Detector(bundle_path, engine=engine, precision="fp32") as detector:
        first = detector.inspect(defect_frame)
        kept = first.anomaly_map.copy()
        other = detector.inspect(good_frame)
        again = detector.inspect(defect_frame)
        np.testing.assert_array_equal(first.anomaly_map, kept)
        assert not np.shares_memory(first.anomaly_map, again.anomaly_map)
        assert not np.shares_memory(first.anomaly_map, other.anomaly_map)
        np.testing.assert_array_equal(first.anomaly_map, again.anomaly_map)
        assert (first.score, first.regions) == (again.score, again.regions)
        first.anomaly_map[:] = 0  # the caller's own: nothing else sees it
        np.testing.assert_array_equal(detector.inspect(defect_frame).anomaly_map, kept)


@ENGINE
def test_four_threads_get_what_one_gets(bundle_path: Path, engine: str, painter: Callable[..., np.ndarray]) -> None:
    frames = [painter((90 + i, 140 - i), (3 * i, 2 * i, 10 + i, 12)) for i in range(32)]
    with Detector(bundle_path, engine=engine, precision="fp32", ignore_mask=None) as detector:
        serial = [detector.inspect(frame) for frame in frames]
        with ThreadPoolExecutor(4) as pool:
            batches = [frames[i : i + 8] for i in range(0, 32, 8)]
            threaded = [r for batch in pool.map(lambda b: [detector.inspect(f) for f in b], batches) for r in batch]
    for one, four in zip(serial, threaded, strict=True):
        assert (one.score, one.verdict, one.regions) == (four.score, four.verdict, four.regions)
        np.testing.assert_array_equal(one.anomaly_map, four.anomaly_map)


def test_threads_with_a_mask_and_changing_frame_sizes(bundle_path: Path, painter: Callable[..., np.ndarray]) -> None:
    frames = [painter(hw, (0, 0, 20, 20)) for hw in ((60, 90), (120, 180)) * 16]
    with Detector(bundle_path, precision="fp32", roi_xywh=(0, 0, 40, 40)) as detector:
        serial = [detector.inspect(frame).score for frame in frames]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda frame: detector.inspect(frame).score, frames)) == serial


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint16),
        np.zeros((0, 4, 3), np.uint8),
        "frame.png",
        None,
    ],
)
def test_refuses_what_is_no_frame(detector: Detector, frame: Any) -> None:
    with pytest.raises(FrameError) as caught:
        detector.inspect(frame)
    assert caught.value.expected


@pytest.mark.parametrize("shape", [(8, 10, 3), (8, 10, 1), (8, 10), (8,)])
def test_one_frame_is_no_sequence_of_frames(detector: Detector, shape: tuple[int, ...]) -> None:
    for inspect in (detector.inspect_batch, detector.inspect_many):
        with pytest.raises(FrameError, match="one frame, not a sequence") as caught:
            inspect(np.zeros(shape, np.uint8))
        assert caught.value.expected


def test_a_stack_of_frames_is_a_sequence(detector: Detector) -> None:
    for shape in ((2, 8, 10, 3), (2, 8, 10)):
        assert len(detector.inspect_batch(np.zeros(shape, np.uint8))) == 2  # type: ignore[arg-type]


def test_a_frame_is_checked_as_it_is_inspected(bundle_path: Path, painter: Callable[..., np.ndarray]) -> None:
    frames = [painter((120, 180)), painter((40, 40)), painter((120, 180)).astype(float), None]
    with Detector(bundle_path, roi_xywh=(0, 0, 50, 50)) as detector:
        detector.check_frame(frames[0])
        for refused in frames[1:]:
            with pytest.raises((FrameError, OptionError)) as inspected:
                detector.inspect(refused)  # type: ignore[arg-type]
            with pytest.raises(type(inspected.value)) as checked:
                detector.check_frame(refused)  # type: ignore[arg-type]
            assert str(checked.value) == str(inspected.value)


def test_layout_and_channel_order_do_not_matter(
    bundle_path: Path, detector: Detector, defect_frame: np.ndarray
) -> None:
    expected = detector.inspect(defect_frame)
    fortran = np.asfortranarray(defect_frame)
    padded = np.zeros((130, 200, 3), np.uint8)
    padded[5:125, 7:187] = defect_frame
    with Detector(bundle_path, precision="fp32", pixel_order="rgb") as rgb:
        results = [
            detector.inspect(fortran),
            detector.inspect(padded[5:125, 7:187]),
            detector.inspect(defect_frame[::-1][::-1]),
            rgb.inspect(defect_frame[..., ::-1]),
            rgb.inspect(np.ascontiguousarray(defect_frame[..., ::-1])),
        ]
    for result in results:
        assert result.score == expected.score
        np.testing.assert_array_equal(result.anomaly_map, expected.anomaly_map)


def test_of_many_regions_the_strongest_are_reported(bundle_path: Path, good_frame: np.ndarray) -> None:
    specks = good_frame.copy()
    specks[4::12, 4::12] = 255
    specks[5::12, 4::12] = 255
    with (
        Detector(bundle_path, precision="fp32", threshold=0.01, max_regions=1000) as all_of_them,
        Detector(bundle_path, precision="fp32", threshold=0.01, max_regions=2) as two,
    ):
        found, fewer = all_of_them.inspect(specks), two.inspect(specks)
    assert (found.regions_left_out, len(fewer.regions)) == (0, 2)
    assert fewer.regions_left_out == len(found.regions) - 2 > 0
    assert fewer.regions == found.regions[:2]
    assert fewer.to_dict()["regions_left_out"] == fewer.regions_left_out


def test_grey_is_what_three_equal_channels_are(detector: Detector, defect_frame: np.ndarray) -> None:
    grey = defect_frame[..., 1]
    expected = detector.inspect(np.dstack([grey] * 3))
    for frame in (grey, grey[..., None], np.ascontiguousarray(grey)):
        result = detector.inspect(frame)
        assert result.score == expected.score
        np.testing.assert_array_equal(result.anomaly_map, expected.anomaly_map)


def test_16_bit_with_a_stated_range(
    bundle_path: Path, make_bundle: Callable[..., Path], tmp_path: Path, detector: Detector, defect_frame: np.ndarray
) -> None:
    expected = detector.inspect(defect_frame).score
    deep = defect_frame.astype(np.uint16) * 16
    with Detector(bundle_path, precision="fp32", value_range=(0, 4080)) as stated:
        assert stated.inspect(deep).score == expected
    recorded = Preprocess(size_hw=(64, 96), value_range=(0, 4080)).to_dict()
    with Detector(make_bundle(tmp_path / "deep.segrd", preprocess=recorded), precision="fp32") as from_bundle:
        assert from_bundle.inspect(deep).score == expected


def test_threshold_is_inclusive_and_can_be_given(
    bundle_path: Path, detector: Detector, defect_frame: np.ndarray
) -> None:
    score = detector.inspect(defect_frame).score
    with Detector(bundle_path, precision="fp32", threshold=score) as at_score:
        inspection = at_score.inspect(defect_frame)
        assert inspection.is_defect
        assert inspection.regions
    with Detector(bundle_path, precision="fp32", threshold=float(np.nextafter(score, 1))) as above:
        assert above.inspect(defect_frame).verdict == "good"


def test_a_defect_verdict_always_shows_a_region(bundle_path: Path, painter: Callable[..., np.ndarray]) -> None:
    """A float32 mean of equal values may exceed them by rounding; the region must not be lost to that."""
    for grey in range(0, 256, 5):
        frame = np.full((64, 96, 3), grey, np.uint8)
        with Detector(bundle_path, precision="fp32", engine="onnxruntime") as detector:
            score = detector.inspect(frame).score
        with Detector(bundle_path, precision="fp32", engine="onnxruntime", threshold=score) as at_score:
            assert at_score.inspect(frame).regions


@pytest.mark.parametrize(("min_area_px", "verdict"), [(500, "defect"), (700, "good")])
def test_minimum_area_decides_the_verdict(
    bundle_path: Path, defect_frame: np.ndarray, min_area_px: float, verdict: str
) -> None:
    with Detector(bundle_path, precision="fp32", min_area_px=min_area_px) as detector:
        inspection = detector.inspect(defect_frame)  # 600 frame pixels, blurred by the resize
    assert inspection.verdict == verdict
    assert bool(inspection.regions) == (verdict == "defect")
    assert inspection.score >= inspection.threshold


def test_a_letterbox_border_makes_no_region(
    make_bundle: Callable[..., Path], tmp_path: Path, painter: Callable[..., np.ndarray]
) -> None:
    """Its grey is 0.217 away from the part's colour, and the graph knows nothing of a border."""
    preprocess = Preprocess(size_hw=(64, 96), fit="letterbox").to_dict()
    path = make_bundle(tmp_path / "letterbox.segrd", preprocess=preprocess)
    with Detector(path, precision="fp32", threshold=0.1) as detector:
        border = detector.inspect(painter((100, 100)))
        (region,) = detector.inspect(painter((100, 100), (0, 40, 30, 30))).regions
    with Detector(path, precision="fp32", threshold=0.1, min_area_px=1) as detector:
        assert not detector.inspect(painter((100, 100))).is_defect
    assert border.score == pytest.approx(0.217, abs=1e-3)
    assert (border.verdict, border.regions, border.regions_left_out) == ("defect", (), 0)
    assert region.box_xywh[0] == 0
    assert region.area_px == pytest.approx(900, rel=0.2)


def test_areas_in_mm2(bundle_path: Path, defect_frame: np.ndarray) -> None:
    with Detector(bundle_path, precision="fp32", mm_per_px=0.1) as detector:
        (region,) = detector.inspect(defect_frame).regions
    assert region.area_mm2 == pytest.approx(region.area_px * 0.01)
    assert region.area_mm2 == pytest.approx(6, rel=0.2)


def test_region_of_interest(bundle_path: Path, painter: Callable[..., np.ndarray]) -> None:
    frame = painter((120, 180), (10, 10, 30, 30), (120, 70, 40, 40))
    with Detector(bundle_path, precision="fp32", roi_xywh=(90, 60, 90, 60)) as detector:
        (region,) = detector.inspect(frame).regions
        assert region.box_xywh[0] >= 118
        elsewhere = detector.inspect(painter((120, 180), (10, 10, 30, 30)))
    assert (elsewhere.verdict, elsewhere.score, elsewhere.regions) == ("good", 0.0, ())


def test_what_counts_is_worked_out_once_per_frame_size(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    work_out = Placement.mask_to_network
    monkeypatch.setattr(Placement, "mask_to_network", lambda *args: made.append(1) or work_out(*args))
    counting, preprocess = Counting((0, 0, 20, 20), None), Preprocess(size_hw=(64, 96))
    for _ in range(3):
        for frame_hw in ((60, 90), (120, 180)):
            assert counting.at_network_size(preprocess.placement(frame_hw)) is not None
    assert len(made) == 2
    for side in range(60, 160):  # a few are kept, not all that ever came
        counting.at_network_size(preprocess.placement((side, side)))
    assert len(counting._by_placement) <= 16


def test_ignore_mask(bundle_path: Path, painter: Callable[..., np.ndarray]) -> None:
    frame = painter((120, 180), (10, 10, 30, 30))
    mask = np.zeros((120, 180), np.uint8)
    mask[:60, :90] = 255
    with Detector(bundle_path, precision="fp32", ignore_mask=mask) as detector:
        mask[:] = 0  # the Detector has its own copy
        assert detector.inspect(frame).score == 0
        assert detector.inspect(painter((120, 180), (100, 10, 30, 30))).is_defect
    with Detector(bundle_path, precision="fp32", ignore_mask=np.zeros((120, 180), bool)) as all_counts:
        assert all_counts.inspect(frame).score == pytest.approx(WHITE_ANOMALY, abs=1e-6)


@pytest.fixture
def cropping(make_bundle: Callable[..., Path], tmp_path: Path) -> Path:
    """The test bundle with a crop of 180×120 pixels at x 100, y 50."""
    preprocess = Preprocess(size_hw=(64, 96), crop_xywh=(100, 50, 180, 120))
    return make_bundle(tmp_path / "part.segrd", preprocess=preprocess.to_dict())


@ENGINE
def test_a_crop_looks_at_its_part_of_the_frame_and_answers_for_the_whole(
    cropping: Path, bundle_path: Path, engine: str, painter: Callable[..., np.ndarray], defect_frame: np.ndarray
) -> None:
    frame = painter((400, 500), (0, 0, 100, 400), (160, 80, 30, 20), (300, 300, 50, 50))
    with Detector(cropping, engine=engine) as detector, Detector(bundle_path, engine=engine) as plain:
        detector.self_test()
        found, alone = detector.inspect(frame), plain.inspect(defect_frame)
        assert not detector.inspect(painter((400, 500), (0, 0, 100, 400), (300, 0, 200, 400))).is_defect
        with pytest.raises(FrameError, match="a frame of 500×160 pixels, which the crop 100,50,180,120"):
            detector.inspect(frame[:160])
    assert (found.verdict, found.score, found.frame_hw) == ("defect", alone.score, (400, 500))
    np.testing.assert_array_equal(found.anomaly_map, alone.anomaly_map)
    for whole, part in zip(found.regions, alone.regions, strict=True):
        left, top, width, height = part.box_xywh
        assert whole.box_xywh == (left + 100, top + 50, width, height)
        assert whole.polygon_xy == tuple((x + 100, y + 50) for x, y in part.polygon_xy)
        assert whole.area_px == part.area_px
    in_frame = found.map_in_frame()
    np.testing.assert_array_equal(in_frame[50:170, 100:280], alone.map_in_frame())
    assert np.count_nonzero(in_frame) == np.count_nonzero(alone.map_in_frame())


def test_region_of_interest_and_ignore_mask_of_a_crop_are_in_frame_pixels(
    cropping: Path, painter: Callable[..., np.ndarray]
) -> None:
    frame = painter((400, 500), (160, 80, 30, 20), (230, 130, 20, 20))
    with Detector(cropping, roi_xywh=(0, 0, 210, 400)) as detector:  # reaches outside the crop, cuts it in two
        (region,) = detector.inspect(frame).regions
    assert 155 < region.box_xywh[0] < 165
    ignored = np.zeros((400, 500), bool)
    ignored[:115] = True
    with Detector(cropping, ignore_mask=ignored) as detector:
        (region,) = detector.inspect(frame).regions
    assert 225 < region.box_xywh[0] < 235
    with (
        Detector(cropping, roi_xywh=(300, 0, 50, 400)) as detector,
        pytest.raises(OptionError, match="leave no pixel to inspect") as caught,
    ):
        detector.inspect(frame)
    assert "inside the crop 100,50,180,120" in caught.value.expected


def test_few_counted_pixels_average_what_there_is(bundle_path: Path, painter: Callable[..., np.ndarray]) -> None:
    frame = np.full((64, 96, 3), 255, np.uint8)  # network size: frame pixels are network pixels
    with Detector(bundle_path, precision="fp32", roi_xywh=(5, 5, 2, 2)) as detector:  # 4 pixels, T is 20
        inspection = detector.inspect(frame)
    assert inspection.score == pytest.approx(WHITE_ANOMALY, abs=1e-6)
    assert inspection.regions[0].box_xywh == (5, 5, 2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roi_xywh": (100, 0, 100, 50)}, r"reaches outside a frame of 180×120"),
        ({"ignore_mask": np.zeros((180, 120), bool)}, r"an ignore mask of 120×180 pixels for a frame of 180×120"),
        ({"ignore_mask": np.ones((120, 180), bool)}, "leave no pixel to inspect"),
        ({"roi_xywh": (0, 0, 1, 1)}, "leave no pixel to inspect"),
    ],
)
def test_areas_that_do_not_fit_the_frame(
    bundle_path: Path, good_frame: np.ndarray, options: dict[str, Any], message: str
) -> None:
    with Detector(bundle_path, **options) as detector, pytest.raises(OptionError, match=message) as caught:
        detector.inspect(good_frame)
    assert caught.value.expected


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"threads": 0}])
def test_options_that_the_engine_refuses(bundle_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        Detector(bundle_path, **options)
    assert caught.value.expected


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": float("nan")},
        {"threshold": float("inf")},
        {"threshold": "0.5"},
        {"max_regions": 0},
        {"max_regions": 100.0},
        {"max_regions": float("nan")},
        {"min_area_px": "5"},
        {"min_area_px": -1},
        {"mm_per_px": 0},
        {"mm_per_px": float("nan")},
        {"roi_xywh": (0, 0, 0, 5)},
        {"roi_xywh": (-1, 0, 5, 5)},
        {"roi_xywh": (1, 2, 3)},
        {"roi_xywh": (1.0, 2.0, 3.0, 4.0)},
        {"roi_xywh": "1,2,3,4"},
        {"roi_xywh": 5},
        {"ignore_mask": np.zeros((4, 4), np.float32)},
        {"ignore_mask": np.zeros((4, 4, 3), np.uint8)},
        {"ignore_mask": [[0]]},
        {"pixel_order": "grb"},
        {"value_range": (4095, 0)},
        {"value_range": (0, 1, 2)},
        {"value_range": ()},
        *({"keep_warm_ms": interval_ms} for interval_ms in (0, -1, float("nan"), float("inf"), "5")),
    ],
)
def test_impossible_options_are_refused_at_once(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("segrd_edge.engines.open_engine", lambda *_: pytest.fail("opened an engine"))
    with pytest.raises(OptionError) as caught:
        Detector(bundle_path, **options)
    (name,) = options
    assert name.replace("_", " ") in caught.value.what.replace("_", " ")
    assert caught.value.expected


def test_the_threshold_can_be_changed_and_is_checked(detector: Detector, defect_frame: np.ndarray) -> None:
    assert detector.inspect(defect_frame).is_defect
    detector.threshold = 0.9
    above = detector.inspect(defect_frame)
    assert (above.verdict, above.threshold) == ("good", 0.9)
    for impossible in (float("nan"), float("inf"), "0.5", None):
        with pytest.raises(OptionError, match="threshold="):
            detector.threshold = impossible  # type: ignore[assignment]
    assert detector.threshold == 0.9


def test_close_is_idempotent_and_final(bundle_path: Path, good_frame: np.ndarray) -> None:
    detector = Detector(Bundle.open(bundle_path))
    detector.close()
    detector.close()
    with pytest.raises(EngineError, match="closed") as caught:
        detector.inspect(good_frame)
    assert "Detector" in caught.value.fix


def test_many_frames_are_inspected_lazily(detector: Detector, good_frame: np.ndarray, defect_frame: np.ndarray) -> None:
    batch = np.stack([good_frame, defect_frame])
    assert [i.verdict for i in detector.inspect_many(batch)] == ["good", "defect"]

    def endless() -> Iterator[np.ndarray]:
        while True:
            yield good_frame

    assert next(detector.inspect_many(endless())).verdict == "good"


@ENGINE
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_self_test_passes_on_a_sound_bundle(bundle_path: Path, engine: str, precision: str) -> None:
    with Detector(bundle_path, engine=engine, precision=precision) as detector:
        found = detector.self_test()
    assert found.frames == 2
    assert found.max_score_difference <= found.tolerance == TOLERANCE[precision]


def test_self_test_finds_another_map(
    make_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = Bundle.open(make_bundle(tmp_path / "part.segrd")).golden()
    golden["map_fp32"] = golden["map_fp32"] + np.float32(2e-3)
    monkeypatch.setattr(Bundle, "golden", lambda self: golden)
    with (
        Detector(tmp_path / "part.segrd", precision="fp32") as detector,
        pytest.raises(EngineError, match=r"golden maps that differ on average by 0\.0020"),
    ):
        detector.self_test()


def test_self_test_finds_a_batch_item_that_differs(
    make_bundle: Callable[..., Path],
    deploy_graph: Callable[..., bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = _bundle_of(deploy_graph(batch=2), make_bundle, tmp_path)
    with Detector(path) as detector:
        assert detector.self_test().max_batch_difference == 0
        run_batch = detector._engine.run_batch

        def second_is_off(images: list[np.ndarray]) -> list[EngineOutput]:
            first, second = run_batch(images)
            return [first, second._replace(score=second.score + 2e-4)]

        monkeypatch.setattr(detector._engine, "run_batch", second_is_off)
        with pytest.raises(EngineError, match=r"equal items in one batch that differ by 0\.0002"):
            detector.self_test()


def test_a_batch_gives_each_frame_its_own_result(
    make_bundle: Callable[..., Path], deploy_graph: Callable[..., bytes], tmp_path: Path, painter: Callable[..., Any]
) -> None:
    path = _bundle_of(deploy_graph(batch=2), make_bundle, tmp_path)
    frames = [painter((120, 180), *boxes) for boxes in ([(60, 30, 30, 20)], [], [(0, 0, 30, 20)])] + [painter((64, 96))]
    with Detector(path) as detector:
        assert detector.batch == 2
        batched = detector.inspect_batch(frames)  # two runs
        single = [detector.inspect(frame) for frame in frames]
        assert detector.inspect_batch([]) == []
    assert [inspection.verdict for inspection in batched] == ["defect", "good", "defect", "good"]
    for one, other in zip(batched, single, strict=True):
        assert (one.score, one.regions, one.frame_hw) == (other.score, other.regions, other.frame_hw)
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)


def test_a_graph_that_takes_frames_gives_what_the_resize_gives(
    make_bundle: Callable[..., Path],
    deploy_graph: Callable[..., bytes],
    bundle_path: Path,
    tmp_path: Path,
    painter: Callable[..., Any],
) -> None:
    path = _bundle_of(deploy_graph(shrink=2), make_bundle, tmp_path)
    frame = painter((128, 192), (61, 31, 30, 20))
    with Detector(path) as whole, Detector(bundle_path, precision="fp32") as resizing:
        assert (whole.takes_frames, resizing.takes_frames) == (True, False)
        whole.self_test()
        mine, theirs = whole.inspect(frame), resizing.inspect(frame)
        with pytest.raises(FrameError, match="a frame of 180×120 pixels") as caught:
            whole.inspect(painter((120, 180)))
    assert caught.value.expected.startswith("192×128")
    assert "--frame 180x120" in caught.value.fix
    assert (mine.verdict, mine.regions, mine.frame_hw) == (theirs.verdict, theirs.regions, (128, 192))
    np.testing.assert_allclose(mine.anomaly_map, theirs.anomaly_map, atol=1 / 255)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("crop_xywh", [None, (7, 30, 192, 128)])
def test_a_golden_frame_is_seen_as_its_golden_image(fit: Any, crop_xywh: Any) -> None:
    preprocess, frame_hw = Preprocess((64, 96), fit=fit, crop_xywh=crop_xywh), (192, 288)
    image = np.random.default_rng(0).integers(1, 256, (64, 96, 3), np.uint8)
    frame = golden_frame(image, preprocess, frame_hw)
    np.testing.assert_array_equal(preprocess.resize(frame), image)
    assert (frame == 0).all(axis=2).sum() == (0 if crop_xywh is None else 192 * 288 - 192 * 128)


def _bundle_of(graph: bytes, make_bundle: Callable[..., Path], folder: Path) -> Path:
    """A bundle with this one fp32 graph."""
    return make_bundle(folder / "part.segrd", graphs={"fp32": graph}, default_precision="fp32", calibration=None)


def test_self_test_finds_another_graph(
    make_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = Bundle.open(make_bundle(tmp_path / "part.segrd")).golden()
    golden["score_fp32"] = golden["score_fp32"] + np.float32(2e-3)
    monkeypatch.setattr(Bundle, "golden", lambda self: golden)
    with (
        Detector(tmp_path / "part.segrd", precision="fp32") as detector,
        pytest.raises(EngineError, match=r"differ by 0\.0020"),
    ):
        detector.self_test()


def test_a_score_that_is_no_number_is_never_good(
    detector: Detector, good_frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = EngineOutput(float("nan"), np.zeros((64, 96), np.float32))
    monkeypatch.setattr(detector._engine, "run_batch", lambda images: [broken] * len(images))
    with pytest.raises(EngineError, match="gave the score nan"):
        detector.inspect(good_frame)
    with pytest.raises(EngineError, match="differ by nan"):
        detector.self_test()


def test_a_graph_of_another_size_is_refused(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "part.segrd", preprocess=Preprocess(size_hw=(32, 32)).to_dict())
    with pytest.raises(EngineError, match=r"graph takes \(64, 96\) pixels"):
        Detector(path)
