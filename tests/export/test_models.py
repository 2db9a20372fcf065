"""Every registered model as a graph: the numbers of torch, alone and in a batch, and nothing done twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import nn

from segrd_edge.calibration.graph import multiply_accumulates
from segrd_edge.engines import create
from segrd_edge.export.batch import with_batch
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.maps import anomaly_map, anomaly_score, normalise

from ..every_model import EVERY_MODEL
from .conftest import SIZE_HW

PREPROCESS = Preprocess(SIZE_HW)
Images = list[npt.NDArray[np.uint8]]


@pytest.fixture(scope="module", params=EVERY_MODEL)
def exported(
    request: pytest.FixtureRequest, exported_core: Callable[[str], tuple[nn.Module, onnx.ModelProto]]
) -> tuple[nn.Module, onnx.ModelProto]:
    """A model and its deploy graph."""
    model, core = exported_core(request.param)
    return model, build_deploy_graph(core, PREPROCESS, model.map_spec)  # type: ignore[arg-type]


def test_the_graph_gives_what_torch_gives(exported: tuple[nn.Module, onnx.ModelProto], images: Images) -> None:
    model, graph = exported
    with torch.inference_mode():
        raw = model(normalise(torch.from_numpy(np.stack(images[:2])), PREPROCESS))
        maps = anomaly_map(raw, model.map_spec, SIZE_HW)
        scores = anomaly_score(maps, model.map_spec)
    assert float(maps.std()) > 1e-4  # a constant map would prove nothing
    for image, wanted, score in zip(images, maps, scores, strict=False):
        got = create("onnxruntime", graph.SerializeToString()).run(image)
        assert got.score == pytest.approx(float(score), abs=1e-4)
        np.testing.assert_allclose(got.anomaly_map, wanted.numpy(), atol=1e-4)


def test_two_images_at_once_are_two_images(exported: tuple[nn.Module, onnx.ModelProto], images: Images) -> None:
    _, graph = exported
    one, two = (create("onnxruntime", g.SerializeToString()) for g in (graph, with_batch(graph, 2)))
    for image, together in zip(images, two.run_batch(images[:2]), strict=False):
        alone = one.run(image)
        assert together.score == pytest.approx(alone.score, abs=1e-4)
        np.testing.assert_allclose(together.anomaly_map, alone.anomaly_map, atol=1e-4)


def test_the_graph_runs_the_teacher_once_and_counts_all_its_work(exported: tuple[nn.Module, onnx.ModelProto]) -> None:
    _, graph = exported
    assert [node.name for node in graph.graph.node].count("teacher.conv1") == 1
    one, two = (sum(multiply_accumulates(g).values()) for g in (graph, with_batch(graph, 2)))
    assert two == 2 * one
