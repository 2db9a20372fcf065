"""A run and the result of its export, made up, for reports to be written of; and a page, read."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segrd_edge.bundle import write_bundle
from segrd_edge.doctor import TINY_GRAPH
from segrd_edge.export import report_latency
from segrd_edge.export.bundle import ExportResult
from segrd_edge.manifest import Manifest
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.data import Photo
from segrd_edge.training.evaluate import Evaluation, evaluate_photos
from segrd_edge.training.run import Run, RunConfig
from segrd_edge.training.synthetic_test import evaluate_frames, synthetic_frames
from segrd_edge.training.threshold import choose_threshold

SIZE_HW = (32, 32)
FRAME_HW = (48, 64)
HELD_OUT = {"fp32": np.linspace(0.02, 0.2, 30).tolist(), "int8": np.linspace(0.03, 0.21, 30).tolist()}
# Score and kind of every test image, fp32 first. The thresholds lie near 0.21 and 0.22.
GOOD_SCORES = [(0.05, 0.06), (0.1, 0.11), (0.15, 0.23), (0.19, 0.2)]
DEFECT_SCORES = {"dent": [(0.9, 0.91), (0.12, 0.13), (0.7, 0.72)], "scratch": [(0.6, 0.58), (0.5, 0.52)]}


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_latency, "_WARM_UP", 0)


@pytest.fixture(name="make")
def making(tmp_path: Path) -> Callable[..., tuple[Run, ExportResult]]:
    """`make(int8=…, evaluated=…, synthetic=…)`: a run and the result of its export, with pictures on the disk."""

    def make_both(*, int8: bool = True, evaluated: bool = True, synthetic: bool = False) -> tuple[Run, ExportResult]:
        precisions = ["fp32", "int8"] if int8 else ["fp32"]
        evaluations = evaluations_of(tmp_path / "photos", precisions) if evaluated else {}
        if synthetic:
            evaluations = synthetic_evaluations_of(tmp_path / "photos", precisions)
        run = make_run(tmp_path, evaluated=evaluated and not synthetic)
        return run, make_result(tmp_path / "part.segrd", run, precisions, evaluations)

    return make_both


class Page(HTMLParser):
    """What is on the page. It must close every element that it opens."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.pictures: list[str] = []
        self.anchors: list[str] = []
        self.targets: list[str] = []
        self.text = ""

    @classmethod
    def of(cls, path: Path) -> Page:
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        assert page.open == []
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.pictures.append(values["src"] or "")
        if tag == "h2":
            self.headings.append("")
        if "id" in values:
            self.anchors.append(values["id"] or "")
        if tag == "a":
            self.targets.append(values["href"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An SVG element: closed at once."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            return
        self.text += data
        if "h2" in self.open:
            self.headings[-1] += data


def evaluations_of(folder: Path, precisions: list[str]) -> dict[str, Evaluation]:
    """Real evaluations of drawn frames, by predictors that know the scores."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    photos: list[Photo] = []
    scores: list[tuple[float, float]] = []
    for kind, values in {"good": GOOD_SCORES, **DEFECT_SCORES}.items():
        (folder / kind).mkdir(exist_ok=True)
        for number, value in enumerate(values):
            path = folder / kind / f"{number}.png"
            mask = folder / kind / f"{number}_mask.png"
            cv2.imwrite(str(path), rng.integers(90, 110, (*FRAME_HW, 3), np.uint8))
            cv2.imwrite(str(mask), defect_mask(FRAME_HW).astype(np.uint8) * 255)
            photos.append(Photo(path, kind, None if kind == "good" else mask))
            scores.append(value)

    def evaluation(column: int) -> Evaluation:
        pending = iter(scores)

        def predictor(frame: Any) -> tuple[Any, float]:
            score = next(pending)[column]
            noise = rng.random(SIZE_HW, np.float32) * np.float32(0.02)
            return np.where(defect_mask(SIZE_HW), np.float32(score), noise), score

        return evaluate_photos(predictor, Preprocess(SIZE_HW), photos)

    return {precision: evaluation(column) for column, precision in enumerate(precisions)}


def synthetic_evaluations_of(folder: Path, precisions: list[str]) -> dict[str, Evaluation]:
    """By predictors that see every defect with fp32, and all but one with int8."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    paths = [folder / f"{number}.png" for number in range(4)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(90, 110, (*FRAME_HW, 3), np.uint8))
    frames = synthetic_frames(Preprocess(SIZE_HW), paths, kinds=["perlin", "simplex"])
    masks = {frame.image_bgr_u8.tobytes(): frame.mask for frame in frames}

    def evaluation(missed: int) -> Evaluation:
        defects = iter(range(len(frames)))

        def predictor(image: Any) -> tuple[Any, float]:
            mask = masks[image.tobytes()]
            if mask is None:
                return np.zeros(SIZE_HW, np.float32), 0.1
            score = 0.05 if next(defects) < missed else 0.9
            return mask.astype(np.float32) * np.float32(score), score

        return evaluate_frames(predictor, frames)

    return {precision: evaluation(missed) for missed, precision in enumerate(precisions)}


def defect_mask(size_hw: tuple[int, int]) -> np.ndarray:
    """The same place at any size, in the right half."""
    mask = np.zeros(size_hw, bool)
    mask[size_hw[0] // 4 : size_hw[0] // 2, size_hw[1] * 5 // 8 : size_hw[1] * 7 // 8] = True
    return mask


def make_run(folder: Path, *, evaluated: bool) -> Run:
    run_folder = folder / "run"
    (run_folder / "synthetic").mkdir(parents=True)
    for number in range(3):
        strip = np.full((32, 96, 3), 40 * number, np.uint8)
        cv2.imwrite(str(run_folder / "synthetic" / f"{number:03d}.png"), strip)
    rows = [f"{k},{'student' if k < 80 else 'head'},{k},{90 / (k + 1):.4g},0.4" for k in range(1, 200)]
    (run_folder / "log.csv").write_text("\n".join(["step,phase,phase_step,loss,rate", *rows]) + "\n", encoding="utf-8")
    config = RunConfig(str(folder / "photos"), model="destseg", minutes=2.0, batch=8, preprocess=Preprocess(SIZE_HW))
    files = [{"file": f"{n}.png", "sha256": f"{n:064x}"} for n in range(30)]
    counts = {"train/good": 60, "test/good": 4}
    counts |= {f"test/{kind}": len(values) for kind, values in DEFECT_SCORES.items()} if evaluated else {}
    data = {"layout": "mvtec", "counts": counts, "problems": [], "train": files, "held_out": files}
    record = {"teacher": {"name": "edge", "sha256": "ab" * 32}, "steps": 199, "seconds": 120.0, "parameters": 1000,
              "torch": torch.__version__, "trained_at": "2026-01-02T03:04:05Z"}  # fmt: skip
    threshold = choose_threshold(HELD_OUT["fp32"]).to_dict()
    model = torch.nn.Identity()
    model.map_spec = MapSpec(top_pixels=1)  # type: ignore[assignment]
    return Run(run_folder, config, model, data, {**threshold, "scores": HELD_OUT["fp32"]}, record)


def make_result(path: Path, run: Run, precisions: list[str], evaluations: dict[str, Evaluation]) -> ExportResult:
    graphs = {
        name: {
            "file": f"graphs/{name}.onnx", "opset": 19, "parity": {"map": 1e-6, "score": 2e-7},
            "threshold": choose_threshold(HELD_OUT[name], false_reject=0.05).to_dict(),
        }
        for name in precisions
    }  # fmt: skip
    frames = [
        {"file": f"{k}.png", "sha256": "cd" * 32, "kind": kind} for k, kind in enumerate(("good", "good", "synthetic"))
    ]
    calibration = {
        "method": "percentile", "percentile": 99.99, "frames": frames, "quantised": ["student.a", "head.b"],
        "equalised": [],
        "scope": "all",
        "drift": {},
        "left_float": [{"node": "head.out", "reason": "1 output channels, fewer than 16"}],
    }  # fmt: skip
    manifest = Manifest.model_validate({
        "product": "part", "created": datetime(2026, 1, 2, tzinfo=timezone.utc), "segrd_edge_version": "0.1.0",
        "model": {
            "name": "destseg", "backbone": "resnet18", "teacher": run.record["teacher"], "parameters": 1000,
            "gmacs": 0.5,
            "training": {"steps": 199, "seed": 0, "batch": 8, "minutes": 2.0, "images": 30},
        },
        "data": run.data["counts"], "preprocess": run.preprocess.to_dict(), "map_spec": MapSpec(top_pixels=1).to_dict(),
        "graphs": json.loads(json.dumps(graphs)), "default_precision": precisions[-1],
        "calibration": calibration if "int8" in precisions else None,
        "golden": {"file": "golden.npz", "count": 1},
    })  # fmt: skip
    members = {f"graphs/{name}.onnx": TINY_GRAPH for name in precisions}
    write_bundle(path, manifest, {**members, "golden.npz": golden_bytes(path.with_suffix(".npz"))})
    held_out = {name: HELD_OUT[name] for name in precisions}
    sizes: dict[Any, int] = {name: len(TINY_GRAPH) for name in precisions}
    return ExportResult(path, manifest, held_out, evaluations, sizes, None)


def golden_bytes(path: Path) -> bytes:
    """An image for the latency measurement where no photograph is left, and the arrays that a bundle must hold."""
    outputs = {f"{kind}_{name}": np.zeros(1, np.float32) for kind in ("score", "map") for name in ("fp32", "int8")}
    np.savez(path, images=np.full((1, *SIZE_HW, 3), 128, np.uint8), **outputs)  # type: ignore[arg-type]
    return path.read_bytes()
