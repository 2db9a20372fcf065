"""Which model for my part: train, export, evaluate and time several on one folder of photographs.

folder of the comparison
    MODEL/          a run, with part.segrd, the export's reports (part.html, part.report.json) and result.json
    compare.json    everything, and the recommendation
    compare.html    the same as a page

A model with its result.json is done; an interrupted comparison goes on where it stopped. All bundles are timed in one
interleaved run at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from segrd_edge.errors import OptionError, SegrdError, TrainingError
from segrd_edge.files import write_json
from segrd_edge.frames import read_frame
from segrd_edge.preprocess import shrink_or_grow
from segrd_edge.training.evaluate import Evaluation, FrameResult
from segrd_edge.training.fit import Budget, Listener
from segrd_edge.training.run import Run, RunConfig, create_model
from segrd_edge.training.train import checked

from .candidate import BUNDLE_FILE, Record, check_same_settings, is_refused, make_candidate
from .choice import RESULT_FILE, Contestant, Scored
from .compare_page import REPORT_FILE, write_page
from .compare_verdict import verdict
from .frames import MAX_FRAMES, FrameSet
from .side_by_side import ROUNDS, measure_bundles

SUMMARY_FILE, PAGE_FILE = "compare.json", "compare.html"


@dataclass(frozen=True)
class Progress:
    """Who hears how far a comparison has come."""

    said: Callable[[str], None] = lambda line: None
    training: Callable[[], AbstractContextManager[Listener]] = lambda: nullcontext(lambda report: None)


def compare(
    configs: Mapping[str, RunConfig],
    out: str | Path,
    *,
    latency_ms: float | None = None,
    frame_hw: tuple[int, int] | None = None,
    threads: int | None = None,
    skip_bad: bool = False,
    command: str = "",
    rounds: int = ROUNDS,
    progress: Progress = Progress(),
) -> Record:
    """Compare models on one folder of photographs; returns what compare.json holds and writes the page.

    A model that fails is named with its reason, and the others go on; the next call tries it again.

    Args:
        configs: name → how to train it; they differ in the model and its options alone.
        out: folder of the comparison.
        latency_ms: budget from a frame's bytes to the verdict (p95); None is none.
        frame_hw: height and width of the frames to time with; None is the photographs' own.
        threads: processor threads of training and of the engine; None is their own choice.
        skip_bad: go on without the photographs that the data check refuses.
        command: what made this, for the page.
        rounds: of the latency run, two samples each.

    Raises:
        OptionError: an unknown model or option, or a budget that is not positive.
        DataError: the photographs cannot be used, before anything is trained.
        TrainingError: `out` holds runs of other settings.
        SegrdError: every model failed.
    """
    import torch

    out = Path(out)
    _check(configs, out, latency_ms, skip_bad)
    if threads is not None:
        torch.set_num_threads(threads)
    models, failed = _results(configs, out, skip_bad, progress)
    if not models:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise TrainingError(f"none of the models could be trained and exported: {reasons}")
    progress.said("measuring latency, every bundle in turn")
    bundles = {name: out / name / BUNDLE_FILE for name in models}
    latency = measure_bundles(bundles, _frames(out / next(iter(models)), frame_hw), threads=threads, rounds=rounds)
    found = contestants(models, latency)
    config = next(iter(configs.values()))
    summary = {
        "photos": config.data,
        "command": command,
        "settings": {name: value for name, value in config.to_dict().items() if name not in ("model", "options")},
        "threads": threads,
        "latency_budget_ms": latency_ms,
        "models": {name: {k: v for k, v in record.items() if k != "images"} for name, record in models.items()},
        "failed": failed,
        "latency": latency,
        "recommendation": _recommendation(found, models, latency_ms),
    }
    write_json(out / SUMMARY_FILE, summary)
    write_page(out / PAGE_FILE, summary, found)
    return summary


def contestants(models: Mapping[str, Record], latency: Record) -> list[Contestant]:
    """Every model and precision that was timed, but for INT8 that the export refused as default."""
    return [
        _contestant(models[timed["bundle"]], timed)
        for timed in latency["bundles"]
        if not is_refused(models[timed["bundle"]], timed["precision"])
    ]


def _contestant(record: Record, timed: Record) -> Contestant:
    figures, images = record["precisions"][timed["precision"]], record["images"]
    return Contestant(
        model=timed["bundle"],
        precision=timed["precision"],
        image_auroc=figures.get("image_auroc"),
        pixel_ap=figures.get("pixel_ap"),
        median_ms=timed["median_ms"],
        p95_ms=timed["p95_ms"],
        images=Scored.of(images, timed["precision"]) if images else None,
    )


def _recommendation(found: list[Contestant], models: Mapping[str, Record], budget_ms: float | None) -> Record:
    judged = verdict(found, models, budget_ms)
    choice = judged["choice"]
    return {
        "model": choice.best and choice.best.model,
        "precision": choice.best and choice.best.precision,
        "headline": judged["headline"],
        "reasons": judged["sentences"],
        "equal_within_noise": [contestant.name for contestant in choice.equal],
        "keep_the_budget": [contestant.name for contestant in choice.fitting],
        "fastest": choice.fastest.name,
    }


def _check(configs: Mapping[str, RunConfig], out: Path, latency_ms: float | None, skip_bad: bool) -> None:
    """Whatever can be known before hours of training."""
    import torch

    if latency_ms is not None and not latency_ms > 0:
        raise OptionError(f"--latency-ms {latency_ms:g}", expected="milliseconds, more than 0")
    for name, config in configs.items():
        Budget(steps=config.steps, minutes=config.minutes, clock=config.clock)
        with torch.device("meta"):  # no weights are made
            create_model(config)
        check_same_settings(config, out / name)
    config = next(iter(configs.values()))
    checked(config, skip_bad=skip_bad).split(config.seed, config.held_out)


def _results(
    configs: Mapping[str, RunConfig], out: Path, skip_bad: bool, progress: Progress
) -> tuple[dict[str, Record], dict[str, str]]:
    """Name → result, and name → why there is none."""
    models, failed = {}, {}
    for number, (name, config) in enumerate(configs.items(), 1):
        file = out / name / RESULT_FILE
        if file.is_file():
            progress.said(f"{number} of {len(configs)}, {name}: done before")
            models[name] = json.loads(file.read_text(encoding="utf-8"))
            continue
        progress.said(f"{number} of {len(configs)}, {name}")
        try:
            models[name] = _make_result(config, file, skip_bad, progress)
        except SegrdError as error:  # one that fails must not cost the others
            failed[name] = error.what
            progress.said(f"{name} is left out: {error.what}")
    return models, failed


def _make_result(config: RunConfig, file: Path, skip_bad: bool, progress: Progress) -> Record:
    from segrd_edge.export.report import write_report

    with progress.training() as listener:
        made = make_candidate(config, file.parent, skip_bad=skip_bad, listener=listener, said=progress.said)
    progress.said("writing the report")
    write_report(file.with_name(REPORT_FILE), made.run, made.exported)
    record = {
        **made.record,
        "seconds": made.run.record["seconds"],
        "counts": made.run.data["counts"],
        "held_out": len(made.run.data["held_out"]),
        "images": _images(made.exported.evaluations),
    }
    write_json(file, record)
    return record


def _images(evaluations: Mapping[str, Evaluation]) -> list[Record]:
    """Each test image with what every precision makes of it; none without an evaluation."""
    rows = zip(*(evaluation.frames for evaluation in evaluations.values()), strict=True)
    return [
        {
            "file": row[0].photo.path.as_posix(),
            "kind": row[0].photo.kind,
            "defective": row[0].photo.is_defect,
            **{
                precision: {"score": frame.score, "pixel_ap": _own_pixel_ap(frame)}
                for precision, frame in zip(evaluations, row, strict=True)
            },
        }
        for row in rows
    ]


def _own_pixel_ap(frame: FrameResult) -> float | None:
    """Pixel AP of one image alone; None without a defective pixel."""
    from sklearn.metrics import average_precision_score

    if frame.mask is None or not frame.mask.any():
        return None
    return float(average_precision_score(frame.mask.ravel(), frame.anomaly_map.ravel()))


def _frames(folder: Path, frame_hw: tuple[int, int] | None) -> FrameSet:
    """Held-out good photographs, at their own size or resized: what the line mostly sees."""
    run = Run.load(folder)
    frames: Iterable[Any] = (
        read_frame(path, value_range=run.preprocess.value_range) for path in run.photo_paths("held_out")
    )
    if frame_hw is not None:
        frames = (shrink_or_grow(frame, frame_hw) for frame in frames)
    return FrameSet(list(islice(frames, MAX_FRAMES)), "held-out good photographs")
