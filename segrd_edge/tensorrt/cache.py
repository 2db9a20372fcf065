"""Engines are built once per machine and kept in the user's cache folder.

    <folder>/engines/<flavour>-<start of the key's SHA-256>.plan     the engine
    <folder>/engines/….json                                          its record: key, checksum of the plan, of itself
    <folder>/timings/<flavour>-<…>.timings, ….json                   timing cache of one version on one GPU

A file counts only if its record is whole, holds exactly the key that is asked for, and has the file's checksum. All
else is built again: a plan is code for a GPU, and nothing tells a stale one from a good one but its key. Checksums
detect damage, not forgery; the folder is readable by its owner only.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import EngineError
from ..machine import cache_folder
from . import driver, library
from .build import BuildOptions, BuiltEngine, build
from .layers import convolution_dtypes
from .progress import Progress

_RECORD_VERSION = 1
WAITING = "Waiting for another process that builds this engine"


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
    def of(cls, graph: bytes, options: BuildOptions, flavour: str) -> Key:
        """The key of a graph on this machine.

        Raises:
            EngineError: the flavour is missing, or needs a GPU and there is none.
        """
        version = str(library.load(flavour).__version__)
        gpu = driver.gpu_or_none() if library.flavour_named(flavour).builds_without_gpu else driver.gpu()
        return cls(
            flavour=flavour,
            version=version,
            gpu=gpu.name if gpu else "",
            compute_capability=gpu.compute_capability if gpu else "",
            driver=gpu.driver if gpu else "",
            cuda=gpu.cuda_version if gpu else "",
            os=platform.system(),
            architecture=platform.machine(),
            graph_sha256=_sha256(graph),
            options=options.to_dict(),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def name(self) -> str:
        """Name of the engine's files, without a suffix."""
        return f"{self.flavour}-{_sha256(_canonical(self.to_dict()))[:24]}"

    def timings(self) -> dict[str, Any]:
        """The part that a timing cache depends on: TensorRT binds it to the exact version and the GPU."""
        fields = ("flavour", "version", "gpu", "compute_capability", "os", "architecture")
        return {name: value for name, value in self.to_dict().items() if name in fields}


@dataclass(frozen=True)
class CachedEngine:
    """An engine from the cache, or fresh from the builder."""

    plan: bytes
    key: Key
    record: Mapping[str, Any]  # what the .json file holds: versions, warnings, seconds, convolutions, …
    was_built: bool  # by this call


class EngineCache:
    """The engines of this user on this machine. Safe to use from several processes and threads at once.

    Args:
        folder: where to keep them; None: `cache_folder()`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder
        self._engines = _Store(self.folder / "engines", ".plan")
        self._timings = _Store(self.folder / "timings", ".timings")

    def load_or_build(
        self,
        graph: bytes,
        options: BuildOptions | None = None,
        *,
        flavour: str = "tensorrt",
        progress: Progress | None = None,
    ) -> CachedEngine:
        """The engine of a graph: from the cache where it is whole and fits, else built and kept.

        Only one process builds an engine; others that want the same one wait for it and then load it.

        Raises:
            EngineError: as `build`; or the cache folder cannot be written.
        """
        options = options or BuildOptions()
        key = Key.of(graph, options, flavour)
        with self._locked(key.name, progress):
            entry = self._engines.read(key.name, key.to_dict())
            if entry is not None:
                return CachedEngine(entry[0], key, entry[1], was_built=False)
            built = self._build(graph, options, key, progress)
            record = self._engines.write(key.name, key.to_dict(), built.plan, _facts(built))
            return CachedEngine(built.plan, key, record, was_built=True)

    def discard(self, key: Key) -> None:
        """Forget an engine, as after a failed self-test. Nothing happens where there is none."""
        with self._locked(key.name, None):
            self._engines.remove(key.name)

    def _build(self, graph: bytes, options: BuildOptions, key: Key, progress: Progress | None) -> BuiltEngine:
        fields = key.timings()
        name = f"{key.flavour}-{_sha256(_canonical(fields))[:24]}"
        known = self._timings.read(name, fields)
        timings = known[0] if known else None
        built = build(graph, options, flavour=key.flavour, timing_cache=timings, progress=progress)
        if built.timing_cache is not None:  # of two builds that end at once the later wins: timings are only lost
            self._timings.write(name, fields, built.timing_cache, {})
        return built

    @contextmanager
    def _locked(self, name: str, progress: Progress | None) -> Iterator[None]:
        """Hold the lock of an engine. The system releases it when the process ends, however it ends."""
        with _writing(self.folder):
            lock = FileLock(self._engines.prepare() / f"{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if progress is not None:
                    progress(WAITING, 0, 1)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()


class _Store:
    """Files with a record each. What `read` gives was written by `write` and not changed since."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix

    def prepare(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._folder

    def read(self, name: str, key: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]] | None:
        """Content and record, or None where there is nothing that can be trusted."""
        content_path, record_path = self._paths(name)
        try:
            record = json.loads(record_path.read_bytes())
            content = content_path.read_bytes()
        except (OSError, ValueError):  # not there, or no JSON
            return None
        if not isinstance(record, dict) or record.pop("record_sha256", None) != _sha256(_canonical(record)):
            return None
        expected = {"format": _RECORD_VERSION, "key": _as_json(key), "sha256": _sha256(content)}
        return (content, record) if expected.items() <= record.items() else None

    def write(self, name: str, key: Mapping[str, Any], content: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Keep `content`; the record goes last, so that an interrupted write leaves no entry. Returns the record."""
        record = _as_json({"format": _RECORD_VERSION, "key": key, "sha256": _sha256(content), **facts})
        sealed = {**record, "record_sha256": _sha256(_canonical(record))}
        with _writing(self._folder):
            self.remove(name)
            self.prepare()
            content_path, record_path = self._paths(name)
            _write_atomically(content_path, content)
            _write_atomically(record_path, json.dumps(sealed, indent=1).encode())
        return record

    def remove(self, name: str) -> None:
        for path in reversed(self._paths(name)):
            path.unlink(missing_ok=True)

    def _paths(self, name: str) -> tuple[Path, Path]:
        return self._folder / f"{name}{self._suffix}", self._folder / f"{name}.json"


def _facts(built: BuiltEngine) -> dict[str, Any]:
    """What a person wants to know of an engine later; nothing of it decides whether it is loaded."""
    return {
        "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(built.seconds, 1),
        "versions": dict(built.versions),
        "warnings": list(built.warnings),
        "convolutions": convolution_dtypes(built.layers),
    }


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"the engine cache in {folder} cannot be written: {error}",
            fix="free disk space, or set SEGRD_CACHE to a folder that this user can write",
        ) from error


def _write_atomically(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _as_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they come back from a file: tuples are lists, keys are strings."""
    plain: dict[str, Any] = json.loads(json.dumps(fields))
    return plain
