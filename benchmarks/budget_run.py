"""Measures bundles against a latency budget: every engine and precision of all of them, in one interleaved run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from segrd_edge.bundle import Bundle
from segrd_edge.errors import OptionError
from segrd_edge.manifest import Manifest, Precision
from segrd_edge.preprocess import Preprocess

from .budget import Answer, Basis, Timed, judge
from .budget_text import best_of, headline, python_line, sentences
from .choice import RESULT_FILE, Scored
from .contenders import Wanted, choose
from .distribution import samples_needed
from .frames import DEFAULT_FRAME_HW, FrameSet, choose_frames
from .session import SAMPLES_PER_ROUND, check_seconds
from .side_by_side import measure_wanted

SCREENING_ROUNDS = 5
P99_ROUNDS = -(-samples_needed(990) // SAMPLES_PER_ROUND)  # turns of each, so that p99 is known
Said = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    budget_ms: float
    frame_hw: tuple[int, int] | None = None  # None: that of `frames`, or what the bundles need, 1024×1024 at least
    frames: Path | None = None  # folder; None makes them of the first bundle's golden images
    threads: int | None = None
    engines: Sequence[str] | None = None  # None: all that are installed
    precisions: Sequence[str] | None = None  # None: all of each bundle
    rounds: int | None = None  # None: as many as p99 needs
    seconds: float | None = None  # go on for so long at least

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < P99_ROUNDS:
            raise OptionError(
                f"--rounds {self.rounds} with --budget",
                expected=f"at least {P99_ROUNDS}: p99 needs {P99_ROUNDS * SAMPLES_PER_ROUND} samples",
            )
        check_seconds(self.seconds)


def measure_budget(
    paths: Sequence[Path], settings: Settings, said: Said = lambda line: None, *, screen: bool = False
) -> tuple[Answer, Any]:
    """What of the bundles keeps the budget; and the same ready for JSON, durations in ms.

    Args:
        paths: .segrd files of one part.
        said: called with a line of progress, between two rounds.
        screen: of several engines, measure each graph only in the one in which the fastest of a few inspections was.

    Raises:
        BundleError: a bundle is damaged or foreign.
        EngineError: a named engine is missing, or none can run any of them.
        OptionError: a precision that a bundle lacks, a bundle that is named twice.
        DataError, FrameError: no usable frames.
    """
    names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise OptionError("a bundle is named twice", expected="different .segrd files")
    opened = {name: Bundle.open(name) for name in names}
    wanted = [
        (name, each)
        for name, bundle in opened.items()
        for each in choose(bundle, settings.engines, settings.precisions)
    ]
    frames = supply(list(opened.values()), settings)
    if screen and len({each.engine for _, each in wanted}) > 1:
        wanted = [
            (row["bundle"], Wanted(row["engine"], row["precision"]))
            for row in fastest(opened, wanted, frames, settings)
        ]
    said(
        f"{len(wanted)} to measure, in turn, at least {(settings.rounds or P99_ROUNDS) * SAMPLES_PER_ROUND} samples of "
        "each, for p99"
    )
    measured = measure_wanted(
        opened,
        wanted,
        frames,
        threads=settings.threads,
        rounds=rounds(settings, said),
        budget_ms=settings.budget_ms,
    )
    answer = judge(timed(opened, measured["bundles"]), settings.budget_ms, measured["samples"])
    return answer, _record(answer, measured, settings)


def fastest(
    bundles: Mapping[str, Bundle], wanted: Sequence[tuple[str, Wanted]], frames: FrameSet, settings: Settings
) -> list[dict[str, Any]]:
    """A row of `measure_wanted` for each bundle and precision: of the engine in which the fastest of a few inspections
    was."""
    measured = measure_wanted(bundles, wanted, frames, threads=settings.threads, rounds=range(SCREENING_ROUNDS))
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(measured["bundles"], key=lambda row: row["min_ms"]):
        best.setdefault((row["bundle"], row["precision"]), row)
    return list(best.values())


def rounds(settings: Settings, said: Said) -> Iterator[int]:
    """Round numbers until the samples are enough and the time is over; says how far, in tenths."""
    least = settings.rounds or P99_ROUNDS
    start = perf_counter()
    for number in count():
        spent = perf_counter() - start
        if number >= least and spent >= (settings.seconds or 0):
            return
        if number and number < least and number % (least // 10) == 0:
            said(f"{number} of {least} rounds, {spent:.0f} s, about {spent / number * (least - number):.0f} s left")
        yield number


def timed(bundles: Mapping[str, Bundle], rows: Sequence[Mapping[str, Any]]) -> list[Timed]:
    """The rows of `measure_wanted` with the accuracy that the bundles state."""
    images = {name: _images(bundle) for name, bundle in bundles.items()}
    first = next(iter(images.values()))
    is_same = bool(first) and all(_files(found) == _files(first) for found in images.values())
    return [_timed(row, bundles[row["bundle"]].manifest, images[row["bundle"]] if is_same else []) for row in rows]


def basis(manifest: Manifest, precision: Precision) -> Basis | None:
    """What a graph's metrics come from; None without metrics, or where they do not say it."""
    metrics = manifest.graphs[precision].metrics
    if metrics is None or "source" not in metrics:
        return None
    source = str(metrics["source"])
    good, defective = (metrics.get(f"images_{kind}") for kind in ("good", "defect"))
    text = f"{source} ({good} good, {defective} defective)"
    data = manifest.data
    counts = data.get("counts")
    tested = {k: v for k, v in counts.items() if not k.startswith("train")} if isinstance(counts, dict) else {}
    images = data.get("held_out_sha256") if source.startswith("synthetic") else tested
    return Basis(text, json.dumps([text, metrics.get("images_left_out"), images], sort_keys=True))


def supply(bundles: Sequence[Bundle], settings: Settings) -> FrameSet:
    """The frames that all of the bundles inspect, in turn."""
    frame_hw = settings.frame_hw
    if frame_hw is None and settings.frames is None:
        least = [Preprocess.from_dict(bundle.manifest.preprocess).least_frame_hw for bundle in bundles]
        height, width = (max(sides) for sides in zip(DEFAULT_FRAME_HW, *least, strict=True))
        frame_hw = height, width
    return choose_frames(bundles[0], settings.frames, frame_hw)


def _images(bundle: Bundle) -> list[dict[str, Any]]:
    """What every precision makes of each test image, where segrd-compare has left it beside the bundle; else nothing.

    A file that speaks of another export than this one's metrics do is not read.
    """
    file = bundle.path.with_name(RESULT_FILE)
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        stated = {name: (graph.metrics or {}).get("image_auroc") for name, graph in bundle.manifest.graphs.items()}
        is_own = all(result["precisions"][name].get("image_auroc") == value for name, value in stated.items())
        return list(result["images"]) if is_own else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # only the noise is known less well


def _files(images: Sequence[Mapping[str, Any]]) -> list[str]:
    return [image["file"] for image in images]


def _timed(row: Mapping[str, Any], manifest: Manifest, images: Sequence[Mapping[str, Any]]) -> Timed:
    precision: Precision = row["precision"]
    metrics: dict[str, Any] = dict(manifest.graphs[precision].metrics or {})
    return Timed(
        model=row["bundle"],
        precision=precision,
        image_auroc=metrics.get("image_auroc"),
        pixel_ap=metrics.get("pixel_ap"),
        median_ms=row["median_ms"],
        p95_ms=row["p95_ms"],
        images=Scored.of(images, precision) if images else None,
        engine=row["engine"],
        network_hw=(row["network_hw"][0], row["network_hw"][1]),
        p99_ms=row["p99_ms"],
        late=row["late"],
        stages_ms=row["stages_ms"],
        is_accepted=manifest.graphs[precision].is_safe is not False,
        basis=basis(manifest, precision),
    )


def _record(answer: Answer, measured: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    by_key = {(each.model, each.engine, each.precision): each for each in answer.timed}
    rows = []
    for row in measured["bundles"]:
        own = by_key[row["bundle"], row["engine"], row["precision"]]
        accuracy = {"image_auroc": own.image_auroc, "pixel_ap": own.pixel_ap}
        rows.append(
            {
                **row,
                "fits": answer.fits(own),
                "room_ms": round(answer.budget_ms - own.limit_ms, 3),
                "is_accepted": own.is_accepted,
                "metrics": None if own.basis is None else {"source": own.basis.text, **accuracy},
            }
        )
    best = [
        {
            "bundle": each.model,
            "engine": each.engine,
            "precision": each.precision,
            "metrics_from": source,
            "python": python_line(each, settings.threads),
        }
        for source, each in best_of(answer).items()
    ]
    return {
        "mode": "budget",
        "budget_ms": answer.budget_ms,
        "fitting": len(answer.fitting),
        "headline": headline(answer),
        "best": best,
        "sentences": sentences(answer, frame_text(measured), settings.threads),
        "threads": settings.threads,
        **measured,
        "bundles": rows,
    }


def frame_text(measured: Mapping[str, Any]) -> str:
    """WIDTHxHEIGHT of the largest frames of a measurement, as --frame takes it."""
    height, width = measured["frames"]["sizes_hw"][-1]
    return f"{width}x{height}"
