"""torch → ONNX: the network alone, `images` float32 1×3×h×w in, `raw` out, in plain ops that every engine has.

BatchNorm is folded in torch, where the arithmetic can be checked at once; TensorRT 10.3 has no mixed-precision
BatchNorm in strongly typed networks, and an INT8 convolution needs its final weights.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segrd_edge.calibration.graph import OPSET, read_graph, write_graph
from segrd_edge.errors import ExportError

from .shuffle import reorder_shuffles

FOLD_TOLERANCE = 1e-4  # of the largest raw value; float32 leaves about 1e-6

# What TensorRT 10.3 to 11 runs natively, and ONNX Runtime and OpenVINO too. No control flow, no data-dependent shapes,
# no BatchNormalization (it should have been folded), no GridSample (slow or missing before TensorRT 11.2).
PLAIN_OPS = frozenset(
    {
        *("Conv", "ConvTranspose", "MatMul", "Gemm", "MaxPool", "AveragePool", "GlobalAveragePool"),
        *("Relu", "LeakyRelu", "Sigmoid", "Softmax", "Clip", "Abs", "Neg", "Exp", "Sqrt", "Pow"),
        *("Add", "Sub", "Mul", "Div", "Max", "Min"),
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "TopK"),
        *("Concat", "Split", "Slice", "Pad", "Expand", "Resize", "DepthToSpace"),
        *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Cast"),
    }
)

_BATCH_NORMS = (nn.BatchNorm2d,)
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def export_core(model: nn.Module, size_hw: tuple[int, int]) -> onnx.ModelProto:
    """The network as ONNX, static shapes, BatchNorm folded, opset 19. The model is not changed.

    Initialisers keep the names of the modules' weights, and each convolution is named after its module
    ("teacher.layer1.0.conv1"): plans, reports and TensorRT's inspector show these.

    Raises:
        ExportError: folding changed the result, the exporter kept another opset, or an op is not in PLAIN_OPS.
    """
    folded = fold_batch_norms(model, size_hw)
    with _quiet_exporter():
        program = torch.onnx.export(
            folded,
            (torch.zeros(1, 3, *size_hw),),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=["images"],
            output_names=["raw"],
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned nothing", fix="install torch >= 2.6 and onnxscript >= 0.3")
    core = _tidy(program.model_proto)
    _check_opset(core)
    _check_ops(core)
    return core


def fold_batch_norms(model: nn.Module, size_hw: tuple[int, int]) -> nn.Module:
    """A copy of `model` in eval mode whose convolutions have taken in the BatchNorms behind them.

    With y = g · (conv(x) − m) / √(v + e) + b:    w' = w · g / √(v + e)    b' = b − m · g / √(v + e)

    A PixelShuffle may stand between the two: it gives r² neighbouring channels of the convolution to one channel of
    the BatchNorm, and its values then count r² times.

    Raises:
        ExportError: the copy gives another result, as when something else reads a convolution's output before its
        BatchNorm.
    """
    folded = copy.deepcopy(model).eval()
    images = torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(0)) * 4 - 2
    for conv_name, norm_name in _conv_norm_pairs(folded, images):
        conv: Any = folded.get_submodule(conv_name)
        norm: Any = _widened(folded.get_submodule(norm_name), conv.out_channels)
        fused: nn.Module = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
        _replace_module(folded, conv_name, fused)
        _replace_module(folded, norm_name, nn.Identity())
    with torch.inference_mode():
        wanted, got = model(images), folded(images)
    difference, largest = float((got - wanted).abs().max()), float(wanted.abs().max())
    if not difference <= FOLD_TOLERANCE * max(1.0, largest):
        raise ExportError(
            f"folding BatchNorm changes the raw output by {difference:.3g} (largest value {largest:.3g})",
            expected=f"at most {FOLD_TOLERANCE:g} of it",
            fix="every BatchNorm must follow its convolution directly, and nothing else may read that convolution",
        )
    return folded


def _widened(norm: Any, channels: int) -> nn.Module:
    """The BatchNorm in front of a PixelShuffle that does what `norm` does behind it; `norm` itself without one."""
    if norm.num_features == channels:
        return norm
    wide = nn.BatchNorm2d(channels, eps=norm.eps).eval()
    state = norm.state_dict()
    repeats = channels // norm.num_features
    wide.load_state_dict({k: v.repeat_interleave(repeats) if v.ndim else v for k, v in state.items()})
    return wide


def _conv_norm_pairs(model: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """(convolution, BatchNorm) names where the second was seen to read the first's output, or a PixelShuffle of it."""
    outputs: list[tuple[Tensor, str]] = []
    pairs: list[tuple[str, str]] = []

    def wrote(name: str, output: Tensor) -> None:
        outputs.append((output, name))

    def shuffled(tensor: Tensor, output: Tensor) -> None:
        outputs.extend([(output, conv) for written, conv in outputs if written is tensor])

    def read(name: str, tensor: Tensor) -> None:
        pairs.extend((conv, name) for output, conv in outputs if output is tensor)

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, _CONVOLUTIONS):
            hooks.append(module.register_forward_hook(lambda _, __, output, name=name: wrote(name, output)))
        elif isinstance(module, nn.PixelShuffle):
            hooks.append(module.register_forward_hook(lambda _, inputs, output: shuffled(inputs[0], output)))
        elif isinstance(module, _BATCH_NORMS):
            hooks.append(module.register_forward_pre_hook(lambda _, inputs, name=name: read(name, inputs[0])))
    with torch.inference_mode():
        model(images)
    for hook in hooks:
        hook.remove()
    return pairs


def _replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide what the exporter says about torchvision ops and its own deprecations, and nothing else."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")

    def about_torchvision(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registration.addFilter(about_torchvision)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        registration.removeFilter(about_torchvision)


def _tidy(exported: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with convolutions named after their weights, and pixel shuffles as engines like them.

    Surgery also drops the stack traces that torch attaches to nodes, with the paths of the machine they were made on.
    """
    graph = read_graph(exported)
    graph.name, graph.doc_string = "segrd_edge", ""
    for node in graph.nodes:
        if node.op in ("Conv", "ConvTranspose"):
            node.name = node.inputs[1].name.removesuffix(".weight")
    reorder_shuffles(graph)
    return write_graph(graph)


def _check_opset(core: onnx.ModelProto) -> None:
    opsets = {entry.domain: entry.version for entry in core.opset_import}
    if opsets != {"": OPSET}:  # the exporter keeps its own opset where a conversion fails, without an error
        raise ExportError(f"the exporter wrote opsets {opsets}", expected=f"opset {OPSET} of ONNX alone")


def _check_ops(core: onnx.ModelProto) -> None:
    if foreign := sorted({node.op_type for node in core.graph.node} - PLAIN_OPS):
        raise ExportError(
            f"the network needs {', '.join(foreign)}",
            expected="plain ops that TensorRT, ONNX Runtime and OpenVINO all run (export.onnx.PLAIN_OPS)",
            fix="write that part of the model's forward with other ops",
        )
