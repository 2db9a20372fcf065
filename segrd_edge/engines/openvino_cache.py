"""Graphs that OpenVINO compiled, kept in the user's cache folder: the next start reads what this one computed.

    <folder>/openvino/<start of the key's SHA-256>.blob    the compiled graph
    <folder>/openvino/….json                               its record: key, checksum of the blob, of itself

Compiling INT8 takes OpenVINO most of a start, and reading it back a fifth of that (docs/latency.md). A blob counts
only if its record is whole, holds exactly the key that is asked for, and has the blob's checksum; else it is made
again. Where there is no folder, or it cannot be written, nothing is kept. The least recently used blobs go where all
together exceed the limit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import machine
from ..errors import EngineError
from ..store import Store, canonical, sha256
from . import openvino_saturation, openvino_uint8

_logger = logging.getLogger("segrd_edge")
_LIMIT_BYTES = 512 * 2**20
_NAME_LENGTH = 32


def key_of(graph_sha256: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a compiled graph depends on."""
    cpu = machine.cpu()
    rewriting = [Path(str(module.__file__)).read_bytes() for module in (openvino_uint8, openvino_saturation)]
    return {
        "graph": graph_sha256,
        "openvino": machine.package_version("openvino"),
        "settings": dict(settings),
        "rewriting": sha256(b"".join(rewriting)),
        "cpu": {name: cpu[name] for name in ("model", "architecture", "flags", "usable_cores")},
    }


def read(key: Mapping[str, Any]) -> bytes | None:
    """The blob that was kept under a key, None where there is none that can be trusted."""
    with suppress(EngineError):
        found = _store().read(_name(key), key)
        return None if found is None else found[0]
    return None


def keep(key: Mapping[str, Any], blob: bytes) -> None:
    """Write a blob, and remove others until the folder keeps to its limit."""
    try:
        store = _store()
        store.write(_name(key), key, blob)
    except EngineError as error:
        _logger.info("what OpenVINO compiled is not kept: %s", error)
        return
    store.remove_unfinished()
    entries = store.entries()
    total = sum(entry.size_bytes for entry in entries)
    for entry in entries[:-1]:  # never the one just written
        if total <= _LIMIT_BYTES:
            break
        with suppress(OSError):  # another user's
            store.remove(entry.name)
        total -= entry.size_bytes


def forget(key: Mapping[str, Any]) -> None:
    """Remove what is kept under a key."""
    with suppress(EngineError, OSError):  # of a folder that may only be read; it is refused again, and made again
        _store().remove(_name(key))


def _store() -> Store:
    """Raises EngineError where there is no cache folder."""
    return Store(machine.cache_folder() / "openvino", ".blob")


def _name(key: Mapping[str, Any]) -> str:
    return sha256(canonical(key))[:_NAME_LENGTH]
