from __future__ import annotations

import logging

import onnx
import pytest
import torch
from torch import Tensor, nn

from segrd_edge.calibration.graph import multiply_accumulates
from segrd_edge.calibration.plan import Plan
from segrd_edge.errors import ExportError
from segrd_edge.export import onnx as export_onnx
from segrd_edge.export.onnx import PLAIN_OPS, fold_batch_norms
from segrd_edge.training.parts.reverse import TransposedConv

SIZE_HW = (64, 96)


def test_core_graph(destseg: nn.Module, destseg_core: onnx.ModelProto) -> None:
    graph = destseg_core.graph
    assert [(p.domain, p.version) for p in destseg_core.opset_import] == [("", 19)]
    assert [tensor.name for tensor in (*graph.input, *graph.output)] == ["images", "raw"]
    dims = [[d.dim_value for d in tensor.type.tensor_type.shape.dim] for tensor in (*graph.input, *graph.output)]
    assert dims == [[1, 3, 64, 96], [1, 1, 16, 24]]
    assert {node.op_type for node in graph.node} <= PLAIN_OPS
    known = {info.name for info in graph.value_info} | {"raw"}
    assert all(name in known for node in graph.node for name in node.output)


def test_names_lead_back_to_the_modules(destseg: nn.Module, destseg_core: onnx.ModelProto) -> None:
    modules = {name for name, module in destseg.named_modules() if isinstance(module, nn.Conv2d)}
    convolutions = {node.name: node for node in destseg_core.graph.node if node.op_type == "Conv"}
    assert set(convolutions) == modules
    assert all(node.input[1] == f"{name}.weight" for name, node in convolutions.items())
    head = Plan.of(destseg_core).only("head.").quantised
    assert "head.aspp.fusion.0" in head
    assert all(name.startswith("head.") for name in head)


def test_nothing_of_this_machine_is_left_in_the_file(destseg_core: onnx.ModelProto) -> None:
    assert b"site-packages" not in destseg_core.SerializeToString()
    assert not any(node.metadata_props or node.doc_string for node in destseg_core.graph.node)


def test_folding_is_exact_and_complete(destseg: nn.Module) -> None:
    folded = fold_batch_norms(destseg, SIZE_HW)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in destseg.modules())  # the model itself is left alone
    images = torch.randn(1, 3, *SIZE_HW, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(folded(images), destseg(images), atol=1e-3)  # raw values reach 10
        first = folded.get_submodule("teacher.conv1")(images)
        wanted = destseg.get_submodule("teacher.bn1")(destseg.get_submodule("teacher.conv1")(images))
    assert torch.allclose(first, wanted, atol=1e-5)


def test_transposed_convolutions_fold_too() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 8, 2, 2, bias=False), nn.BatchNorm2d(8)).eval()
    nn.init.uniform_(model[1].running_mean, -1, 1)  # type: ignore[arg-type]
    nn.init.uniform_(model[1].weight, 0.5, 2)  # type: ignore[arg-type]
    folded = fold_batch_norms(model, (8, 8))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_a_norm_behind_depth_to_space_folds_too() -> None:
    model = nn.Sequential(TransposedConv(3, 8), nn.BatchNorm2d(8)).eval()
    norm = model[1]
    nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    nn.init.uniform_(norm.weight, 0.5, 2)  # type: ignore[arg-type]
    folded = fold_batch_norms(model, (8, 8))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(folded(images), model(images), atol=1e-5)


class ReadsBeforeTheNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.weight, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        return self.norm(x) + x


def test_folding_refuses_to_change_the_result() -> None:
    with pytest.raises(ExportError, match="folding BatchNorm changes the raw output"):
        fold_batch_norms(ReadsBeforeTheNorm().eval(), (32, 32))


def test_another_opset_is_refused(destseg_core: onnx.ModelProto) -> None:
    kept = onnx.ModelProto()
    kept.CopyFrom(destseg_core)
    kept.opset_import[0].version = 18
    with pytest.raises(ExportError, match=r"the exporter wrote opsets \{'': 18\}"):
        export_onnx._check_opset(kept)


def test_foreign_ops_are_refused() -> None:
    nodes = [onnx.helper.make_node(op, ["x"], ["y"]) for op in ("GridSample", "Conv", "NonZero")]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    with pytest.raises(ExportError, match="the network needs GridSample, NonZero"):
        export_onnx._check_ops(onnx.helper.make_model(graph))


def test_multiply_accumulates(destseg_core: onnx.ModelProto) -> None:
    stem = 32 * 48 * 64 * 3 * 49  # by hand: output pixels × outputs × inputs × kernel
    output = _conv_output(destseg_core, "teacher.conv1")
    shallow = onnx.utils.Extractor(destseg_core).extract_model(["images"], [output])
    assert multiply_accumulates(shallow) == {"teacher.conv1": stem}


def _conv_output(model: onnx.ModelProto, name: str) -> str:
    return next(node.output[0] for node in model.graph.node if node.name == name)


def test_warnings_that_matter_still_show() -> None:
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    registration.addHandler(handler)
    try:
        with export_onnx._quiet_exporter():
            registration.warning("torchvision is not installed. Skipping torchvision::nms")
            registration.warning("something else")
    finally:
        registration.removeHandler(handler)
    assert records == ["something else"]
