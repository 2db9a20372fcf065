"""A bundle's graph → an engine that was built, loaded and self-tested on this machine.

    EngineCache (built here, once) ─► loaded onto the GPU ─► golden images ─► ready, and the cache's record says so

An engine that fails on the golden images is removed from the cache: nothing can mend a plan but another build. One that
passed is not tested again at every start; its record, sealed by a checksum, holds what was found, and anything that
could change its answers (driver, TensorRT, GPU, graph, build options) makes it another engine.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, cast

from ..bundle import Bundle
from ..cuda import open_device
from ..engines import EngineOptions, engine_class
from ..engines.tensorrt import TensorRtEngine
from ..errors import EngineError
from ..manifest import Precision
from ..selftest import self_test
from . import requirements
from .build import BuildOptions
from .cache import CachedEngine, EngineCache
from .layers import convolution_dtypes
from .progress import Progress

TESTING = "Self-test on the golden images"
_LACK_OF_MEMORY = re.compile(r"out ?of ?memory|insufficient memory|GPU memory", re.IGNORECASE)
_logger = logging.getLogger("segrd_edge")


@dataclass(frozen=True)
class Setup:
    """What engines are prepared for, and how."""

    bundle: Bundle
    flavour: str
    options: EngineOptions
    build_options: BuildOptions
    cache: EngineCache
    progress: Progress | None

    @property
    def runtime(self) -> str:
        """The flavour that runs the engine: of version-compatible ones the lean runtime."""
        return "tensorrt-lean" if self.build_options.version_compatible else self.flavour

    def require(self) -> None:
        """Ask for all that a build needs of the machine. What is missing is no fault of an engine, and no reason to try
        another precision.

        Raises:
            EngineError: no TensorRT, pycuda, driver or GPU.
        """
        for flavour in dict.fromkeys([self.flavour, self.runtime]):
            requirements.require(flavour, self.options.device)
        open_device(self.options.device)


@dataclass(frozen=True)
class Prepared:
    """An engine that may run; the caller closes it."""

    engine: TensorRtEngine
    precision: Precision
    cached: CachedEngine

    @property
    def test(self) -> Mapping[str, Any]:
        """What the self-test found, as the cache's record has it."""
        found: Mapping[str, Any] = self.cached.record["self_test"]
        return found

    @property
    def was_built(self) -> bool:
        return self.cached.was_built


def prepare_one(setup: Setup, precision: Precision) -> Prepared:
    """The engine of one graph of the bundle, on a machine that has what `Setup.require` asks for.

    Raises:
        EngineError: the engine cannot be built or loaded; or it failed its self-test and was discarded.
        OptionError: a build option that the flavour does not have.
        BundleError: the bundle is damaged.
    """
    graph = setup.bundle.graph(precision)
    progress = _named(setup.progress, precision)

    device = setup.options.device

    def build() -> CachedEngine:
        with open_device(device).current():  # the builder times kernels on the GPU that is current
            return setup.cache.load_or_build(
                graph, setup.build_options, flavour=setup.flavour, device=device, progress=progress
            )

    cached = build()
    try:
        engine = _load(setup, cached)
    except EngineError as error:
        if is_lack_of_memory(error.what):  # which another program has, at this moment
            raise
        setup.cache.discard(cached.key)
        if cached.was_built:
            raise
        _logger.warning("the cached %s engine cannot be loaded and is built again: %s", precision, error.what)
        cached = build()
        engine = _load(setup, cached)
    try:
        return Prepared(engine, precision, _tested(setup, engine, precision, cached, progress))
    except BaseException:
        engine.close()
        raise


def is_lack_of_memory(error: str) -> bool:
    """Whether an engine failed for want of memory, and so may work once another program has given some back."""
    return _LACK_OF_MEMORY.search(error) is not None


def _load(setup: Setup, cached: CachedEngine) -> TensorRtEngine:
    kind = cast(type[TensorRtEngine], engine_class(setup.runtime))  # `require` knows flavours alone
    options = setup.build_options
    # The plan is of the cache, whose checksum was compared.
    return kind.from_plan(
        cached.plan, setup.options, host_code=options.version_compatible and not options.exclude_lean_runtime
    )


def _tested(
    setup: Setup, engine: TensorRtEngine, precision: Precision, cached: CachedEngine, progress: Progress | None
) -> CachedEngine:
    """The cache's entry with a note of a passed self-test, of now or of an earlier start."""
    subject = _subject(setup, precision)
    noted = cached.record.get("self_test")
    if noted is not None and subject.items() <= noted.items():
        return cached
    if progress is not None:
        progress(TESTING, 0, 1)
    try:
        found = self_test(engine, setup.bundle, precision)
    except EngineError as error:
        setup.cache.discard(cached.key)
        raise EngineError(
            f"the {precision} engine was built, failed its self-test and was discarded: {error.what}",
            expected=error.expected,
            fix="try another precision, for example --precision fp16; report it with segrd-doctor --json",
        ) from error
    if progress is not None:
        progress(TESTING, 1, 1)
    note = {
        **subject,
        **found._asdict(),
        # "" where a launch of the graph gave what the plain enqueue gives; else why the engine runs without a graph.
        "no_graph_reason": engine.no_graph_reason,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return setup.cache.annotate(cached, self_test=note, **_convolutions(engine, cached))


def _convolutions(engine: TensorRtEngine, cached: CachedEngine) -> dict[str, Any]:
    """What the convolutions run in, where the builder did not say so and the engine inspector does."""
    if cached.record["convolutions"]:
        return {}
    try:
        found = convolution_dtypes(engine.layers())
    except EngineError as error:  # a fact for people; the engine is as good without it
        _logger.debug("no layer information: %s", error.what)
        return {}
    return {"convolutions": found} if found else {}


def _subject(setup: Setup, precision: Precision) -> dict[str, Any]:
    """What a self-test is of, besides the engine itself: where one of these differs, it is run again."""
    return {
        "golden_sha256": setup.bundle.sha256[setup.bundle.manifest.golden.file],
        "precision": precision,
        "memory": setup.options.memory,
        "cuda_graph": setup.options.cuda_graph,
    }


def _named(progress: Progress | None, precision: Precision) -> Progress | None:
    """A progress callback that says of which engine a phase is."""
    if progress is None:
        return None
    report = progress

    def named(phase: str, done: int, steps: int) -> None:
        report(f"{precision}: {phase}", done, steps)

    return named
