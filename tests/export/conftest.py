"""A network of one convolution, in torch and in ONNX, for what does not need an exporter; and one exported DeSTSeg."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
from torch import Tensor, nn

from segrd_edge.calibration import frames as calibration_frames
from segrd_edge.calibration.graph import OPSET, write_graph
from segrd_edge.mapspec import MapSpec
from segrd_edge.training.models import build_model
from segrd_edge.training.models.destseg import DeSTSeg

from ..every_model import name_and_options

SIZE_HW = (64, 96)


@pytest.fixture(scope="module", autouse=True)
def few_calibration_frames() -> Iterator[None]:
    """No test here is about how many frames calibrate, and 32 of them take their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_frames, "FEWEST", 2)
        yield


class OneConv(nn.Module):
    """Raw output at a quarter of the image's size, about normal."""

    def __init__(self, spec: MapSpec) -> None:
        super().__init__()
        self.map_spec = spec
        self.conv = nn.Conv2d(3, 1, 4, 4)
        nn.init.normal_(self.conv.weight, std=0.1, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)

    def core(self, size_hw: tuple[int, int]) -> onnx.ModelProto:
        height, width = size_hw
        images = gs.Variable("images", np.float32, (1, 3, height, width))
        raw = gs.Variable("raw", np.float32, (1, 1, height // 4, width // 4))
        weight = gs.Constant("conv.weight", self.conv.weight.detach().numpy())
        assert self.conv.bias is not None
        bias = gs.Constant("conv.bias", self.conv.bias.detach().numpy())
        node = gs.Node("Conv", "conv", {"strides": [4, 4]}, [images, weight, bias], [raw])
        return write_graph(gs.Graph([node], [images], [raw], opset=OPSET))


@pytest.fixture
def one_conv() -> Callable[[MapSpec], OneConv]:
    return OneConv


def set_statistics(model: nn.Module, size_hw: tuple[int, int]) -> nn.Module:
    """Give every BatchNorm statistics from data, and scales that are not 1, so that folding it has something to do."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum, norm.training = None, True
    with torch.no_grad():
        model(torch.randn(4, 3, *size_hw))
    for norm in norms:
        norm.training = False
    return model


@pytest.fixture(scope="session")
def destseg() -> nn.Module:
    torch.manual_seed(0)
    return set_statistics(DeSTSeg(size_hw=SIZE_HW, head_width=32, head_fusion_kernel=1).eval(), SIZE_HW)


@pytest.fixture(scope="session")
def destseg_core(destseg: nn.Module) -> onnx.ModelProto:
    from segrd_edge.export.onnx import export_core

    return export_core(destseg, SIZE_HW)


@pytest.fixture(scope="session")
def exported_core(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[nn.Module, onnx.ModelProto]]:
    """`exported_core(case)`: one of EVERY_MODEL with a narrow head, and its core graph of SIZE_HW.

    The exporter takes its time and runs once for each; the graph then lies on the disk, as all of them fill the memory.
    """
    from segrd_edge.export.onnx import export_core

    folder = tmp_path_factory.mktemp("cores")

    def get(case: str) -> tuple[nn.Module, onnx.ModelProto]:
        torch.manual_seed(0)
        name, options = name_and_options(case, head_width=32)
        model = set_statistics(build_model(name, size_hw=SIZE_HW, **options).eval(), SIZE_HW)
        file = folder / f"{case}.onnx"
        if not file.exists():
            onnx.save(export_core(model, SIZE_HW), file)
        return model, onnx.load(file)

    return get


@pytest.fixture(scope="session")
def images() -> list[npt.NDArray[np.uint8]]:
    """Network images of SIZE_HW: smooth coloured patches."""
    rng = np.random.default_rng(3)
    patches = [np.kron(rng.integers(0, 256, (8, 12, 3)), np.ones((8, 8, 1))) for _ in range(6)]
    return [np.clip(p + rng.normal(0, 6, p.shape), 0, 255).astype(np.uint8) for p in patches]
