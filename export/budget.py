"""A bundle that keeps a time per frame on this machine: what `segrd-export --budget` measures, and what follows.

The precisions take turns in the engine that a Detector takes by itself on the processor. A turn begins with inspections
that do not count: the other graph has pushed this one's weights out of the caches, which no line ever does. Every other
frame has a defect, of which regions are found as well.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from segrd_edge import engines, machine
from segrd_edge.bundle import Bundle, write_bundle
from segrd_edge.detector import Detector
from segrd_edge.errors import OptionError
from segrd_edge.manifest import LatencyRecord, Manifest, Precision
from segrd_edge.preprocess import shrink_or_grow

from .limits import LOSS_LIMITS
from .target import Target

if TYPE_CHECKING:
    from .bundle import ExportResult

TURNS = 20
_UNTIMED, _PER_TURN = 2, 5  # inspections; 100 of each are the fewest of which one lies above p99

Samples = Mapping[Precision, npt.NDArray[np.float64]]  # ms


@dataclass(frozen=True)
class Held:
    """An export, and whether its default precision keeps the budget."""

    result: ExportResult  # of the bundle as it is now
    holds: bool
    sentences: list[str]  # for the user


def check_budget(target: Target) -> None:
    """Refused now rather than after minutes of work.

    Raises:
        OptionError: graphs for a GPU, which only the device can time.
        EngineError: no engine for the processor.
    """
    if target.is_tensorrt:
        raise OptionError(
            f"--budget for the engine {target.engine}",
            expected="--engine cpu: the budget is measured on this machine's processor",
            fix="on the device, segrd-bench BUNDLE --budget says what keeps it",
        )
    engines.processor_engine()


def hold_budget(result: ExportResult, frame_bgr_u8: npt.NDArray[np.uint8], budget_ms: float) -> Held:
    """Measure an exported bundle, make the most accurate precision that keeps the budget its default, and record it.

    The bundle is written again with other words in its manifest, and nothing else changed.

    Args:
        frame_bgr_u8: H×W×3, of the size that the line's frames have.
        budget_ms: from a frame's bytes to the verdict, at p99.
    """
    bundle = Bundle.open(result.path)
    engine = engines.processor_engine()
    samples = measure(bundle, engine, [frame_bgr_u8, _with_defect(bundle, frame_bgr_u8)])
    record = _record(samples, engine, frame_bgr_u8, budget_ms)
    default = choose_default(result.manifest, record)
    changes = {"default_precision": default or result.manifest.default_precision, "latency": record}
    manifest = Manifest.model_validate(result.manifest.model_dump() | changes)
    members = {member: bundle.read(member) for member in manifest.files}
    write_bundle(result.path, manifest, members)
    return Held(replace(result, manifest=manifest), default is not None, _sentences(manifest, record, default))


def measure(bundle: Bundle, engine: str, frames_bgr_u8: Sequence[npt.NDArray[np.uint8]]) -> Samples:
    """How long whole inspections take with every precision that is worth running in an engine, ms; frames by turns."""
    worth = engines.engine_class(engine).precisions
    samples: dict[Precision, list[float]] = {name: [] for name in bundle.manifest.graphs if name in worth}
    with ExitStack() as stack:
        detectors = {p: stack.enter_context(Detector(bundle, engine=engine, precision=p)) for p in samples}
        for turn in range(TURNS):
            for precision in list(samples)[:: -1 if turn % 2 else 1]:
                for number in range(-_UNTIMED, _PER_TURN):
                    frame = frames_bgr_u8[(turn + number) % len(frames_bgr_u8)]
                    took_ms = detectors[precision].inspect(frame).timings_ms["total"]
                    if number >= 0:
                        samples[precision].append(took_ms)
    return {precision: np.array(taken) for precision, taken in samples.items()}


def _with_defect(bundle: Bundle, frame_bgr_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The golden image that fp32 scores highest, as large as the frame."""
    golden = bundle.golden()
    worst = int(np.argmax(golden["score_fp32"]))
    return shrink_or_grow(golden["images"][worst], (frame_bgr_u8.shape[0], frame_bgr_u8.shape[1]))


def choose_default(manifest: Manifest, record: LatencyRecord) -> Precision | None:
    """The most accurate precision that keeps the budget; None where none of those does that calibration allows.

    Calibration's limits decide whether INT8 may be the default, as without a budget. Where both keep it, INT8 stays the
    default unless fp32 is more accurate by what counts as a loss.
    """
    holding = [name for name in ("fp32", manifest.default_precision) if record.p99_ms[name] <= record.budget_ms]
    if "fp32" in holding and (manifest.default_precision not in holding or _loses(manifest)):
        return "fp32"
    return manifest.default_precision if holding else None


def budget_sentence(record: LatencyRecord) -> str:
    """What was measured, for the command and the report."""
    figures = ", ".join(f"{name} {ms:.1f} ms (median {record.p50_ms[name]:.1f})" for name, ms in record.p99_ms.items())
    height, width = record.frame_hw
    return (
        f"Against a budget of {record.budget_ms:g} ms at p99, frames of {width}×{height} in {record.engine}, "
        f"{record.samples} samples each: {figures}."
    )


def _loses(manifest: Manifest) -> bool:
    """Whether the default loses against fp32 what counts as a loss on the images that metrics come from."""
    fp32, own = (manifest.graphs[name].metrics or {} for name in ("fp32", manifest.default_precision))
    pairs = [(fp32.get(name), own.get(name), limit) for name, limit in LOSS_LIMITS.items()]
    return any(isinstance(a, float) and isinstance(b, float) and a - b > limit for a, b, limit in pairs)


def _record(samples: Samples, engine: str, frame_bgr_u8: npt.NDArray[np.uint8], budget_ms: float) -> LatencyRecord:
    # Nearest rank: a duration that was really measured.
    p50, p99 = (
        {p: round(float(np.quantile(taken, share, method="inverted_cdf")), 3) for p, taken in samples.items()}
        for share in (0.5, 0.99)
    )
    return LatencyRecord(
        budget_ms=budget_ms,
        frame_hw=(frame_bgr_u8.shape[0], frame_bgr_u8.shape[1]),
        engine=engine,
        engine_version=engines.engine_class(engine).version(),
        machine="{model}, {cores} cores".format(**machine.cpu()),
        samples=TURNS * _PER_TURN,
        p50_ms=p50,
        p99_ms=p99,
    )


def _sentences(manifest: Manifest, record: LatencyRecord, default: Precision | None) -> list[str]:
    """The figures, and what follows."""
    figures = budget_sentence(record)
    if default is not None:
        return [figures, f"{default} keeps it, and is the default."]
    height, width = record.frame_hw
    line = shlex.join(["segrd-bench", "--budget", f"{record.budget_ms:g}ms", "--frame", f"{width}x{height}"])
    late = f"No precision keeps it. The bundle is whole, with {manifest.default_precision} as its default."
    if [name for name, p99_ms in record.p99_ms.items() if p99_ms <= record.budget_ms]:
        is_safe = manifest.graphs["int8"].is_safe
        why = "is not as much faster as --min-speedup asks for" if is_safe else "is not within its limits"
        limits = "" if is_safe else " (--max-score-shift and the like)"
        late = f"INT8 would keep it, but {why}{limits}: fp32 stays the default, and is too slow."
    return [
        figures,
        late,
        "Faster: a smaller --size, another --model, --profile fast of destseg, segrdpp and adps. "
        f"Which fit before training: {line}",
    ]
