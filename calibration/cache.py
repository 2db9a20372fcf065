"""What calibration frames have shown of a graph, kept in the user's cache folder: the slow part of a calibration.

    <folder>/calibration/observation-<start of the key's SHA-256>.npz   histograms, ranges, scores, maps of a few frames
    <folder>/calibration/….json                                         its record: key, checksums

An entry is a few frames of one graph, never changed: an observation that was interrupted goes on behind the last entry,
and another choice of frames finds those that it shares. The key holds the checksums of the graph and of the frames'
pixels and everything that was asked for, so that a stale entry is never read; a damaged one is made again.

The folder keeps to a size limit: the least recently used entries go first.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segrd_edge.errors import EngineError
from segrd_edge.machine import cache_folder
from segrd_edge.store import Store, canonical, sha256

_logger = logging.getLogger("segrd_edge")

LIMIT_BYTES = 1_000_000_000
_FORMAT = 1  # of the arrays: another one is another key

Arrays = dict[str, npt.NDArray[Any]]


class ObservationCache:
    """The observations of this user on this machine. Several processes may use it at once.

    Nothing of it is an error to calibration: what cannot be read is made again, what cannot be written is lost.

    Args:
        folder: where to keep them; None: `cache_folder()`.
        limit_bytes: how much they may take.
    """

    def __init__(self, folder: Path | None = None, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = (cache_folder() if folder is None else folder) / "calibration"
        self.limit_bytes = limit_bytes
        self._store = Store(self.folder, ".npz")

    def read(self, key: Mapping[str, Any]) -> Arrays | None:
        """What `write` was given for this key, or None."""
        name = _name_of(key)
        found = self._store.read(name, _complete(key))
        if found is None:
            if (self.folder / f"{name}.json").exists():
                _logger.warning("the calibration cache entry %s is damaged, and is made again", self.folder / name)
            return None
        with np.load(io.BytesIO(found[0]), allow_pickle=False) as arrays:
            return dict(arrays)

    def write(self, key: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep `arrays`; a process that is stopped meanwhile leaves no entry."""
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        try:
            self._store.write(_name_of(key), _complete(key), content.getvalue())
        except EngineError as error:
            reason = error.__cause__ or error
            _logger.warning("this observation is not kept, %s cannot be written: %s", self.folder, reason)

    def tidy(self) -> None:
        """Remove entries, the least recently used first, until the rest is within the limit."""
        with suppress(OSError):  # a folder that may only be read
            self._store.remove_unfinished()
            entries = self._store.entries()
            excess = sum(entry.size_bytes for entry in entries) - self.limit_bytes
            for entry in entries:
                if excess <= 0:
                    break
                self._store.remove(entry.name)
                excess -= entry.size_bytes


def _complete(key: Mapping[str, Any]) -> dict[str, Any]:
    return {"observation_format": _FORMAT, **key}


def _name_of(key: Mapping[str, Any]) -> str:
    return f"observation-{sha256(canonical(_complete(key)))[:24]}"
