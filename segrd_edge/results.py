"""The folder that `segrd-inspect --out` fills: results.jsonl, overlays, and results.csv on request.

Lines go to results.jsonl.part and get their final name when the run ends, so that a file called results.jsonl is always
a complete run.
"""

from __future__ import annotations

import csv
import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from .errors import OptionError, SegrdError
from .frames import IMAGE_SUFFIXES
from .inspection import Inspection

OverlayChoice = Literal["all", "defects", "none"]
LOG, TABLE, OVERLAYS = "results.jsonl", "results.csv", "overlays"
LOGS = (LOG, f"{LOG}.part")  # a folder with one of them holds results
_COLUMNS = ("name", "verdict", "score", "threshold", "regions", "largest_area_px", "total_ms", "error")
_JPEG_QUALITY = 92


class ResultsFolder:
    """A context manager; leaving it without an error completes the logs.

    Args:
        folder: made if missing.
        overlays: which frames get an overlay, `overlays/<name>.jpg`.
        with_csv: also write results.csv.
        force: replace the results of an earlier run: when this one is complete, what is left of the earlier goes, its
            results.csv and the overlays that its log names.

    Raises:
        OptionError: the folder holds an earlier run and `force` is not set, or an unknown `overlays`.
    """

    def __init__(self, folder: Path, *, overlays: str = "all", with_csv: bool = False, force: bool = False) -> None:
        if overlays not in get_args(OverlayChoice):
            raise OptionError(f"overlays={overlays!r}", expected=", ".join(get_args(OverlayChoice)))
        if (folder / LOG).exists() and not force:
            raise OptionError(
                f"{folder / LOG} exists: the folder holds the results of an earlier run",
                expected="a new folder, so that no results are lost",
                fix="name another --out, or add --force to replace them",
            )
        self._folder = folder
        self._overlays = overlays
        self._names = (LOG, TABLE) if with_csv else (LOG,)
        self._files: list[IO[str]] = []
        self._drawn: set[PurePosixPath] = set()
        self._closing = ExitStack()

    def __enter__(self) -> ResultsFolder:
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in self._names:
            part = open(self._folder / f"{name}.part", "w", encoding="utf-8", newline="")
            self._files.append(self._closing.enter_context(part))
        if TABLE in self._names:
            csv.writer(self._files[1]).writerow(_COLUMNS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()
        if kind is None:
            self._remove_earlier()
            for name in self._names:
                os.replace(self._folder / f"{name}.part", self._folder / name)

    def add(self, name: str, result: Inspection | SegrdError, overlay: npt.NDArray[np.uint8] | None = None) -> None:
        """Log one frame; `overlay` is written where `wants_overlay` said so."""
        fields: dict[str, Any] = {"name": name}
        if isinstance(result, SegrdError):
            fields["error"] = str(result)
        else:
            fields.update(result.to_dict(), overlay=None if overlay is None else self._write(name, overlay))
        self._files[0].write(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")
        if TABLE in self._names:
            csv.writer(self._files[1]).writerow(_row(name, result))

    def wants_overlay(self, result: Inspection | SegrdError) -> bool:
        if isinstance(result, SegrdError):
            return False
        return self._overlays == "all" or (self._overlays == "defects" and result.is_defect)

    def _remove_earlier(self) -> None:
        if not (self._folder / LOG).exists():
            return
        for overlay in _overlays_of(self._folder / LOG) - self._drawn:
            (self._folder / overlay).unlink(missing_ok=True)
        (self._folder / TABLE).unlink(missing_ok=True)  # this run's own still has its other name

    def _write(self, name: str, overlay: npt.NDArray[np.uint8]) -> str:
        stem, dot, suffix = name.rpartition(".")
        is_file = f"{dot}{suffix}".lower() in IMAGE_SUFFIXES  # frames of a video have no suffix to lose
        relative = PurePosixPath(OVERLAYS, f"{stem if is_file else name}.jpg")
        if relative in self._drawn:  # a.png beside a.bmp
            relative = PurePosixPath(OVERLAYS, f"{name}.jpg")
        self._drawn.add(relative)
        target = self._folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        encoded, content = cv2.imencode(".jpg", overlay, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        if not encoded:
            raise SegrdError(f"{target}: OpenCV cannot encode this overlay as JPEG")
        target.write_bytes(content.tobytes())
        return str(relative)


def _overlays_of(log: Path) -> set[PurePosixPath]:
    """The overlays that a log names, below `overlays/` and nowhere else; lines that are none say nothing."""
    found = set()
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError, TypeError, KeyError):
                path = PurePosixPath(json.loads(line)["overlay"])
                if path.parts[:1] == (OVERLAYS,) and ".." not in path.parts:
                    found.add(path)
    return found


def _row(name: str, result: Inspection | SegrdError) -> tuple[Any, ...]:
    if isinstance(result, SegrdError):
        return (name, *[""] * (len(_COLUMNS) - 2), result.what)
    largest = max((region.area_px for region in result.regions), default=0)
    figures = (
        result.score,
        result.threshold,
        len(result.regions) + result.regions_left_out,
        largest,
        result.timings_ms["total"],
    )
    return (name, result.verdict, *figures, "")
