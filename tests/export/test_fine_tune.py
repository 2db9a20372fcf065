"""The simulation in torch gives what the INT8 graph gives; and a fine-tuned network exports as the first one did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import nn

from segrd_edge.calibration.equalise import concatenations, equalise
from segrd_edge.calibration.grids import grids_of
from segrd_edge.calibration.plan import Plan
from segrd_edge.calibration.quantise import quantise, tensors_to_calibrate
from segrd_edge.calibration.ranges import Ranges, observe, to_ranges
from segrd_edge.calibration.session import run_engine
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.export.fine_tune import fine_tune_graph
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.fit import Budget
from segrd_edge.training.models.destseg import DeSTSeg
from segrd_edge.training.predict import predict
from segrd_edge.training.qat import with_rounding
from segrd_edge.training.run import Run, RunConfig

from .conftest import SIZE_HW

PREPROCESS = Preprocess(size_hw=SIZE_HW)


@pytest.fixture(scope="module")
def deploy_graph(destseg: DeSTSeg, destseg_core: onnx.ModelProto) -> onnx.ModelProto:
    return build_deploy_graph(destseg_core, PREPROCESS, destseg.map_spec)


@pytest.fixture(scope="module")
def equalised(deploy_graph: onnx.ModelProto, images: list[npt.NDArray[np.uint8]]) -> tuple[onnx.ModelProto, Ranges]:
    plan = Plan.of(deploy_graph)
    names = concatenations(deploy_graph, plan)
    observed = observe(deploy_graph, tensors_to_calibrate(deploy_graph, plan), images[:2], by_channel=names)
    graph, largest = equalise(deploy_graph, plan, observed.channel_largest)
    ranges = to_ranges(observed.histograms, "max")
    return graph, replace(ranges, largest={**ranges.largest, **largest})


@pytest.mark.parametrize("block", ["teacher.layer1.0", "student.encoder.layer2.0", "head.residual.0"])
def test_torch_rounds_as_the_int8_graph_does(
    destseg: nn.Module, equalised: tuple[onnx.ModelProto, Ranges], images: list[npt.NDArray[np.uint8]], block: str
) -> None:
    """With an identity as shortcut, with a convolution, and behind a levelled concatenation. One block at a time: in an
    untrained network a value that falls on the other side of a step changes everything behind."""
    graph, ranges = equalised
    int8 = quantise(graph, ranges, Plan.of(graph).only(block))
    simulated = [p.anomaly_map for p in predict(with_rounding(destseg, grids_of(int8)), PREPROCESS, images[:2])]
    wanted, in_float = ([o.anomaly_map for o in run_engine("onnxruntime", g, images[:2])] for g in (int8, graph))
    moved = np.abs(np.stack(in_float) - np.stack(wanted)).mean()
    assert np.abs(np.stack(simulated) - np.stack(wanted)).mean() < 0.1 * moved


def test_the_tuned_graph_has_the_same_nodes_and_another_result(
    destseg: nn.Module,
    equalised: tuple[onnx.ModelProto, Ranges],
    deploy_graph: onnx.ModelProto,
    images: list[npt.NDArray[np.uint8]],
    photos: Path,
) -> None:
    before = {name: values.clone() for name, values in destseg.state_dict().items()}
    run = Run(Path(), RunConfig(data=str(photos), model="destseg", preprocess=PREPROCESS, batch=2), destseg, {}, {}, {})
    paths = sorted((photos / "train" / "good").iterdir())
    lines: list[str] = []
    int8 = quantise(*equalised, Plan.of(deploy_graph))
    tuned = fine_tune_graph(run, paths, Budget(steps=2), int8, said=lines.append)
    assert tuned.steps == 2
    first_line, last_line = lines
    assert first_line.startswith("fine-tuning for INT8: 50%, step 1, loss ")
    assert last_line.startswith("fine-tuning for INT8: 100%, step 2, loss ")
    assert last_line.endswith(", 0 s left")
    assert Plan.of(tuned.graph) == Plan.of(deploy_graph)
    first, other = (next(run_engine("onnxruntime", graph, images[:1])) for graph in (deploy_graph, tuned.graph))
    assert not np.array_equal(first.anomaly_map, other.anomaly_map)
    assert all(torch.equal(before[name], values) for name, values in destseg.state_dict().items())
