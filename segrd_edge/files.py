"""Files that are either the old one or the complete new one, never half of it."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import OptionError

PART_SUFFIX = ".part"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file through a temporary one beside it: forced to the disk and renamed when the block ends.

    Its folder is made. After an exception the file is what it was, and the temporary one is gone; after a crash
    of the machine a file `.<name>.….part` can be left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{PART_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """`value` as an indented JSON file, by `replacing`. ValueError: it holds NaN or infinity, which JSON has not."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as file:
        file.write(f"{text}\n".encode())


def check_can_write(path: Path) -> None:
    """Make the folder of a file and try to write there: said before the work whose result the file is to hold.

    Raises:
        OptionError: the folder cannot be made or written to, or `path` is itself a folder.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OptionError(
            f"{path} cannot be written: {error.strerror or error}", expected="a file in a folder that may be written to"
        ) from error
