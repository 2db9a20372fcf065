"""`--qat-minutes`: from a run and its INT8 graph to a float graph that loses less in INT8."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from segrd_edge.calibration.fine_tuning import Tuned
from segrd_edge.calibration.grids import grids_of
from segrd_edge.calibration.progress import Said
from segrd_edge.training.fit import Budget, Listener, StepReport
from segrd_edge.training.qat import fine_tune
from segrd_edge.training.run import Run

from .deploy import build_deploy_graph
from .onnx import export_core


def fine_tune_graph(
    run: Run,
    photos: Sequence[Path],
    budget: Budget,
    int8_graph: onnx.ModelProto,
    *,
    said: Said = lambda line: None,
) -> Tuned:
    """Fine-tune a run's network for what its INT8 graph rounds. The run stays as it is.

    Args:
        photos: the good photographs that trained the run.
        budget: how long to train.
        said: called with a line of progress every tenth of the way.

    Raises:
        ExportError: the fine-tuned network cannot be exported.
        TrainingError: the fine-tune diverged.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        grids = grids_of(int8_graph)
        model, position = fine_tune(run, grids, photos, budget, checkpoint=checkpoint, listener=_tenths(said))
    core = export_core(model, run.preprocess.size_hw)
    graph = build_deploy_graph(core, run.preprocess, run.map_spec)
    return Tuned(graph, position.total_seconds / 60, position.total_steps)


def _tenths(said: Said) -> Listener:
    """Says after the first step, and whenever another tenth is done, how far the fine-tune is."""
    told = -1

    def listen(report: StepReport) -> None:
        nonlocal told
        if told < (tenth := int(report.progress * 10)):
            told = tenth
            left = f"loss {report.loss:.3g}, {report.seconds_left:.0f} s left"
            said(f"fine-tuning for INT8: {report.progress:.0%}, step {report.step}, {left}")

    return listen
