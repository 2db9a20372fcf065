"""Engines are built once per machine and kept in the user's cache folder.

    <folder>/engines/<flavour>-<start of the key's SHA-256>.plan     the engine
    <folder>/engines/….json                                          its record: key, checksum of the plan, of itself
    <folder>/timings/<flavour>-<…>.timings, ….json                   timing cache of one version on one GPU
    <folder>/decisions/<flavour>-<…>.json                            which precision was the faster one, and why

A file counts only if its record is whole, holds exactly the key that is asked for, and has the file's checksum. All
else is built again: a plan is code for a GPU, and nothing tells a stale one from a good one but its key.

The folder keeps to a size limit ($SEGRD_CACHE_LIMIT_GB): after a build, engines that this machine cannot use any more
go first (another driver, another release of TensorRT), then the least recently used ones.
"""

from __future__ import annotations

import logging
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import EngineError, OptionError
from ..machine import cache_folder
from ..store import Store, as_json, canonical, sha256, writing
from . import driver, library
from .build import BuildOptions, BuiltEngine, build
from .layers import convolution_dtypes
from .progress import Progress

_logger = logging.getLogger("segrd_edge")

WAITING = "Waiting for another process that prepares this engine"
LIMIT_VARIABLE = "SEGRD_CACHE_LIMIT_GB"
_DEFAULT_LIMIT_GB = 4.0
_TIMING_FIELDS = ("flavour", "version", "gpu", "compute_capability", "os", "architecture")


@dataclass(frozen=True)
class Key:
    """Everything that an engine depends on. Where one field differs, it is another engine."""

    flavour: str
    version: str  # of the flavour, whole
    gpu: str  # "" where there is none, as when TensorRT-RTX builds on another machine
    compute_capability: str
    driver: str
    cuda: str  # that the driver supports
    os: str
    architecture: str
    graph_sha256: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, graph: bytes, options: BuildOptions, flavour: str, device: int = 0) -> Key:
        """The key of a graph on this machine.

        Args:
            device: index of the GPU.

        Raises:
            EngineError: the flavour is missing, or needs a GPU and there is none.
        """
        return cls.of_sha256(sha256(graph), options, flavour, device)

    @classmethod
    def of_sha256(cls, graph_sha256: str, options: BuildOptions, flavour: str, device: int = 0) -> Key:
        """`of`, for a graph of which the checksum is known."""
        if library.flavour_named(flavour).builds_without_gpu:
            gpu = driver.gpu_or_none() if device == 0 else driver.gpu(device)
        else:
            gpu = driver.gpu(device)
        return cls(**machine_fields(flavour, gpu), graph_sha256=graph_sha256, options=options.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def name(self) -> str:
        """Name of the engine's files, without a suffix."""
        return name_of(self.flavour, self.to_dict())

    @property
    def machine(self) -> dict[str, str]:
        """The part that says which machine it is: all but graph and options."""
        return {name: value for name, value in self.to_dict().items() if name not in ("graph_sha256", "options")}

    def timings(self) -> dict[str, Any]:
        """The part that a timing cache depends on: TensorRT binds it to the exact version and the GPU."""
        return {name: value for name, value in self.to_dict().items() if name in _TIMING_FIELDS}


def machine_fields(flavour: str, gpu: driver.Gpu | None) -> dict[str, Any]:
    """What of a `Key` the machine decides.

    Raises:
        EngineError: the flavour is missing.
    """
    return {
        "flavour": flavour,
        "version": str(library.load(flavour).__version__),
        "gpu": gpu.name if gpu else "",
        "compute_capability": gpu.compute_capability if gpu else "",
        "driver": gpu.driver if gpu else "",
        "cuda": gpu.cuda_version if gpu else "",
        "os": platform.system(),
        "architecture": platform.machine(),
    }


def name_of(flavour: str, key: Mapping[str, Any]) -> str:
    """Name of the files that belong to a key, without a suffix."""
    return f"{flavour}-{sha256(canonical(key))[:24]}"


@dataclass(frozen=True)
class CachedEngine:
    """An engine from the cache, or fresh from the builder."""

    plan: bytes
    key: Key
    record: Mapping[str, Any]  # what the .json file holds: versions, warnings, seconds, convolutions, self_test, …
    was_built: bool  # by this call


@dataclass(frozen=True)
class Entry:
    """One engine that lies in the cache."""

    name: str
    size_bytes: int
    last_used: datetime  # UTC
    record: Mapping[str, Any] | None  # None where it is damaged
    fits: bool  # whether this machine, as it is now, can use it


class EngineCache:
    """The engines of this user on this machine. Safe to use from several processes and threads at once.

    Args:
        folder: where to keep them; None: `cache_folder()`.
        limit_bytes: how much the engines may take; None: $SEGRD_CACHE_LIMIT_GB (of 10⁹ bytes), or 4 GB.

    Raises:
        OptionError: the environment variable is no number.
    """

    def __init__(self, folder: Path | None = None, *, limit_bytes: int | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder
        self.limit_bytes = _limit_bytes() if limit_bytes is None else limit_bytes
        self.decisions = Store(self.folder / "decisions", None)
        self._engines = Store(self.folder / "engines", ".plan")
        self._timings = Store(self.folder / "timings", ".timings")

    def load_or_build(
        self,
        graph: bytes,
        options: BuildOptions | None = None,
        *,
        flavour: str = "tensorrt",
        device: int = 0,
        progress: Progress | None = None,
    ) -> CachedEngine:
        """The engine of a graph: from the cache where it is whole and fits, else built and kept.

        Only one process builds an engine; others that want the same one wait for it and then load it.

        Args:
            device: index of the GPU that it is for.

        Raises:
            EngineError: as `build`; or the cache folder cannot be written.
        """
        options = options or BuildOptions()
        key = Key.of(graph, options, flavour, device)
        with self._locked(key.name, progress):
            entry = self._engines.read(key.name, key.to_dict())
            if entry is not None:
                return CachedEngine(entry[0], key, entry[1], was_built=False)
            built = self._build(graph, options, key, device, progress)
            record = self._engines.write(key.name, key.to_dict(), built.plan, _facts(built))
        self.tidy(keep=key.name)
        return CachedEngine(built.plan, key, record, was_built=True)

    def annotate(self, engine: CachedEngine, **facts: Any) -> CachedEngine:
        """Add facts to an engine's record, as what its self-test found; the record is sealed again.

        An engine that was discarded or built again meanwhile is left alone.

        Raises:
            EngineError: the cache folder cannot be written.
        """
        name = engine.key.name
        record = as_json({**engine.record, **facts})
        with self._locked(name, None):
            kept = self._engines.read(name, engine.key.to_dict())
            if kept is not None and kept[1]["sha256"] == engine.record["sha256"]:
                record = self._engines.annotate(name, kept[1], facts)
        return CachedEngine(engine.plan, engine.key, record, engine.was_built)

    def discard(self, key: Key) -> None:
        """Forget an engine, as after a failed self-test. Nothing happens where there is none."""
        with self._locked(key.name, None):
            self._engines.remove(key.name)

    def entries(self) -> list[Entry]:
        """The engines that lie here, least recently used first."""
        machines = _Machines()
        return [
            Entry(
                entry.name,
                entry.size_bytes,
                datetime.fromtimestamp(entry.last_used, timezone.utc),
                entry.record,
                entry.record is not None and machines.can_use(entry.record["key"]),
            )
            for entry in self._engines.entries()
        ]

    def tidy(self, *, keep: str = "") -> list[Entry]:
        """Remove engines until the rest is within the limit; returns those removed.

        Args:
            keep: name of an engine that stays, whatever its size.
        """
        self._engines.remove_unfinished()
        entries = self.entries()
        excess = sum(entry.size_bytes for entry in entries) - self.limit_bytes
        removed = []
        for entry in sorted(entries, key=lambda entry: entry.fits):  # a stable sort: oldest first within each
            if excess > 0 and entry.name != keep and self._try_remove(entry.name):
                removed.append(entry)
                excess -= entry.size_bytes
        return removed

    def clear(self) -> list[Entry]:
        """Remove every engine that no process holds, and every timing cache and decision; returns the engines."""
        removed = [entry for entry in self.entries() if self._try_remove(entry.name)]
        for store in (self._timings, self.decisions):
            for stored in store.entries():
                store.remove(stored.name)
        return removed

    def _try_remove(self, name: str) -> bool:
        """Whether it was removed: an engine that a process builds or reads at this moment is not."""
        with writing(self.folder):
            lock = self._lock(name)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            try:
                self._engines.remove(name)
            finally:
                lock.release()  # its file stays, empty: removing it would let two processes hold "the" lock
        return True

    def _build(
        self, graph: bytes, options: BuildOptions, key: Key, device: int, progress: Progress | None
    ) -> BuiltEngine:
        fields = key.timings()
        name = name_of(key.flavour, fields)
        known = self._timings.read(name, fields)
        timings = known[0] if known else None
        if progress is None:  # nobody shows how far it is
            where = f"for {key.gpu}" if key.gpu else "without a GPU"
            _logger.info("building an engine %s with %s %s: once, minutes", where, key.flavour, key.version)
        built = build(graph, options, flavour=key.flavour, timing_cache=timings, device=device, progress=progress)
        if built.timing_cache is not None:  # of two builds that end at once the later wins: timings are only lost
            self._timings.write(name, fields, built.timing_cache)
        return built

    @contextmanager
    def deciding(self, name: str, progress: Progress | None) -> Iterator[None]:
        """Hold the lock of a decision: of two processes that measure at once, neither would measure anything."""
        with self._locked(name, progress, self.decisions):
            yield

    def _lock(self, name: str, store: Store | None = None) -> FileLock:
        return FileLock((store or self._engines).prepare() / f"{name}.lock")

    @contextmanager
    def _locked(self, name: str, progress: Progress | None, store: Store | None = None) -> Iterator[None]:
        """Hold the lock of an entry, an engine's by default. The system releases it when the process ends, however it
        ends."""
        with writing(self.folder):
            lock = self._lock(name, store)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if progress is not None:
                    progress(WAITING, 0, 1)
                lock.acquire()
                if progress is not None:
                    progress(WAITING, 1, 1)
        try:
            yield
        finally:
            lock.release()


class _Machines:
    """This machine as keys describe it: once for each of its GPUs; without one, as TensorRT-RTX builds there."""

    def __init__(self) -> None:
        self._gpus: list[driver.Gpu] = []
        with suppress(EngineError):  # no driver, or no GPU
            self._gpus = driver.gpus()
        self._by_flavour: dict[str, list[dict[str, Any]] | None] = {}

    def can_use(self, key: Mapping[str, Any]) -> bool:
        """Whether the machine part of a key is this machine's. Where the flavour is not installed (in this
        environment, perhaps in another) it is not known, and counts as yes."""
        flavour = str(key.get("flavour"))
        if flavour not in self._by_flavour:
            self._by_flavour[flavour] = self._fields(flavour)
        machines = self._by_flavour[flavour]
        return machines is None or any(machine.items() <= key.items() for machine in machines)

    def _fields(self, flavour: str) -> list[dict[str, Any]] | None:
        try:
            without = [None] if library.flavour_named(flavour).builds_without_gpu else []
            return [machine_fields(flavour, gpu) for gpu in self._gpus or without]
        except EngineError:
            return None


def _limit_bytes() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        gigabytes = float(text) if text.strip() else _DEFAULT_LIMIT_GB
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise OptionError(f"{LIMIT_VARIABLE}={text!r}", expected="a number of gigabytes, 4 say")
    return int(gigabytes * 1e9)


def _facts(built: BuiltEngine) -> dict[str, Any]:
    """What a person wants to know of an engine later; nothing of it decides whether it is loaded."""
    return {
        "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(built.seconds, 1),
        "versions": dict(built.versions),
        "warnings": list(built.warnings),
        "convolutions": convolution_dtypes(built.layers),
    }
