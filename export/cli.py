"""`segrd-export`: a run in, a bundle and its report out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from segrd_edge.console import (
    FOUND,
    OK,
    console,
    emit_json,
    json_option,
    new_table,
    parse_duration_ms,
    parse_frame_size,
    print_table,
    track,
)
from segrd_edge.errors import OptionError
from segrd_edge.files import check_can_write

if TYPE_CHECKING:
    from segrd_edge.benchmarks.budget_export import Held
    from segrd_edge.benchmarks.budget_run import Settings
    from segrd_edge.training.run import Run

    from .bundle import ExportResult
    from .verify import Verdict

_METRICS = {"image_auroc": "image AUROC", "pixel_ap": "pixel AP", "aupro": "AU-PRO"}  # name → heading


def command(
    run: Annotated[
        list[Path],
        typer.Argument(
            help="The run's folder, as segrd-train wrote it; with --budget any number, of one part.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The bundle to write; default is the run's name.segrd. Of several runs, the chosen one."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8/--no-int8", help="Add an INT8 graph; the default where it stays close to fp32.")
    ] = True,
    data: Annotated[Path | None, typer.Option(help="Where the run's photographs are now.")] = None,
    calibration_images: Annotated[int, typer.Option(help="Frames that set the INT8 scales and bound float16.")] = 64,
    calibration: Annotated[
        str,
        typer.Option(
            help="How INT8 scales are found: percentile, mse, entropy or max; auto, the one of the first two that "
            "moves the results less with everything in INT8; or per-tensor, for each tensor the one of the four that "
            "moves the output least."
        ),
    ] = "auto",
    int8_scope: Annotated[
        str,
        typer.Option(
            help="What INT8 covers: all, float-skips, no-fine, no-decoder, head, encoder; or auto, the most that keeps "
            "within the limits below, searched for block by block where all does not."
        ),
    ] = "auto",
    plan: Annotated[
        Path | None,
        typer.Option(
            help="A plan.json, as an export writes it beside the bundle: which layers run in INT8, in INT8 in two "
            "terms, or in float, one by one. Edit it and export again.",
            show_default=False,
        ),
    ] = None,
    max_score_shift: Annotated[
        float, typer.Option(help="INT8 may move scores by this on average, between 0 (good) and 1 (defect).")
    ] = 0.01,
    max_pairs_turned: Annotated[
        float,
        typer.Option(
            help="INT8 may swap the order of this share of the pairs of a good calibration frame and a defect; "
            "their image AUROC cannot change by more."
        ),
    ] = 0.01,
    max_ap_drop: Annotated[
        float | None, typer.Option(help="INT8 may lose this much pixel AP on synthetic defects.", show_default=False)
    ] = None,
    max_flip_rate: Annotated[
        float | None,
        typer.Option(help="INT8 may turn this share of the calibration frames' verdicts.", show_default=False),
    ] = None,
    min_speedup: Annotated[
        float | None,
        typer.Option(
            help="Make INT8 the default only if it is this many times as fast as fp32 here, within the limits above.",
            show_default=False,
        ),
    ] = None,
    int8_improve: Annotated[
        str,
        typer.Option(
            help="What to do to the weights for INT8, with commas between: rounding (so that errors make up for each "
            "other), bias (taken where it helps), levels; or none."
        ),
    ] = "rounding",
    qat_minutes: Annotated[
        float,
        typer.Option(
            help="Fine-tune the network for INT8 for so many minutes; taken where it brings INT8 nearer to fp32."
        ),
    ] = 0.0,
    engine: Annotated[
        str,
        typer.Option(
            help="Whose graphs to add: tensorrt or tensorrt-rtx gives fp16 and, with INT8, mixed; cpu gives none; auto "
            "looks at this machine."
        ),
    ] = "auto",
    frame: Annotated[
        str | None,
        typer.Option(
            help="WIDTHxHEIGHT of the camera's frames, for example 2448x2048: the TensorRT graphs take them as they "
            "are, and the GPU does the resize.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Items that the TensorRT graphs take at once, one per camera.")] = 1,
    lean: Annotated[
        bool,
        typer.Option("--lean", help="Put a TensorRT engine into the bundle, for PCs with the lean runtime alone."),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare the TensorRT engines with ONNX Runtime, tensor by tensor, on this GPU."),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            help="A time per frame, 30ms or 0.03s: measure here, and take the most accurate run, precision and engine "
            "that keeps it at p99.",
            show_default=False,
        ),
    ] = None,
    budget_frame: Annotated[
        str | None,
        typer.Option(
            help="WIDTHxHEIGHT of the frames of --budget, for example 2448x2048; default is a photograph's.",
            show_default=False,
        ),
    ] = None,
    budget_threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processor threads that the engine has on the line, for --budget.", show_default=False
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write a report beside it, HTML and JSON.")
    ] = True,
    json: Annotated[bool, json_option] = False,
) -> int:
    """Export a trained detector as one deployable file, with INT8 calibration and a report; with --budget, the best of
    several that keeps a time per frame. Exit code 1: nothing keeps it; with --verify, a tensor departs."""
    from segrd_edge.calibration.budget import Budget
    from segrd_edge.calibration.plan import named, read_choices
    from segrd_edge.calibration.settings import Int8Settings
    from segrd_edge.training.run import Run

    from .build import build_here, check_lean
    from .target import Target
    from .verify import check_verify, verify_and_show

    line = _line(budget, budget_frame, budget_threads)
    settings = Int8Settings(
        frames=calibration_images,
        method=cast(Any, calibration),
        scope=cast(Any, int8_scope),
        plan=None if plan is None else read_choices(plan),
        plan_source="the plan" if plan is None else named(plan),
        budget=Budget(
            score_shift=max_score_shift,
            pairs_turned=max_pairs_turned,
            ap_drop=max_ap_drop,
            flip_rate=max_flip_rate,
            speedup=min_speedup,
        ),
        improve=cast(Any, () if int8_improve == "none" else tuple(int8_improve.split(","))),
        each_block=report,
        fine_tune_minutes=qat_minutes,
    )
    if not int8:
        settings.check_without_int8()
    target = Target.choose(engine, None if frame is None else parse_frame_size(frame), batch)
    if lean:
        check_lean(target)
    if verify:
        check_verify(target.engine)
    out = _bundle_path(run, out, budget)
    paths = [out] if len(run) == 1 else _candidate_paths(run, out)
    check_can_write(out)  # before minutes of calibration
    if line is not None:
        from segrd_edge.benchmarks.budget_export import check_budget, check_same_images

        check_budget(target, min_speedup)
    runs = [Run.load(folder) for folder in run]
    for each in runs[1:]:
        check_same_images(runs[0], each)
    results = [
        _export(each, path, int8=int8, settings=settings, data=data, target=target)
        for each, path in zip(runs, paths, strict=True)
    ]
    chosen, result, found = runs[0], results[0], None
    if line is not None:
        held = _hold(runs, results, out, data, line, as_json=json)
        chosen, result, found = held.run, held.result, held.found
        if result.path not in paths:
            _write_plan(result)
    page = result.path.with_suffix(".html") if report else None
    if page is not None:
        from .report import json_path, write_report

        console.print(f"writing {page} and {json_path(page).name}", markup=False, soft_wrap=True)
        write_report(page, chosen, result, said=lambda text: console.print(text, markup=False))
    _show(result, as_json=json)
    built = target.is_tensorrt and build_here(result.path, target, lean=lean, as_json=json)
    verdicts = verify_and_show(result.path, target.engine, as_json=json) if verify else []
    if json:
        emit_json(_as_json(result, page, verdicts, built=built) | {"budget": found})
    holds = found is None or found["fitting"] > 0
    return OK if holds and all(verdict.passed for verdict in verdicts) else FOUND


def _export(run: Run, path: Path, **options: Any) -> ExportResult:
    """One run as a bundle, with its plan beside it; `options` are `export_bundle`'s."""
    from segrd_edge.calibration.cache import ObservationCache

    from .bundle import export_bundle

    console.print(f"exporting {path}", markup=False, soft_wrap=True)
    result = export_bundle(
        run,
        path,
        **options,
        cache=ObservationCache(),
        said=lambda line: console.print(line, markup=False),
        track=track,
    )
    _write_plan(result)
    return result


def _line(budget: str | None, frame: str | None, threads: int | None) -> Settings | None:
    """What the line asks for: a time per frame, its frames, and what of the processor the engine has."""
    if budget is None:
        if (frame, threads) != (None, None):
            raise OptionError("--budget-frame or --budget-threads without --budget", expected="--budget beside it")
        return None
    from segrd_edge.benchmarks.budget_run import Settings

    frame_hw = None if frame is None else parse_frame_size(frame, "--budget-frame")
    return Settings(parse_duration_ms("--budget", budget), frame_hw, threads=threads)


def _bundle_path(runs: Sequence[Path], out: Path | None, budget: str | None) -> Path:
    """Where the bundle goes; OptionError for several runs without what chooses among them, or without a name."""
    if len(runs) > 1 and (budget is None or out is None):
        raise OptionError(
            f"{len(runs)} runs without {'--budget' if budget is None else '--out'}",
            expected="one run; or several with --budget, which chooses among them, and --out, which names the chosen",
        )
    return out or Path(f"{runs[0].resolve().name}.segrd")


def _candidate_paths(runs: Sequence[Path], out: Path) -> list[Path]:
    """A bundle for each of several runs, in a folder beside `out`.

    Raises:
        OptionError: two runs of the same name.
    """
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise OptionError(f"two runs are called {twice}", expected="runs of different names, as their bundles get them")
    return [out.with_name(f"{out.stem}-candidates") / f"{name}{out.suffix}" for name in names]


def _write_plan(result: ExportResult) -> None:
    if result.calibration is not None:
        path = result.plan_path
        console.print(f"writing {path}; edit it and export with --plan to say otherwise", markup=False, soft_wrap=True)
        result.calibration.plan.write(path)


def _hold(
    runs: Sequence[Run], results: Sequence[ExportResult], out: Path, data: Path | None, line: Settings, *, as_json: bool
) -> Held:
    """The export that the budget chooses; without a size of frames, they are as large as a photograph."""
    from segrd_edge.benchmarks.budget_cli import show
    from segrd_edge.benchmarks.budget_export import hold_budget
    from segrd_edge.frames import read_frame

    console.print(f"measuring against {line.budget_ms:g} ms", markup=False)
    if line.frame_hw is None:
        photograph = read_frame(runs[0].photo_paths("held_out", data)[0], value_range=runs[0].preprocess.value_range)
        line = replace(line, frame_hw=(photograph.shape[0], photograph.shape[1]))
    held = hold_budget(runs, results, out, line, lambda text: console.print(text, markup=False))
    show(held.answer, held.found, as_json=as_json)
    for sentence in held.sentences:
        console.print(sentence, style="" if held.holds else "yellow", markup=False, soft_wrap=True)
    return held


def _show(result: ExportResult, *, as_json: bool) -> None:
    headings = ("size, MB", "max |Δscore|", "threshold", "other verdicts", *_METRICS.values())
    evaluation = next(iter(result.evaluations.values()), None)
    title = f"{result.path}, metrics from {evaluation.source}" if evaluation else str(result.path)
    table = new_table(title, "precision", *headings)
    for precision in result.graph_bytes:
        row = _figures(result, precision)
        metrics = ["–" if row[name] is None else f"{row[name]:.4f}" for name in _METRICS]
        figures = (
            f"{row['size_mb']:.1f}",
            f"{row['parity']['score']:.1e}",
            f"{row['threshold']:.4f}",
            _other_verdicts(row["verdict_changes"]),
        )
        table.add_row(precision, *figures, *metrics)
    print_table(table, as_json=as_json)
    console.print("max |Δscore|: of fp32 from torch, of the others from fp32, on the golden images")
    if len(result.graph_bytes) > 1:
        of_test = f", {evaluation.source}" if evaluation else ""
        text = f"other verdicts: than fp32's, each with its own threshold, on held-out photographs{of_test}"
        if result.manifest.graphs["fp32"].threshold.is_above_all:
            text += "; of the held-out ones none can differ: with so few, every threshold lies above all their scores"
        console.print(text, markup=False, soft_wrap=True)
    if evaluation and evaluation.caution:
        console.print(evaluation.caution, markup=False, soft_wrap=True)


def _other_verdicts(changes: dict[str, Any] | None) -> str:
    if changes is None:
        return "–"
    held_out = f"{changes['held_out']} of {changes['held_out_frames']}"
    return held_out if changes["test"] is None else f"{held_out}, {changes['test']} of {changes['test_frames']}"


def _as_json(result: ExportResult, page: Path | None, verdicts: Sequence[Verdict], *, built: bool) -> dict[str, Any]:
    from .report import json_path

    return {
        "bundle": str(result.path),
        "report": str(page) if page else None,
        "report_json": str(json_path(page)) if page else None,
        "int8": result.calibration.decision if result.calibration else None,
        "int8_share": result.calibration.int8_share if result.calibration else None,
        "sensitivity": [found.to_dict() for found in result.calibration.sensitivity] if result.calibration else [],
        "default_precision": result.manifest.default_precision,
        "latency": result.manifest.latency and result.manifest.latency.model_dump(),
        "engine": result.target.engine,
        "engines_built": built,
        "verified": {verdict.precision: verdict.passed for verdict in verdicts},
        "graphs": {precision: _figures(result, precision) for precision in result.graph_bytes},
    }


def _figures(result: ExportResult, precision: Any) -> dict[str, Any]:
    record = result.manifest.graphs[precision]
    metrics = record.metrics or {}
    return {
        "size_mb": result.graph_bytes[precision] / 1e6,
        "batch": record.batch,
        "frame_hw": record.frame_hw,
        "parity": record.parity,
        "drift": record.drift,
        "threshold": record.threshold.value,
        "verdict_changes": None if record.verdict_changes is None else record.verdict_changes.model_dump(),
        "statement": record.threshold.statement,
        "source": metrics.get("source"),
        **{name: metrics.get(name) for name in _METRICS},
    }
