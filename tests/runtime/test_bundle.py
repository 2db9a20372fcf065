from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segrd_edge.bundle import Bundle, write_bundle
from segrd_edge.errors import BundleError, OptionError
from segrd_edge.manifest import Manifest

MEMBERS = ("manifest.json", "graphs/fp32.onnx", "graphs/int8.onnx", "golden.npz")


def repack(source: Path, target: Path, changes: dict[str, bytes | None], *, sums: bool, method: int = 0) -> Path:
    """Copy a bundle member by member: None drops one, bytes replace or add one; `sums` makes the checksums match."""
    with zipfile.ZipFile(source) as archive:
        contents: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    contents.update(changes)
    kept = {name: content for name, content in contents.items() if content is not None}
    if sums:
        lines = [f"{hashlib.sha256(c).hexdigest()}  {n}\n" for n, c in kept.items() if n != "SHA256SUMS"]
        kept["SHA256SUMS"] = "".join(lines).encode()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
    return target


def edited_manifest(source: Path, **changes: Any) -> bytes:
    with zipfile.ZipFile(source) as archive:
        return json.dumps({**json.loads(archive.read("manifest.json")), **changes}).encode()


def test_opens_and_reads_what_was_written(bundle_path: Path, deploy_graph: Callable[..., bytes]) -> None:
    bundle = Bundle.open(bundle_path)
    assert bundle.graph("fp32") == deploy_graph()
    assert bundle.graph("int8") == deploy_graph(int8=True)
    assert bundle.manifest.graphs["fp32"].threshold.value == 0.3
    golden = bundle.golden()
    assert golden["images"].shape == (2, 64, 96, 3)
    assert golden["score_int8"].dtype == "float32"


def test_can_be_unzipped_and_checked_by_hand(bundle_path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle_path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        archive.extractall(tmp_path)
    checker = shutil.which("sha256sum")
    if checker is None:
        pytest.skip("no sha256sum on this machine")
    done = subprocess.run([checker, "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert sorted(line.partition(":")[0] for line in done.stdout.splitlines()) == sorted(MEMBERS)


def test_equal_contents_give_equal_files(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    assert make_bundle(tmp_path / "a.segrd").read_bytes() == make_bundle(tmp_path / "b.segrd").read_bytes()


@pytest.mark.parametrize("member", [*MEMBERS, "SHA256SUMS"])
@pytest.mark.parametrize("position", [0.0, 0.5, 0.999])
def test_a_flipped_bit_in_any_member_is_found(bundle_path: Path, tmp_path: Path, member: str, position: float) -> None:
    with zipfile.ZipFile(bundle_path) as archive:
        info = archive.getinfo(member)
        first = info.header_offset + 30 + len(member.encode())  # a stored member follows its 30-byte header and name
    content = bytearray(bundle_path.read_bytes())
    content[first + int(position * info.file_size)] ^= 1
    damaged = tmp_path / "damaged.segrd"
    damaged.write_bytes(content)
    with pytest.raises(BundleError, match=member) as caught:
        Bundle.open(damaged)
    assert "segrd-export" in caught.value.fix


# Without its last bytes, the zip's own directory, the file ends in golden.npz, which is a zip with a directory itself.
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(bundle_path: Path, tmp_path: Path, kept: float) -> None:
    content = bundle_path.read_bytes()
    short = tmp_path / "short.segrd"
    short.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(BundleError, match="cut short"):
        Bundle.open(short)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        Bundle.open(tmp_path / "absent.segrd")


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.segrd"
    text.write_text("not a zip " * 100)
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(text)


def test_a_foreign_zip_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.segrd"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("report.txt", "hello")
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Bundle.open(foreign)


@pytest.mark.parametrize("member", [*MEMBERS, "SHA256SUMS"])
def test_a_missing_member_is_named(bundle_path: Path, tmp_path: Path, member: str) -> None:
    with pytest.raises(BundleError, match=f"{member} is missing"):
        Bundle.open(repack(bundle_path, tmp_path / "x.segrd", {member: None}, sums=False))


@pytest.mark.parametrize("member", ["graphs/int8.onnx", "golden.npz"])
def test_a_member_that_only_the_manifest_names_is_named(bundle_path: Path, tmp_path: Path, member: str) -> None:
    with pytest.raises(BundleError, match=f"{member} is named in the manifest but not in the bundle"):
        Bundle.open(repack(bundle_path, tmp_path / "x.segrd", {member: None}, sums=True))


def test_an_added_member_is_named(bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"extra\.txt is not listed in SHA256SUMS"):
        Bundle.open(repack(bundle_path, tmp_path / "x.segrd", {"extra.txt": b"x"}, sums=False))


@pytest.mark.parametrize("name", ["../outside", "/absolute", "a/../b", "c:evil", "back\\slash", "a//b"])
def test_unsafe_member_names_are_refused(
    bundle_path: Path, tmp_path: Path, manifest_fields: Callable[..., dict[str, Any]], name: str
) -> None:
    with pytest.raises(BundleError, match="is no name for a member"):
        Bundle.open(repack(bundle_path, tmp_path / "x.segrd", {name: b"x"}, sums=True))
    with pytest.raises(OptionError, match="cannot name a member"):
        write_bundle(tmp_path / "y.segrd", Manifest(**manifest_fields()), {name: b"x"})


def test_a_compressed_copy_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="repacked"):
        Bundle.open(repack(bundle_path, tmp_path / "x.segrd", {}, sums=True, method=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("changes", "message", "fix"),
    [
        ({"schema_version": 2}, "schema version 2", "pip install --upgrade segrd-edge"),
        ({"schema_version": None}, "schema version None", "segrd-export"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted", "segrd-export"),
        ({"product": 3}, "product: Input should be a valid string", "segrd-export"),
        ({"default_precision": "fp16"}, "default_precision fp16 has no graph", "segrd-export"),
        ({"preprocess": {"size_hw": [63, 64]}}, "preprocess: Value error, network size 63x64", "segrd-export"),
        ({"map_spec": {"unknown": 1}}, "map_spec: Value error", "segrd-export"),
        ({"map_spec": {"activation": "relu"}}, "map_spec: Value error, activation='relu'", "segrd-export"),
        ({"map_spec": {"sigma_px": -1}}, "map_spec: Value error, sigma_px=-1", "segrd-export"),
        ({"map_spec": {"top_pixels": 0}}, "map_spec: Value error, top_pixels=0", "segrd-export"),
    ],
)
def test_an_invalid_manifest_says_what_is_wrong(
    bundle_path: Path, tmp_path: Path, changes: dict[str, Any], message: str, fix: str
) -> None:
    content = edited_manifest(bundle_path, **changes)
    with pytest.raises(BundleError) as caught:
        Bundle.open(repack(bundle_path, tmp_path / "x.segrd", {"manifest.json": content}, sums=True))
    assert "manifest.json" in caught.value.what
    assert message in caught.value.what
    assert fix in caught.value.fix


def test_a_manifest_that_is_no_json_is_named(bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json is not JSON"):
        Bundle.open(repack(bundle_path, tmp_path / "x.segrd", {"manifest.json": b"{"}, sums=True))


def test_golden_never_unpickles(bundle_path: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.array([{"a": 1}], dtype=object))
    bundle = Bundle.open(repack(bundle_path, tmp_path / "x.segrd", {"golden.npz": buffer.getvalue()}, sums=True))
    with pytest.raises(BundleError, match=r"golden\.npz is not an array file"):
        bundle.golden()


def test_golden_names_missing_arrays(bundle_path: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((1, 64, 96, 3), np.uint8), score_fp32=np.zeros(1))
    bundle = Bundle.open(repack(bundle_path, tmp_path / "x.segrd", {"golden.npz": buffer.getvalue()}, sums=True))
    with pytest.raises(BundleError, match="lacks the arrays map_fp32, score_int8, map_int8"):
        bundle.golden()


@pytest.mark.parametrize(("content", "what"), [(b"other", "was changed"), (None, "is missing: the file was replaced")])
def test_members_are_checked_again_when_read(
    bundle_path: Path, tmp_path: Path, content: bytes | None, what: str
) -> None:
    path = tmp_path / "part.segrd"
    shutil.copy(bundle_path, path)
    bundle = Bundle.open(path)
    repack(bundle_path, path, {"graphs/fp32.onnx": content}, sums=True)
    with pytest.raises(BundleError, match=rf"graphs/fp32\.onnx {what}"):
        bundle.graph("fp32")


def test_a_precision_that_is_not_there_lists_what_is(bundle_path: Path) -> None:
    with pytest.raises(OptionError, match="no fp16 graph") as caught:
        Bundle.open(bundle_path).graph("fp16")
    assert caught.value.expected == "one of fp32, int8"


def test_a_failed_write_leaves_the_old_bundle(
    make_bundle: Callable[..., Path],
    manifest_fields: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = make_bundle(tmp_path / "part.segrd")
    before = path.read_bytes()

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        make_bundle(path, product="other")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["part.segrd"]


def test_write_refuses_what_could_not_be_opened(manifest_fields: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    manifest = Manifest(**manifest_fields())
    with pytest.raises(BundleError, match=r"names graphs/fp32\.onnx, which is not among the members"):
        write_bundle(tmp_path / "part.segrd", manifest, {})
    with pytest.raises(OptionError, match=r"ends in \.segrd"):
        write_bundle(tmp_path / "part.zip", manifest, {})


def test_threshold_record_takes_what_training_gives(manifest_fields: Callable[..., dict[str, Any]]) -> None:
    threshold = pytest.importorskip("segrd_edge.training.threshold")
    scores = np.random.default_rng(0).beta(2, 20, 60)
    chosen = threshold.choose_threshold(scores, defect_scores=[0.2, 0.9]).to_dict()
    fields = manifest_fields()
    fields["graphs"]["fp32"]["threshold"] = chosen
    record = Manifest(**fields).graphs["fp32"].threshold
    assert record.value == chosen["value"]
    assert record.n_good == 60
