"""The export station: a run in, a bundle out.

run ─► core graph ─► deploy graph ─► parity ─► calibration ─► a graph per precision ─► thresholds, metrics ─► bundle
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from segrd_edge.bundle import SUFFIX, write_bundle
from segrd_edge.calibration.cache import ObservationCache
from segrd_edge.calibration.calibrate import Calibration
from segrd_edge.calibration.frames import CalibrationFrame, choose_frames
from segrd_edge.calibration.prepare import asked_of
from segrd_edge.calibration.progress import Said, Track, untracked
from segrd_edge.calibration.settings import DEFAULT_SETTINGS, Int8Settings
from segrd_edge.errors import ExportError, OptionError
from segrd_edge.frames import read_frame
from segrd_edge.manifest import Manifest, Precision
from segrd_edge.training.data import Photo, file_sha256
from segrd_edge.training.evaluate import Evaluation, photos_of_run
from segrd_edge.training.run import Run
from segrd_edge.training.synthetic_test import SyntheticFrame, synthetic_frames

from .deploy import build_deploy_graph
from .golden import differences, golden_outputs
from .graphs import ExportGraph, Tune, build_graphs
from .judge import Judgement, evaluate_graph, judge
from .limits import MOST_TURNED
from .onnx import export_core
from .parity import check_parity
from .record import GOLDEN_FILE, GraphFacts, build_manifest, graph_file
from .second_try import SecondTry, for_second_try
from .target import CPU, Target
from .verdicts import VerdictChanges

GOLDEN_IMAGES = 4  # half good, half with synthetic defects; every Detector.self_test runs them all
_GOLDEN_SEED = 1  # apart from the calibration frames


@dataclass(frozen=True)
class ExportResult:
    """A written bundle and everything that was found out on the way."""

    path: Path
    manifest: Manifest
    held_out_scores: dict[str, list[float]]  # of the good images that set each threshold
    evaluations: dict[str, Evaluation]  # by precision, all from one source: `Evaluation.source`; may be empty
    graph_bytes: dict[Precision, int]
    calibration: Calibration | None  # None without INT8
    settings: Int8Settings = DEFAULT_SETTINGS
    target: Target = CPU

    @property
    def plan_path(self) -> Path:
        """Where `segrd-export` writes the plan of INT8, to be edited."""
        return self.path.with_suffix(".plan.json")


@dataclass(frozen=True)
class _Photographs:
    """What the export takes from the folder of photographs."""

    train: list[Path]  # calibrate, and give the golden images
    held_out: list[Path]  # set the thresholds
    test: list[Photo]  # evaluate; empty without defect images


def export_bundle(
    run: Run | str | Path,
    out: str | Path,
    *,
    int8: bool = True,
    settings: Int8Settings = DEFAULT_SETTINGS,
    data: str | Path | None = None,
    evaluate: bool = True,
    target: Target = CPU,
    cache: ObservationCache | None = None,
    said: Said = lambda line: None,
    track: Track = untracked,
) -> ExportResult:
    """Export a run as a bundle (`out`, *.segrd).

    Args:
        int8: add an INT8 graph, and make it the default if it stays close to float on the calibration frames.
        settings: of INT8. Without it, their number of calibration frames still decides on float16.
        data: where the run's photographs are now; None is where training found them.
        evaluate: measure every graph on the folder's test photographs or, where there are no defects among them, on
            synthetic defects on the held-out photographs.
        target: for TensorRT, further graphs are added: fp16, and mixed where there is INT8.
        cache: where what the calibration frames show of the graph is kept, so that the next export need not look again.
        said: called with a line of progress before each stage.
        track: wraps photographs and frames, for a progress bar.

    Raises:
        ExportError: the graph would not be the same model, or photographs have changed since training.
        TrainingError, DataError: the run or its photographs are missing.
        OptionError: an argument that cannot work.
    """
    out = _checked_name(out)
    if not int8:
        settings.check_without_int8()
    run = run if isinstance(run, Run) else Run.load(run)
    target.check(run.preprocess)
    photographs = _find_photographs(run, data, evaluate)
    if notice := target.notice(run.preprocess, _size_hw(run, photographs)):
        said(notice)
    golden = [frame.image_bgr_u8 for frame in choose_for(run, photographs.train, GOLDEN_IMAGES, stream=_GOLDEN_SEED)]
    float_graph, parity = _export_float(run, golden, settings if int8 else None, said)
    synthetic = _paint(run, photographs, said) if evaluate and not photographs.test else []
    frames = lru_cache(1)(partial(choose_for, run, photographs.train, settings.frames, track=track))

    def make(settings: Int8Settings, first: _Made | None) -> _Made:
        graphs, calibration = build_graphs(
            float_graph,
            run.preprocess,
            target,
            frames,
            int8=int8,
            settings=settings,
            threshold=run.threshold["value"],
            tune=_tuner(run, photographs, settings.fine_tune_minutes, said),
            first=None if first is None else first.calibration,
            cache=cache,
            said=said,
            track=track,
        )
        known = {} if first is None else first.without_int8
        return _Made(graphs, calibration, _judge_all(run, photographs, synthetic, graphs, calibration, known, said))

    made, second = _with_second_try(make, settings, said)
    graphs, calibration, judgements = made.graphs, made.calibration, made.judgements
    others = _other_methods(run, photographs.test, synthetic, calibration, said) if calibration and evaluate else {}
    for notice in sorted({j.evaluation.notice for j in judgements.values() if j.evaluation and j.evaluation.notice}):
        said(notice)  # the same for every precision

    said(f"writing {out}")
    expected = golden_outputs(graphs, golden, run.preprocess)
    # Of fp32 from torch, of the others from fp32.
    parities = {p: parity if p == "fp32" else differences(graphs, expected, p, run.preprocess) for p in graphs}
    facts = {p: GraphFacts(graph, parities[p], judgements[p]) for p, graph in graphs.items()}
    manifest = build_manifest(run, out.stem, facts, calibration, len(golden), others, second)
    members = {graph_file(p): graph.model.SerializeToString() for p, graph in graphs.items()}
    write_bundle(out, manifest, {**members, GOLDEN_FILE: npz(expected)})
    return ExportResult(
        path=out,
        manifest=manifest,
        held_out_scores={p: judgement.held_out_scores for p, judgement in judgements.items()},
        evaluations={p: judgement.evaluation for p, judgement in judgements.items() if judgement.evaluation},
        graph_bytes={p: len(members[graph_file(p)]) for p in graphs},
        calibration=calibration,
        settings=settings,
        target=target,
    )


def _checked_name(out: str | Path) -> Path:
    """The name, refused now rather than after minutes of work."""
    out = Path(out)
    if out.suffix != SUFFIX:
        raise OptionError(f"{out}: a bundle's name ends in {SUFFIX}", fix=f"name it {out.with_suffix(SUFFIX)}")
    return out


def _export_float(
    run: Run, golden: Sequence[npt.NDArray[np.uint8]], int8: Int8Settings | None, said: Said
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """The float32 deploy graph and its parity with torch."""
    said("writing the network as ONNX")
    core = export_core(run.model, run.preprocess.size_hw)
    graph = build_deploy_graph(core, run.preprocess, run.map_spec)
    if int8 is not None:
        asked_of(graph, int8)  # a plan or a scope that does not fit is refused now
    said(f"comparing it with torch on {len(golden)} golden images")
    return graph, check_parity(run.model, graph, run.preprocess, run.map_spec, golden)


def _tuner(run: Run, photographs: _Photographs, minutes: float, said: Said) -> Tune | None:
    if minutes == 0:
        return None
    from segrd_edge.training.fit import Budget

    from .fine_tune import fine_tune_graph

    budget = Budget(minutes=minutes, clock=run.config.clock)
    return partial(fine_tune_graph, run, photographs.train, budget, said=said)


@dataclass(frozen=True)
class _Made:
    """The graphs of one calibration, and how each does."""

    graphs: dict[Precision, ExportGraph]
    calibration: Calibration | None
    judgements: dict[Precision, Judgement]

    @property
    def without_int8(self) -> dict[Precision, Judgement]:
        """The judgements that no calibration changes."""
        return {name: found for name, found in self.judgements.items() if name in ("fp32", "fp16")}

    @property
    def changes(self) -> VerdictChanges:
        """Of INT8."""
        return VerdictChanges.between(self.judgements["fp32"], self.judgements["int8"])


def _with_second_try(
    make: Callable[[Int8Settings, _Made | None], _Made], settings: Int8Settings, said: Said
) -> tuple[_Made, SecondTry | None]:
    """What was made by the settings, or by finer ones where those turn too many verdicts and these fewer."""
    first = make(settings, None)
    if first.calibration is None or (again := for_second_try(settings, first.calibration, first.changes)) is None:
        return first, None
    limit, turned = again.budget.score_shift, first.changes
    said(
        f"INT8 turns {turned.turned} of {turned.frames} verdicts, more than {MOST_TURNED:.0%}: once more, with scores "
        f"that move by {limit:g} at most"
    )
    second = make(again, first)
    assert second.calibration is not None
    found = SecondTry.between(turned, second.changes, second.calibration, limit)
    said(str(found))
    return (second if found.is_taken else first), found


def _judge_all(
    run: Run,
    photographs: _Photographs,
    synthetic: Sequence[SyntheticFrame],
    graphs: Mapping[Precision, ExportGraph],
    calibration: Calibration | None,
    known: Mapping[Precision, Judgement],
    said: Said,
) -> dict[Precision, Judgement]:
    """fp32 first, whose scores of the calibration frames are known. What is in `known` is not scored again."""
    shown = [frame.image_bgr_u8 for frame in calibration.frames] if calibration else []
    judgements: dict[Precision, Judgement] = {}
    for precision, graph in graphs.items():
        if precision in known:
            judgements[precision] = known[precision]
            continue
        reference = judgements.get("fp32")
        judgement = _judge(run, photographs, synthetic, shown if reference else [], precision, graph, reference, said)
        if reference is None and calibration:
            judgement = replace(judgement, shown_scores=[output.score for output in calibration.reference])
        judgements[precision] = judgement
    return judgements


def _paint(run: Run, photographs: _Photographs, said: Said) -> list[SyntheticFrame]:
    """The same for every precision. Textures are the photographs' own, so that segrd-eval can paint these again."""
    said("the folder has no photographs of defects: painting synthetic ones on held-out images, for the metrics")
    config = run.config
    return synthetic_frames(run.preprocess, photographs.held_out, foreground=config.foreground, seed=config.seed)


def _judge(
    run: Run,
    photographs: _Photographs,
    synthetic: Sequence[SyntheticFrame],
    shown: Sequence[npt.NDArray[np.uint8]],
    precision: Precision,
    graph: ExportGraph,
    reference: Judgement | None,
    said: Said,
) -> Judgement:
    """By its network images, whatever the graph in the bundle takes: photographs come in sizes of their own."""
    held_out, test = photographs.held_out, photographs.test
    tested = f"{len(synthetic)} synthetic" if synthetic else f"{len(test)} test"
    said(f"scoring {len(held_out)} held-out and {tested} images with {precision}")
    return judge(
        graph.judged,
        run.preprocess,
        run.map_spec,
        held_out,
        test,
        synthetic=synthetic,
        shown=shown,
        false_reject=run.config.false_reject,
        engine=graph.engine,
        reference=reference,
    )


def _other_methods(
    run: Run, test: Sequence[Photo], synthetic: Sequence[SyntheticFrame], calibration: Calibration, said: Said
) -> dict[str, Evaluation]:
    """What the same plan would reach with scales found in other ways; nothing without images to evaluate on."""
    if not (test or synthetic) or not calibration.other_ranges:
        return {}
    said(f"scoring the same images with scales by {', '.join(calibration.other_ranges)}")
    found = {
        method: evaluate_graph(calibration.by(method), run.preprocess, run.map_spec, test, synthetic)
        for method in calibration.other_ranges
    }
    return {method: evaluation for method, evaluation in found.items() if evaluation is not None}


def _find_photographs(run: Run, data: str | Path | None, evaluate: bool) -> _Photographs:
    """The very photographs that training saw: other files would give a threshold, but not this run's."""
    train, held_out = (_unchanged(run, purpose, data) for purpose in ("train", "held_out"))
    return _Photographs(train, held_out, photos_of_run(run, data) if evaluate else [])


def _unchanged(run: Run, purpose: str, data: str | Path | None) -> list[Path]:
    paths = run.photo_paths(purpose, data)
    recorded = [entry["sha256"] for entry in run.data[purpose]]
    if changed := [path for path, sha256 in zip(paths, recorded, strict=True) if file_sha256(path) != sha256]:
        raise ExportError(
            f"{len(changed)} of {len(paths)} {purpose} photographs changed after training (first: {changed[0]})",
            expected="the files that the run was trained on, as they were",
            fix="say with --data FOLDER where those are, or train again on these",
        )
    return paths


def _size_hw(run: Run, photographs: _Photographs) -> tuple[int, int]:
    height, width = read_frame(photographs.train[0], value_range=run.preprocess.value_range).shape[:2]
    return height, width


def choose_for(
    run: Run, photos: Sequence[Path], count: int, *, stream: int = 0, synthetic: bool = True, track: Track = untracked
) -> list[CalibrationFrame]:
    """`calibration.frames.choose_frames` with what the run was trained with; another `stream` is another choice."""
    return choose_frames(
        photos,
        run.preprocess,
        count=count,
        seed=run.config.seed + stream,
        textures=run.config.textures_here,
        synthetic=synthetic,
        foreground=run.config.foreground,
        track=track,
    )


def npz(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """The bytes of an array file, as `Bundle.golden` reads it."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()
