"""`--qat-minutes`: from a run and its INT8 graph to a float graph that loses less in INT8."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from segrd_edge.calibration.fine_tuning import Tuned
from segrd_edge.calibration.grids import grids_of
from segrd_edge.training.fit import Budget
from segrd_edge.training.qat import fine_tune
from segrd_edge.training.run import Run

from .deploy import build_deploy_graph
from .onnx import export_core


def fine_tune_graph(run: Run, photos: Sequence[Path], budget: Budget, int8_graph: onnx.ModelProto) -> Tuned:
    """Fine-tune a run's network for what its INT8 graph rounds. The run stays as it is.

    Args:
        photos: the good photographs that trained the run.
        budget: how long to train.

    Raises:
        ExportError: the fine-tuned network cannot be exported.
        TrainingError: the fine-tune diverged.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        model, position = fine_tune(run, grids_of(int8_graph), photos, budget, checkpoint=checkpoint)
    core = export_core(model, run.preprocess.size_hw)
    graph = build_deploy_graph(core, run.preprocess, run.map_spec)
    return Tuned(graph, position.total_seconds / 60, position.total_steps)
