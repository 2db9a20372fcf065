"""A bundle: the one deployable file (`.segrd`), an ordinary zip whose members are stored, not deflated.

    manifest.json        what it is and how the threshold was chosen (segrd_edge.manifest)
    graphs/fp32.onnx     one deploy graph per precision: fp32 and int8 for a processor,
    graphs/int8.onnx     fp16 and mixed for TensorRT, where the export was for it
    golden.npz           network images and the outputs that they must give
    engines/….plan       ready engines for the lean runtime, where `segrd-build --lean` put them (never by itself)
    SHA256SUMS           of every other member; `unzip part.segrd && sha256sum -c SHA256SUMS` checks by hand

Opening checks everything; nothing in the file is ever executed. Checksums detect damage, not forgery: a bundle is as
trustworthy as the place it came from.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from .errors import BundleError, OptionError
from .files import replacing
from .manifest import SCHEMA_VERSION, Manifest, Precision

SUFFIX = ".segrd"
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_EXPORT_AGAIN = "copy the file again from where it was exported, or export it again with segrd-export"
# What zipfile and zlib raise on damaged files; OSError is left alone, because it says itself what is wrong.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Members are read when asked for and checked against their checksums again at that moment."""

    path: Path
    manifest: Manifest
    sha256: Mapping[str, str]  # member → checksum, as listed in SHA256SUMS

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Check a `.segrd` file from end to end.

        Raises:
            BundleError: no such file, not a bundle, damaged, edited, or written by a newer segrd-edge. It names the
                member and what to do.
        """
        path = Path(path)
        with _archive(path) as archive:
            sums = _check_members(path, archive)
            for member, sha256 in sums.items():
                _read_checked(path, archive, member, sha256)
            manifest = _parse_manifest(path, _read(path, archive, MANIFEST))
        for member in manifest.files:
            if member not in sums:
                raise _error(path, member, "is named in the manifest but not in the bundle")
        return cls(path, manifest, sums)

    def read(self, member: str) -> bytes:
        """One member's bytes, checked.

        Raises:
            BundleError: no such member, or the file changed since it was opened.
        """
        if member not in self.sha256:
            raise BundleError(f"{self.path}: has no member {member}", expected=", ".join(self.sha256))
        with _archive(self.path) as archive:
            return _read_checked(self.path, archive, member, self.sha256[member])

    def graph(self, precision: str) -> bytes:
        """The serialised ONNX deploy graph of a precision.

        Raises:
            OptionError: the bundle has no graph of this precision.
        """
        return self.read(self.manifest.graphs[self.precision(precision)].file)

    def precision(self, name: str) -> Precision:
        """`name`, if the bundle has a graph of this precision.

        Raises:
            OptionError: it has none.
        """
        for precision in self.manifest.graphs:
            if precision == name:
                return precision
        raise OptionError(
            f"{self.path}: no {name} graph",
            expected="one of " + ", ".join(self.manifest.graphs),
            fix="export again with that precision, for example segrd-export --int8",
        )

    def golden(self) -> dict[str, npt.NDArray[Any]]:
        """Golden images and outputs: `images` uint8 N×h×w×3 BGR; `score_fp32` float32 N and `map_fp32` float32
        N×h×w, and the same for every other precision, as ONNX Runtime computed them at export. A graph that takes
        frames was given `selftest.golden_frame` of the images."""
        member = self.manifest.golden.file
        try:
            with np.load(io.BytesIO(self.read(member)), allow_pickle=False) as arrays:
                golden = {name: arrays[name] for name in arrays.files}
        except _DAMAGED as error:
            raise _error(self.path, member, f"is not an array file: {error}") from error
        wanted = ["images", *(f"{kind}_{name}" for name in self.manifest.graphs for kind in ("score", "map"))]
        missing = [name for name in wanted if name not in golden]
        if missing:
            raise _error(self.path, member, f"lacks the arrays {', '.join(missing)}")
        return golden


def write_bundle(path: str | Path, manifest: Manifest, members: Mapping[str, bytes]) -> None:
    """Write a bundle atomically: a file of this name is either the old one or the complete new one.

    Args:
        path: where to; must end in `.segrd`. An existing file is replaced.
        members: name → bytes of every member but manifest.json and SHA256SUMS, which are made here.

    Raises:
        OptionError: a wrong suffix or an impossible member name.
        BundleError: the manifest names a member that is not given.
    """
    path = Path(path)
    check_suffix(path)
    contents = {MANIFEST: manifest.to_json(), **members}
    for member in contents:
        if not _is_safe(member) or member == SUMS:
            raise OptionError(f"{member!r} cannot name a member", expected="a relative path without ..")
    for member in manifest.files:
        if member not in contents:
            raise BundleError(f"{path}: the manifest names {member}, which is not among the members")
    contents[SUMS] = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {member}\n" for member, content in contents.items()
    ).encode()
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for member, content in contents.items():
            info = zipfile.ZipInfo(member)  # dated 1980, so that equal contents give equal files
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)


def check_suffix(path: Path) -> None:
    """Raise OptionError where `write_bundle` would for the name."""
    if path.suffix != SUFFIX:
        raise OptionError(f"{path}: a bundle's name ends in {SUFFIX}", fix=f"name it {path.with_suffix(SUFFIX)}")


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        raise BundleError(f"{path}: no such file", fix="check the path; segrd-export writes bundles")
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise BundleError(
            f"{path}: not a bundle, or cut short ({path.stat().st_size} bytes: {error})",
            expected="a .segrd file as segrd-export writes it",
            fix=_EXPORT_AGAIN,
        ) from error
    with archive:
        yield archive


def _check_members(path: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    """The checksums that SHA256SUMS lists, after checking that it lists exactly the members that are there."""
    members = archive.namelist()
    for wanted in (MANIFEST, SUMS):
        if wanted not in members:
            raise _error(path, wanted, "is missing: the file is cut short, repacked, or another kind of zip")
    for info in archive.infolist():
        if not _is_safe(info.filename):
            raise _error(path, repr(info.filename), "is no name for a member")
        if info.compress_type != zipfile.ZIP_STORED or members.count(info.filename) > 1:
            raise _error(path, info.filename, "is compressed or there twice, so the file was repacked")
    sums = _parse_sums(path, _read(path, archive, SUMS))
    for member in sorted(sums.keys() - set(members)):
        raise _error(path, member, "is missing")
    for member in sorted(set(members) - sums.keys() - {SUMS}):
        raise _error(path, member, f"is not listed in {SUMS}, so it was added later")
    return sums


def _parse_sums(path: Path, content: bytes) -> dict[str, str]:
    sums = {}
    for line in content.decode("utf-8", "replace").splitlines():
        match = _SUM_LINE.fullmatch(line)
        if match is None or match[2] in sums:
            raise _error(path, SUMS, f"has a line that is no checksum: {line[:80]!r}")
        sums[match[2]] = match[1]
    return sums


def _read(path: Path, archive: zipfile.ZipFile, member: str) -> bytes:
    try:
        return archive.read(member)
    except KeyError as error:
        raise _error(path, member, "is missing: the file was replaced after it was opened") from error
    except _DAMAGED as error:
        raise _error(path, member, f"is damaged: {error}") from error


def _read_checked(path: Path, archive: zipfile.ZipFile, member: str, sha256: str) -> bytes:
    content = _read(path, archive, member)
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise _error(path, member, f"was changed: its SHA-256 is {got[:12]}…, {SUMS} says {sha256[:12]}…")
    return content


def _parse_manifest(path: Path, content: bytes) -> Manifest:
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise _error(path, MANIFEST, f"is not JSON: {error}") from error
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise BundleError(
            f"{path}: {MANIFEST} has schema version {version!r}",
            expected=f"schema version {SCHEMA_VERSION}, which this segrd-edge reads",
            fix="pip install --upgrade segrd-edge" if newer else _EXPORT_AGAIN,
        )
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise _error(path, MANIFEST, f"is not valid: {problems}") from error


def _error(path: Path, member: str, problem: str) -> BundleError:
    return BundleError(f"{path}: {member} {problem}", expected="the bundle as it was exported", fix=_EXPORT_AGAIN)


def _is_safe(member: str) -> bool:
    """Whether a member's name stays inside the folder it is unzipped in, on any system."""
    parts = PurePosixPath(member).parts
    plain = bool(parts) and "/".join(parts) == member and not re.search(r"[\\:\x00-\x1f]", member)
    return plain and ".." not in parts and parts[0] != "/"
