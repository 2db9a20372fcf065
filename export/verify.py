"""`segrd-export --verify`: an engine against ONNX Runtime, tensor by tensor, through NVIDIA's polygraphy.

Both run the same graph on a golden image, with the outputs of its convolutions and matrix products as further outputs.
ONNX Runtime runs it unoptimised, so that it gives what the ONNX standard says, INT8 rounding included. A tensor is
judged by its signal-to-noise ratio, 10·log10(mean x² / mean (x − y)²) dB, which needs no scale of its own for each
tensor.

An engine with further outputs is not quite the one on the line: what must be an output cannot be fused away. It tells
where two implementations part, not whether the engine on the line is right; that is what the self-test is for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from rich.markup import escape
from rich.table import Table

from segrd_edge.build_cli import show_progress
from segrd_edge.bundle import Bundle
from segrd_edge.calibration.graph import expose
from segrd_edge.console import console, new_table, print_table, results
from segrd_edge.cuda import open_device
from segrd_edge.errors import EngineError, ExportError, OptionError
from segrd_edge.manifest import Precision
from segrd_edge.preprocess import Preprocess
from segrd_edge.selftest import golden_frame
from segrd_edge.tensorrt import requirements
from segrd_edge.tensorrt.build import build
from segrd_edge.tensorrt.choose import candidates
from segrd_edge.tensorrt.progress import Progress
from segrd_edge.tensorrt.run_once import run_once

# Below this a tensor departs, in dB: 60 is an error of 0.1 % of the tensor's own size, 40 of 1 %, 20 of 10 %.
# Two healthy engines of the processor, on two DeSTSeg detectors of 69 tensors, stayed above 107 (fp32), 68 (fp16), 29
# (mixed) and 6 (INT8, in the anomaly map, where 60 layers of rounding ties come together; most tensors are equal to the
# last bit). A layer that computes something else gives less than 3.
LEAST_SNR_DB: dict[Precision, float] = {"fp32": 60.0, "fp16": 30.0, "mixed": 5.0, "int8": 5.0}
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SHOWN = 10

Feed = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TensorVerdict:
    """One tensor of the graph, compared."""

    name: str
    node: str  # that computes it
    op: str
    snr_db: float  # infinite where both agree to the last bit
    max_difference: float
    mean_difference: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """A graph in two engines. `tensors` are in the graph's order, inputs first."""

    precision: Precision
    reference: str
    other: str
    least_snr_db: float
    tensors: tuple[TensorVerdict, ...]

    @property
    def passed(self) -> bool:
        return all(tensor.passed for tensor in self.tensors)

    @property
    def first_departing(self) -> TensorVerdict | None:
        """Where to look: all that it is computed from agrees."""
        return next((tensor for tensor in self.tensors if not tensor.passed), None)

    def worst(self, count: int = _SHOWN) -> list[TensorVerdict]:
        return sorted(self.tensors, key=lambda tensor: tensor.snr_db)[:count]

    @property
    def sentence(self) -> str:
        first, least = self.first_departing, self.worst(1)[0]
        if first is None:
            return (
                f"{self.precision}: {self.other} agrees with {self.reference} on all {len(self.tensors)} tensors; the "
                f"least signal-to-noise ratio is {least.snr_db:.0f} dB, in {least.name} ({least.op} {least.node})"
            )
        departing = sum(not tensor.passed for tensor in self.tensors)
        return (
            f"{self.precision}: {self.other} departs from {self.reference} in {departing} of {len(self.tensors)} "
            f"tensors, first in {first.name} ({first.op} {first.node}): {first.snr_db:.0f} dB, where "
            f"{self.least_snr_db:.0f} dB are wanted"
        )


def inner_tensors(model: onnx.ModelProto) -> list[str]:
    """Outputs of the operators with weights, in the graph's order, as far as their type and shape are stored."""
    known = {info.name for info in model.graph.value_info}
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type in _WEIGHTED and node.output[0] in known and not _is_constant(node, model)
    ]


def golden_feed(bundle: Bundle, model: onnx.ModelProto) -> dict[str, npt.NDArray[np.uint8]]:
    """The last golden image, one with a defect, as the graph takes it: n items, network images or frames."""
    item = model.graph.input[0]
    batch, height, width, _ = (dimension.dim_value for dimension in item.type.tensor_type.shape.dim)
    image = bundle.golden()["images"][-1]
    if item.name == "frame":
        image = golden_frame(image, Preprocess.from_dict(bundle.manifest.preprocess), (height, width))
    return {item.name: np.repeat(image[None], batch, axis=0)}


def reference_runner(model: onnx.ModelProto) -> Any:
    """A polygraphy runner of ONNX Runtime on the CPU, with no optimisation."""
    import onnxruntime
    from polygraphy.backend.onnxrt import OnnxrtRunner

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3

    def session() -> Any:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    return OnnxrtRunner(session, name=f"onnxruntime {onnxruntime.__version__}")


def engine_runner(model: onnx.ModelProto, flavour: str, *, device: int = 0, progress: Progress | None = None) -> Any:
    """A polygraphy runner of an engine that is built from the graph on this machine, and not kept.

    Its errors are ours: EngineError where there is no TensorRT or GPU, or the graph cannot be built or run.
    """
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata

    class EngineRunner(BaseRunner):  # type: ignore[misc]
        def activate_impl(self) -> None:
            with open_device(device).current():
                built = build(model.SerializeToString(), flavour=flavour, device=device, progress=progress)
            self.plan = built.plan

        def get_input_metadata_impl(self) -> Any:
            item = model.graph.input[0]
            shape = [dimension.dim_value for dimension in item.type.tensor_type.shape.dim]
            return TensorMetadata().add(item.name, np.uint8, shape)

        def infer_impl(self, feed_dict: Feed) -> dict[str, npt.NDArray[Any]]:
            start = time.perf_counter()
            outputs = run_once(self.plan, feed_dict, flavour=flavour, device=device)
            self.inference_time = time.perf_counter() - start  # with loading the plan: no figure for anybody
            return outputs

        def deactivate_impl(self) -> None:
            del self.plan

    return EngineRunner(name=flavour)


def verify(bundle: Bundle, flavour: str, *, device: int = 0, progress: Progress | None = None) -> list[Verdict]:
    """Compare the engines that `precision="auto"` chooses from with ONNX Runtime, on the last golden image.

    Raises:
        EngineError: no TensorRT or GPU; or a graph cannot be built or run.
    """
    verdicts = []
    for precision in candidates(bundle.manifest):
        model = exposed(bundle, precision)
        runners = [reference_runner(model), engine_runner(model, flavour, device=device, progress=progress)]
        verdicts.append(compare(model, runners, golden_feed(bundle, model), precision))
    return verdicts


def check_verify(engine: str) -> None:
    """Refuse what could not be verified, before minutes of work.

    Raises:
        OptionError: an engine that is not TensorRT's.
        EngineError: this machine cannot build or run it.
    """
    if engine not in ("tensorrt", "tensorrt-rtx"):
        raise OptionError(
            f"--verify for the engine {engine}",
            expected="TensorRT's engines, which are compared with ONNX Runtime",
            fix="add --engine tensorrt, or leave --verify out",
        )
    lack = requirements.lack(engine)
    if lack is not None:
        raise EngineError(f"--verify needs a GPU that runs {engine}: {lack.what}", fix=lack.fix)


def verify_and_show(bundle: Path, flavour: str, *, as_json: bool = False) -> list[Verdict]:
    """`verify` for a bundle's file, with progress on stderr, then a table and a sentence for each graph."""
    with show_progress() as progress:
        verdicts = verify(Bundle.open(bundle), flavour, progress=progress)
    for verdict in verdicts:
        print_table(table(verdict), as_json=as_json)
        (console if as_json else results).print(verdict.sentence, markup=False, soft_wrap=True)
    return verdicts


def compare(
    model: onnx.ModelProto, runners: Sequence[Any], feed: Feed, precision: Precision, least_snr_db: float | None = None
) -> Verdict:
    """Run two polygraphy runners of the same exposed graph, the reference first, and compare all their outputs.

    Raises:
        ExportError: a runner lacks an output that the other has.
    """
    from polygraphy.comparator import Comparator, SimpleCompareFunc, SnrCompareFunc
    from polygraphy.logger import G_LOGGER

    limit = LEAST_SNR_DB[precision] if least_snr_db is None else least_snr_db
    # Its own report is not what a line engineer reads, and infinities are told in ours.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(all="ignore"):
        outputs = Comparator.run(list(runners), data_loader=[dict(feed)])
        # The second gives figures only: no difference is larger than infinity.
        functions = [SnrCompareFunc(limit), SimpleCompareFunc(atol=np.inf, check_error_stat="max")]
        noise, sizes = Comparator.compare_accuracy(outputs, compare_func=functions)
    names = [runner.name for runner in runners]
    pair = (names[0], names[1])
    made_by = {output: node for node in model.graph.node for output in node.output}
    given = {output.name for output in model.graph.output}
    wanted = [name for name in made_by if name in given]
    if missing := [name for name in wanted if not hasattr(noise[pair][0].get(name), "snr")]:
        raise ExportError(
            f"{names[1]} does not give {', '.join(missing)} as {names[0]} does",
            expected="the same outputs, of the same shapes",
            fix="report this with the graph: the engine was not built from it as it stands",
        )
    tensors = [_tensor(made_by[name], name, noise[pair][0][name], sizes[pair][0][name]) for name in wanted]
    return Verdict(precision, names[0], names[1], limit, tuple(tensors))


def table(verdict: Verdict) -> Table:
    """The tensors that agree least, and the first that departs."""
    shown = new_table(
        f"{verdict.precision}: {verdict.other} against {verdict.reference}",
        *("tensor", "node", "SNR, dB", "mean |Δ|", "max |Δ|", "verdict"),
    )
    first = verdict.first_departing
    rows = verdict.worst()
    for tensor in rows if first is None or first in rows else [first, *rows]:
        mark = "[green]agrees[/]" if tensor.passed else "[red]departs[/]" + (" first" if tensor == first else "")
        figures = (f"{tensor.snr_db:.1f}", f"{tensor.mean_difference:.2e}", f"{tensor.max_difference:.2e}")
        shown.add_row(escape(tensor.name), escape(f"{tensor.op} {tensor.node}"), *figures, mark)
    return shown


def exposed(bundle: Bundle, precision: Precision) -> onnx.ModelProto:
    """A graph of the bundle with its inner tensors as outputs."""
    model = onnx.load_from_string(bundle.graph(precision))
    return expose(model, inner_tensors(model))


def _tensor(node: onnx.NodeProto, name: str, noise: Any, sizes: Any) -> TensorVerdict:
    snr_db = -math.inf if math.isnan(noise.snr) else noise.snr  # NaN on one side, or infinity on both
    return TensorVerdict(
        name, node.name, node.op_type, snr_db, sizes.max_absdiff, sizes.mean_absdiff, passed=bool(noise)
    )


def _is_constant(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    constants = {constant.name for constant in model.graph.initializer}
    return all(name in constants for name in node.input)
