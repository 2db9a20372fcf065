"""`precision="auto"` on a GPU: build the candidates, test them, time them, keep the faster, and say why.

INT8 is not always faster: formats that change back and forth can cost more than the smaller numbers save, and that
depends on the GPU. So it is measured on the very device, once; the decision lies in the cache beside the engines, under
everything that it depends on, so that a new driver, GPU, TensorRT or bundle decides again. Where one of them failed for
want of memory, which another program may have had at that moment, the decision is not kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..engines import EngineOptions
from ..engines.base import DEFAULT_OPTIONS
from ..engines.tensorrt import TensorRtEngine
from ..errors import EngineError
from ..manifest import Manifest, Precision
from ..preprocess import Preprocess
from ..selftest import golden_frame
from .build import BuildOptions
from .cache import CachedEngine, EngineCache, Key, name_of
from .prepare import Prepared, Setup, is_lack_of_memory, prepare_one
from .progress import Progress
from .timing import time_engines

TIMING = "Timing the engines"
# INT8 must be faster by this factor. Less is within what medians of two measurements differ by, and the float engine is
# the one that the model was validated with.
LEAST_GAIN = 1.03
_logger = logging.getLogger("segrd_edge")


@dataclass(frozen=True)
class Candidates:
    """What "auto" chooses from."""

    floating: Precision | None
    int8: Precision | None
    reason: str  # why only one of them is in question, else ""

    def __iter__(self) -> Iterator[Precision]:
        return iter([name for name in (self.floating, self.int8) if name is not None])


@dataclass(frozen=True)
class Candidate:
    """Figures of one engine that was in question."""

    precision: Precision
    error: str = ""  # why it was discarded, else ""
    plan_bytes: int | None = None
    build_seconds: float | None = None
    was_built: bool = False  # by this call; else it was in the cache
    test: Mapping[str, Any] | None = None  # of its self-test
    run_ms: float | None = None  # where it was timed against another
    # Of an INT8 graph: nodes that calibration put in INT8, and how many of them the compiler runs so, where it tells.
    int8_planned: int | None = None
    int8_running: int | None = None


@dataclass(frozen=True)
class Choice:
    """The engine to run, open; the caller closes it."""

    engine: TensorRtEngine
    precision: Precision
    reason: str
    cached: CachedEngine  # plan and record of the engine
    candidates: tuple[Candidate, ...]
    was_decided: bool  # by this call; else by an earlier one, and the figures are of then


def candidates(manifest: Manifest) -> Candidates:
    """The bundle's fastest float graph, and its INT8 graph where that passed the accuracy gate at export."""
    graphs = manifest.graphs
    floating = next((name for name in _FLOATING if name in graphs), None)
    int8 = next((name for name in _INT8 if name in graphs), None)
    if int8 is None:
        return Candidates(floating, None, "the bundle has no INT8 graph")
    if floating is None:
        return Candidates(None, int8, "the bundle has no float graph")
    if graphs[int8].is_safe is False:
        return Candidates(floating, None, "the bundle's INT8 did not pass the accuracy gate when it was exported")
    return Candidates(floating, int8, "")


_FLOATING: tuple[Precision, ...] = ("fp16", "fp32")
_INT8: tuple[Precision, ...] = ("mixed", "int8")


def prepare(
    bundle: Bundle,
    precision: str = "auto",
    *,
    flavour: str = "tensorrt",
    options: EngineOptions = DEFAULT_OPTIONS,
    build_options: BuildOptions | None = None,
    fallback: bool = True,
    cache: EngineCache | None = None,
    progress: Progress | None = None,
) -> Choice:
    """A tested engine for a bundle on this machine: from the cache, or built now.

    Args:
        precision: one of the bundle's, and then no other; "auto": the faster of those that pass.
        fallback: with "auto", go on with the other candidate where one cannot be built or fails its self-test.

    Raises:
        EngineError: no TensorRT, pycuda, driver or GPU; or no engine could be built that passes its self-test.
        OptionError: the bundle has no such precision, or the flavour has not such a build option.
        BundleError: the bundle is damaged.
    """
    setup = Setup(bundle, flavour, options, build_options or BuildOptions(), cache or EngineCache(), progress)
    setup.require()
    if precision != "auto":
        prepared = prepare_one(setup, bundle.precision(precision))
        return _choice(
            prepared, f"{prepared.precision}: asked for", (_candidate(prepared, bundle.manifest),), was_decided=True
        )
    wanted = candidates(bundle.manifest)
    key = _decision_key(setup, wanted)
    name = name_of(flavour, key)
    with setup.cache.deciding(name, progress):
        choice = _remembered(setup, name, key, fallback) or _decide(setup, wanted, fallback)
        if choice.was_decided and not any(is_lack_of_memory(candidate.error) for candidate in choice.candidates):
            setup.cache.decisions.write(name, key, facts=_to_record(choice))
    return choice


def _decision_key(setup: Setup, wanted: Candidates) -> dict[str, Any]:
    sums, graphs = setup.bundle.sha256, setup.bundle.manifest.graphs
    graph_sums = {name: sums[graphs[name].file] for name in wanted}
    key = Key.of_sha256("", setup.build_options, setup.flavour, setup.options.device)
    return {
        "machine": key.machine,
        "build_options": setup.build_options.to_dict(),
        "graphs": graph_sums,
        "golden_sha256": setup.bundle.sha256[setup.bundle.manifest.golden.file],
        "memory": setup.options.memory,
        "cuda_graph": setup.options.cuda_graph,
        "device": setup.options.device,
    }


def _remembered(setup: Setup, name: str, key: Mapping[str, Any], fallback: bool) -> Choice | None:
    """The choice of an earlier call, with its engine open; None where there is none that holds."""
    found = setup.cache.decisions.read(name, key)
    if found is None:
        return None
    record = found[1]
    if not fallback and any(figures["error"] for figures in record["candidates"]):
        return None
    try:
        prepared = prepare_one(setup, record["precision"])
    except EngineError as error:  # its engine had left the cache, and the new one is not as good
        _logger.warning("the %s engine is chosen again: %s", record["precision"], error.what)
        setup.cache.decisions.remove(name)
        return None
    known = {field.name for field in fields(Candidate)}  # another release may have kept other figures
    figures = tuple(Candidate(**{k: v for k, v in old.items() if k in known}) for old in record["candidates"])
    return _choice(prepared, record["reason"], figures, was_decided=False)


def _decide(setup: Setup, wanted: Candidates, fallback: bool) -> Choice:
    manifest = setup.bundle.manifest
    kept: dict[Precision, Prepared] = {}
    failed: dict[Precision, EngineError] = {}
    try:
        for precision in wanted:
            outcome = _attempt(setup, precision, fallback)
            if isinstance(outcome, EngineError):
                failed[precision] = outcome
            else:
                kept[precision] = outcome
        if not kept:
            raise _nothing_left(failed)
        times_ms = _time(setup, kept) if len(kept) == 2 else {}
        chosen, reason = _choose(manifest, wanted, kept, failed, times_ms)
    except BaseException:
        _close(kept)
        raise
    figures = tuple(
        _candidate(kept[name], manifest, times_ms.get(name))
        if name in kept
        else Candidate(name, error=failed[name].what)
        for name in wanted
    )
    prepared = kept.pop(chosen)
    _close(kept)
    return _choice(prepared, f"{chosen}: {reason}", figures, was_decided=True)


def _choice(prepared: Prepared, reason: str, figures: tuple[Candidate, ...], *, was_decided: bool) -> Choice:
    return Choice(prepared.engine, prepared.precision, reason, prepared.cached, figures, was_decided)


def _attempt(setup: Setup, precision: Precision, fallback: bool) -> Prepared | EngineError:
    try:
        return prepare_one(setup, precision)
    except EngineError as error:
        if not fallback:
            raise
        _logger.warning("%s is out of the question: %s", precision, error.what)
        return error


def _close(prepared: Mapping[Precision, Prepared]) -> None:
    for one in prepared.values():
        one.engine.close()


def _nothing_left(failed: Mapping[Precision, EngineError]) -> EngineError:
    errors = list(failed.values())
    if len(errors) == 1:
        return errors[0]
    return EngineError(
        "no engine of this bundle works here\n  " + "\n  ".join(f"{name}: {e.what}" for name, e in failed.items()),
        expected=errors[0].expected,
        fix=errors[0].fix,
    )


def _time(setup: Setup, kept: Mapping[Precision, Prepared]) -> dict[Precision, float]:
    """Milliseconds of a run; empty where the graphs take different inputs, whose times say nothing of each other."""
    engines = {name: prepared.engine for name, prepared in kept.items()}
    if len({(engine.input_name, engine.batch, engine.input_hw) for engine in engines.values()}) > 1:
        return {}
    if setup.progress is not None:
        setup.progress(TIMING, 0, 1)
    times_ms = time_engines(engines, {name: _items(setup.bundle, engine) for name, engine in engines.items()})
    if setup.progress is not None:
        setup.progress(TIMING, 1, 1)
    return times_ms


def _items(bundle: Bundle, engine: TensorRtEngine) -> list[npt.NDArray[np.uint8]]:
    image = bundle.golden()["images"][0]
    if engine.takes_frames:
        image = golden_frame(image, Preprocess.from_dict(bundle.manifest.preprocess), engine.input_hw)
    return [image] * engine.batch


def _choose(
    manifest: Manifest,
    wanted: Candidates,
    kept: Mapping[Precision, Prepared],
    failed: Mapping[Precision, EngineError],
    times_ms: Mapping[Precision, float],
) -> tuple[Precision, str]:
    """Which of the engines that work, and why."""
    if len(kept) == 1:
        reasons = [f"{name} is out of the question: {error.what}" for name, error in failed.items()]
        return next(iter(kept)), "; ".join(reasons) or wanted.reason
    floating, int8 = kept
    if not times_ms:
        return floating, f"{int8} takes another input, so that the two cannot be compared: export both again together"
    if times_ms[floating] < LEAST_GAIN * times_ms[int8]:
        compared = f"{times_ms[floating]:.2f} ms against {int8} {times_ms[int8]:.2f} ms"
        return floating, f"INT8 is not faster here: {compared}"
    return int8, f"{times_ms[int8]:.2f} ms against {floating} {times_ms[floating]:.2f} ms; {_gate(manifest, int8)}"


def _gate(manifest: Manifest, int8: Precision) -> str:
    passed = "INT8 passed the accuracy gate at export"
    record = manifest.calibration
    drift = manifest.graphs[int8].drift or (record.drift.get(record.scope) if record else None) or {}
    return passed if "score_mean" not in drift else f"{passed}: mean score drift {drift['score_mean']:.4f}"


def _candidate(prepared: Prepared, manifest: Manifest, run_ms: float | None = None) -> Candidate:
    cached = prepared.cached
    convolutions = cached.record["convolutions"]
    planned = manifest.calibration.quantised if manifest.calibration and prepared.precision in _INT8 else []
    tells = bool(planned and convolutions)
    return Candidate(
        prepared.precision,
        plan_bytes=len(cached.plan),
        build_seconds=cached.record["seconds"],
        was_built=cached.was_built,
        test=prepared.test,
        run_ms=run_ms,
        int8_planned=len(planned) if tells else None,
        int8_running=sum(convolutions.get(node) == "Int8" for node in planned) if tells else None,
    )


def _to_record(choice: Choice) -> dict[str, Any]:
    return {
        "precision": choice.precision,
        "reason": choice.reason,
        "candidates": [{**vars(candidate), "was_built": False} for candidate in choice.candidates],
        "decided": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
