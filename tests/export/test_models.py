"""Every registered model as a graph: the numbers of torch, alone and in a batch, and nothing done twice."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import nn

from segrd_edge.engines import create
from segrd_edge.export.batch import with_batch
from segrd_edge.export.deploy import build_deploy_graph
from segrd_edge.export.onnx import export_core, multiply_accumulates
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.maps import anomaly_map, anomaly_score, normalise
from segrd_edge.training.models import MODELS, build_model

from .conftest import SIZE_HW, set_statistics

PREPROCESS = Preprocess(SIZE_HW)
Images = list[npt.NDArray[np.uint8]]


@lru_cache
def exported(name: str) -> tuple[nn.Module, onnx.ModelProto]:
    """A model with a narrow head, and its deploy graph."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"head_width": 32} if "head_width" in inspect.signature(MODELS[name]).parameters else {}
    model = set_statistics(build_model(name, size_hw=SIZE_HW, **options).eval(), SIZE_HW)
    return model, build_deploy_graph(export_core(model, SIZE_HW), PREPROCESS, model.map_spec)


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_gives_what_torch_gives(name: str, images: Images) -> None:
    model, graph = exported(name)
    with torch.inference_mode():
        raw = model(normalise(torch.from_numpy(np.stack(images[:2])), PREPROCESS))
        maps = anomaly_map(raw, model.map_spec, SIZE_HW)
        scores = anomaly_score(maps, model.map_spec)
    assert float(maps.std()) > 1e-4  # a constant map would prove nothing
    for image, wanted, score in zip(images, maps, scores, strict=False):
        got = create("onnxruntime", graph.SerializeToString()).run(image)
        assert got.score == pytest.approx(float(score), abs=1e-4)
        np.testing.assert_allclose(got.anomaly_map, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_two_images_at_once_are_two_images(name: str, images: Images) -> None:
    _, graph = exported(name)
    one, two = (create("onnxruntime", g.SerializeToString()) for g in (graph, with_batch(graph, 2)))
    for image, together in zip(images, two.run_batch(images[:2]), strict=False):
        alone = one.run(image)
        assert together.score == pytest.approx(alone.score, abs=1e-5)
        np.testing.assert_allclose(together.anomaly_map, alone.anomaly_map, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_runs_the_teacher_once_and_counts_all_its_work(name: str) -> None:
    _, graph = exported(name)
    assert [node.name for node in graph.graph.node].count("teacher.conv1") == 1
    assert multiply_accumulates(with_batch(graph, 2)) == 2 * multiply_accumulates(graph)
