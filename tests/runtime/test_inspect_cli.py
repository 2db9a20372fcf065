from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from segrd_edge.console import build_app
from segrd_edge.inspect_cli import command

RUNNER = CliRunner()


def inspect(*arguments: Any) -> Result:
    app = build_app(command, name="segrd-inspect", example="segrd-inspect bottle.segrd frames/")
    return RUNNER.invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path: Path, good_frame: np.ndarray, defect_frame: np.ndarray) -> Path:
    """good.png, defect.png (defective) and sub/good.bmp."""
    frames = tmp_path / "frames"
    (frames / "sub").mkdir(parents=True)
    cv2.imwrite(str(frames / "good.png"), good_frame)
    cv2.imwrite(str(frames / "defect.png"), defect_frame)
    cv2.imwrite(str(frames / "sub" / "good.bmp"), good_frame)
    return frames


def read_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_exit_code_0_when_all_is_good(bundle_path: Path, folder: Path) -> None:
    done = inspect(bundle_path, folder / "sub")
    assert done.exit_code == 0
    assert "good" in done.stdout


def test_exit_code_1_and_results_when_defects_are_found(bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = inspect(bundle_path, folder, "--out", out, "--csv", "--precision", "fp32", "--mm-per-px", 0.1)
    assert done.exit_code == 1
    lines = read_lines(out)
    assert [(line["name"], line["verdict"]) for line in lines] == [
        ("defect.png", "defect"),
        ("good.png", "good"),
        ("sub/good.bmp", "good"),
    ]
    assert lines[0]["regions"][0]["area_mm2"] == pytest.approx(6, rel=0.2)
    assert lines[0]["threshold"] == 0.3
    for line in lines:
        assert cv2.imread(str(out / line["overlay"])).shape == (120, 180, 3)
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert (rows[0]["name"], rows[0]["verdict"], rows[0]["regions"]) == ("defect.png", "defect", "1")
    assert not list(out.glob("*.part"))


def test_exit_code_2_when_a_frame_is_unreadable_and_the_rest_is_inspected(
    bundle_path: Path, folder: Path, tmp_path: Path
) -> None:
    (folder / "bad.png").write_text("no image")
    done = inspect(bundle_path, folder, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "bad.png" in done.stderr
    lines = read_lines(tmp_path / "out")
    assert len(lines) == 4
    assert "cannot be read as an image" in lines[0]["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "nan"], "threshold=nan"),
        (["--roi", "1,2,3"], "--roi 1,2,3"),
        (["--range", "a:b"], "--range a:b"),
        (["--engine", "tpu"], "unknown engine 'tpu'"),
        (["--precision", "fp16"], "no fp16 graph"),
        (["--csv"], "--csv and --force need a folder"),
        (["--out", "OUT", "--overlays", "some"], "overlays='some'"),
        (["--ignore-mask", "absent.png"], "absent.png: no such file"),
        (["--limit", "0"], "--limit"),
        (["--unknown"], "--unknown"),
    ],
)
def test_exit_code_2_and_a_message_for_wrong_options(
    bundle_path: Path, folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    arguments = [str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments]
    done = inspect(bundle_path, folder, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_three_lines(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "text.segrd").write_text("no bundle")
    done = inspect(tmp_path / "text.segrd", folder)
    assert done.exit_code == 2
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "expected", "fix"]
    assert done.stdout == ""


def test_json_is_one_object_on_the_last_line_of_stdout(bundle_path: Path, folder: Path) -> None:
    done = inspect(bundle_path, folder, "--json", "--engine", "onnxruntime")
    (line,) = done.stdout.splitlines()
    values = json.loads(line)
    assert (values["frames"], values["good"], values["defects"], values["errors"]) == (3, 2, 1, 0)
    assert (values["engine"], values["precision"]) == ("onnxruntime", "fp32")
    assert values["total_ms"]["p50"] > 0


def test_an_earlier_run_is_not_destroyed_silently(bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    inspect(bundle_path, folder, "--out", out)
    before = (out / "results.jsonl").read_bytes()
    refused = inspect(bundle_path, folder / "sub", "--out", out)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert (out / "results.jsonl").read_bytes() == before
    forced = inspect(bundle_path, folder / "sub", "--out", out, "--force")
    assert forced.exit_code == 0
    assert len(read_lines(out)) == 1


def test_a_forced_run_leaves_nothing_of_the_earlier_one(bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    inspect(bundle_path, folder, "--out", out, "--csv")
    (out / "overlays" / "mine.jpg").touch()
    with open(out / "results.jsonl", "a") as log:
        log.write('no line\n{"overlay": "../outside.jpg"}\n{"overlay": ""}\n')
    (tmp_path / "outside.jpg").touch()
    assert inspect(bundle_path, folder / "good.png", "--out", out, "--force").exit_code == 0
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert left == {"results.jsonl", "overlays/good.jpg", "overlays/mine.jpg"}
    assert (tmp_path / "outside.jpg").exists()


def test_results_inside_the_source_are_no_frames_of_the_next_run(bundle_path: Path, folder: Path) -> None:
    for _ in range(2):
        inspect(bundle_path, folder, "--out", folder / "results", "--force")
        assert len(read_lines(folder / "results")) == 3


def test_a_mistyped_source_leaves_no_folder(bundle_path: Path, tmp_path: Path) -> None:
    assert inspect(bundle_path, tmp_path / "farmes", "--out", tmp_path / "out").exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_run_that_breaks_off_keeps_the_earlier_results(
    bundle_path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    inspect(bundle_path, folder, "--out", out)
    before = (out / "results.jsonl").read_bytes()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segrd_edge.inspect_cli._inspect", interrupted)
    done = inspect(bundle_path, folder, "--out", out, "--force")
    assert done.exit_code == 130
    assert (out / "results.jsonl").read_bytes() == before


def test_a_camera_is_stopped_by_ctrl_c_and_keeps_its_results(
    bundle_path: Path, good_frame: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def camera(*_: Any, **__: Any) -> Iterator[Any]:
        yield "camera_000000", good_frame
        raise KeyboardInterrupt

    monkeypatch.setattr("segrd_edge.sources.frames", camera)
    done = inspect(bundle_path, "0", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert [line["name"] for line in read_lines(tmp_path / "out")] == ["camera_000000"]


def test_overlays_of_defects_only_and_names_that_collide(
    bundle_path: Path, folder: Path, tmp_path: Path, defect_frame: np.ndarray
) -> None:
    cv2.imwrite(str(folder / "defect.bmp"), defect_frame)
    out = tmp_path / "out"
    inspect(bundle_path, folder, "--out", out, "--overlays", "defects")
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.jpg")) == [
        "overlays/defect.jpg",
        "overlays/defect.png.jpg",
    ]
    assert [line["overlay"] for line in read_lines(out)[2:]] == [None, None]


def test_areas_and_limit(bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    assert inspect(bundle_path, folder, "--roi", "100,0,80,120").exit_code == 0  # the defect lies left of it
    assert inspect(bundle_path, folder, "--min-area", 700).exit_code == 0
    mask = np.zeros((120, 180), np.uint8)
    mask[20:60, 50:100] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    assert inspect(bundle_path, folder, "--ignore-mask", tmp_path / "mask.png").exit_code == 0
    done = inspect(bundle_path, folder, "--limit", 1, "--json")
    assert json.loads(done.stdout)["frames"] == 1


def test_an_area_that_fits_no_frame_is_reported_per_frame(bundle_path: Path, folder: Path) -> None:
    done = inspect(bundle_path, folder, "--roi", "0,0,999,10")
    assert done.exit_code == 2
    assert done.stderr.count("reaches outside a frame") == 3


def test_16_bit_images_need_a_range(bundle_path: Path, tmp_path: Path, painter: Callable[..., np.ndarray]) -> None:
    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "deep" / "1.png"), painter((60, 80)).astype(np.uint16) * 16)
    without = inspect(bundle_path, tmp_path / "deep")
    assert without.exit_code == 2
    assert "without a value range" in without.stderr
    assert inspect(bundle_path, tmp_path / "deep", "--range", "0:4080").exit_code == 0


def test_a_graph_of_several_items_inspects_a_folder_in_groups(
    make_bundle: Callable[..., Path], deploy_graph: Callable[..., bytes], folder: Path, tmp_path: Path
) -> None:
    (folder / "broken.png").write_text("no image")
    cv2.imwrite(str(folder / "small.png"), np.zeros((5, 5, 3), np.uint8))  # the region of interest reaches outside
    found = {}
    for batch in (1, 3):
        path = make_bundle(
            tmp_path / f"{batch}.segrd",
            graphs={"fp32": deploy_graph(batch=batch)},
            default_precision="fp32",
            calibration=None,
        )
        done = inspect(path, folder, "--out", tmp_path / str(batch), "--overlays", "none", "--roi", "0,0,180,120")
        assert done.exit_code == 2
        lines = read_lines(tmp_path / str(batch))
        found[batch] = [(line["name"], line.get("verdict"), line.get("score")) for line in lines]
    assert [name for name, *_ in found[3]] == ["broken.png", "defect.png", "good.png", "small.png", "sub/good.bmp"]
    assert [verdict for _, verdict, _ in found[3]] == [None, "defect", "good", None, "good"]
    assert found[3] == found[1]
