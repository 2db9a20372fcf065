"""Where teacher weights come from, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segrd_edge.errors import TrainingError
from segrd_edge.training import teacher as teacher_module
from segrd_edge.training.backbone import ResNetFeatures
from segrd_edge.training.teacher import apply_weights, load_teacher


def test_a_state_dict_with_more_than_the_teacher_needs(tmp_path: Path) -> None:
    source = ResNetFeatures("resnet18", 4)
    state = source.state_dict() | {"fc.weight": torch.zeros(10, 512)}
    torch.save(state, tmp_path / "w.pth")
    student = ResNetFeatures("resnet18", 3)
    weights = load_teacher(str(tmp_path / "w.pth"), "resnet18")
    apply_weights(student, weights)
    assert torch.equal(student.layer3[1].conv2.weight, source.layer3[1].conv2.weight)
    assert weights.sha256 == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_another_backbone(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    state = ResNetFeatures("resnet34", 3).state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(TrainingError, match="do not fit"):
        apply_weights(ResNetFeatures("wide_resnet50_2", 3), load_teacher(str(path), "wide_resnet50_2"))


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (ran,)  # type: ignore[return-value]

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(TrainingError, match="cannot be read as weights"):
        load_teacher(str(tmp_path / "w.pth"), "resnet18")
    assert not ran.exists()


def test_unknown_teacher() -> None:
    with pytest.raises(TrainingError, match="neither a known name nor a file"):
        load_teacher("imagnet", "resnet18")


def test_shipped_teacher_is_a_resnet18() -> None:
    with pytest.raises(TrainingError, match="--teacher imagenet"):
        load_teacher("edge", "resnet34")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for the download server."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setenv("SEGRD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(teacher_module, "_HUB", folder.as_uri() + "/")
    return folder


def test_a_download_is_verified_and_cached(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(ResNetFeatures("resnet18", 3).state_dict(), hub / "w")
    digest = hashlib.sha256((hub / "w").read_bytes()).hexdigest()
    name = f"resnet18-{digest[:8]}.pth"
    (hub / "w").rename(hub / name)
    monkeypatch.setitem(teacher_module.DOWNLOADS, "imagenet-resnet18", ("resnet18", name))
    assert load_teacher("imagenet", "resnet18").sha256 == digest
    (hub / name).unlink()
    assert load_teacher("imagenet", "resnet18").sha256 == digest  # from the cache
    (tmp_path / "cache" / name).write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="cannot download"):
        load_teacher("imagenet", "resnet18")


def test_a_changed_download_is_refused(hub: Path, tmp_path: Path) -> None:
    (hub / "resnet18-f37072fd.pth").write_bytes(b"something else")
    with pytest.raises(TrainingError, match="SHA-256 starts with f37072fd"):
        load_teacher("imagenet", "resnet18")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network(hub: Path) -> None:
    with pytest.raises(TrainingError, match="--teacher edge"):
        load_teacher("imagenet", "resnet18")
