"""Files with a sealed record each: what is read back was written here and not changed since.

A record is JSON with the key that it answers to, the checksum of its content and one of itself. Checksums detect
damage, not forgery; folders are readable by their owner only.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import EngineError
from .files import PART_SUFFIX, replacing

_RECORD_VERSION = 1
_RECORD_SUFFIX = ".json"
_PART_AGE_S = 24 * 3600  # an unfinished file this old belongs to a process that was killed


@dataclass(frozen=True)
class StoredEntry:
    """What lies in a store under one name."""

    name: str
    size_bytes: int
    last_used: float  # seconds since 1970, of the last read or write
    record: Mapping[str, Any] | None  # None where it cannot be trusted


class Store:
    """Contents with records, in one folder.

    Args:
        suffix: of the content files; None: records alone.
    """

    def __init__(self, folder: Path, suffix: str | None) -> None:
        self.folder, self._suffix = folder, suffix

    def prepare(self) -> Path:
        """The folder, made where it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.folder

    def read(self, name: str, key: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]] | None:
        """Content (empty where the store has records alone) and record, or None where nothing can be trusted."""
        record = self._unsealed(name)
        if record is None or record.get("key") != as_json(key):
            return None
        try:
            content = b"" if self._suffix is None else self._content_path(name).read_bytes()
        except OSError:
            return None
        if record.get("sha256") != sha256(content):
            return None
        with suppress(OSError):  # a cache that may only be read still serves
            os.utime(self._record_path(name))
        return content, record

    def write(
        self, name: str, key: Mapping[str, Any], content: bytes = b"", facts: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Keep `content`; the record goes last, so that an interrupted write leaves no entry. Returns the record.

        Raises:
            EngineError: the folder cannot be written.
        """
        record = as_json({"format": _RECORD_VERSION, "key": key, "sha256": sha256(content), **(facts or {})})
        with writing(self.folder):
            self.remove(name)
            self.prepare()
            if self._suffix is not None:
                _replace(self._content_path(name), content)
            self._seal(name, record)
        return record

    def annotate(self, name: str, record: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Add facts to a record that `read` or `write` gave, and seal it again. Returns the new record.

        Raises:
            EngineError: the folder cannot be written.
        """
        annotated = as_json({**record, **facts})
        with writing(self.folder):
            self._seal(name, annotated)
        return annotated

    def remove(self, name: str) -> None:
        """Remove an entry, its record first. Nothing happens where there is none."""
        self._record_path(name).unlink(missing_ok=True)
        if self._suffix is not None:
            self._content_path(name).unlink(missing_ok=True)

    def entries(self) -> list[StoredEntry]:
        """What lies here, least recently used first. Contents are not read: only `read` finds a damaged one."""
        found = []
        for name in sorted({path.stem for path in self._files()}):
            sizes, times = [], [0.0]
            for path in self._paths(name):
                with suppress(OSError):  # removed meanwhile by another process
                    status = path.stat()
                    sizes.append(status.st_size)
                    times.append(status.st_mtime)
            whole = len(sizes) == len(self._paths(name))
            found.append(StoredEntry(name, sum(sizes), max(times), self._unsealed(name) if whole else None))
        return sorted(found, key=lambda entry: (entry.last_used, entry.name))

    def remove_unfinished(self) -> None:
        """Remove what killed processes left half written."""
        for path in self.folder.glob(f".*{PART_SUFFIX}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _PART_AGE_S:
                    path.unlink()

    def _files(self) -> list[Path]:
        suffixes = {_RECORD_SUFFIX, self._suffix}
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if path.suffix in suffixes and not path.name.startswith(".")]

    def _paths(self, name: str) -> list[Path]:
        return (
            [self._record_path(name)] if self._suffix is None else [self._record_path(name), self._content_path(name)]
        )

    def _record_path(self, name: str) -> Path:
        return self.folder / f"{name}{_RECORD_SUFFIX}"

    def _content_path(self, name: str) -> Path:
        return self.folder / f"{name}{self._suffix}"

    def _seal(self, name: str, record: Mapping[str, Any]) -> None:
        sealed = {**record, "record_sha256": sha256(canonical(record))}
        _replace(self._record_path(name), json.dumps(sealed, indent=1).encode())

    def _unsealed(self, name: str) -> dict[str, Any] | None:
        """The record, or None where there is none, it was changed, or it is of another format."""
        try:
            record = json.loads(self._record_path(name).read_bytes())
        except (OSError, ValueError):  # not there, or no JSON
            return None
        if not isinstance(record, dict) or record.pop("record_sha256", None) != sha256(canonical(record)):
            return None
        return record if record.get("format") == _RECORD_VERSION else None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what can go wrong with the disk into an EngineError."""
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"the engine cache in {folder} cannot be written: {error}",
            fix="free disk space, or set SEGRD_CACHE to a folder that this user can write",
        ) from error


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def canonical(fields: Mapping[str, Any]) -> bytes:
    """The same bytes for the same fields, whatever their order."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def as_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they come back from a file: tuples are lists, keys are strings."""
    plain: dict[str, Any] = json.loads(json.dumps(fields))
    return plain


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)
