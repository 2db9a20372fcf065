"""Teacher weights: shipped in the wheel, downloaded from the official address, or a file of the user's.

Nothing executable is loaded: `.pth` files are read with `weights_only=True`, others are safetensors, and every
download's checksum is verified before use.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segrd_edge.errors import TrainingError
from segrd_edge.files import replacing
from segrd_edge.machine import cache_folder

SHIPPED = "edge"  # distilled by training/distill_teacher.py
SHIPPED_FILE = "resnet18-edge.safetensors"
_HUB = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class TeacherWeights:
    """Where a run's teacher came from."""

    name: str
    sha256: str
    state: dict[str, Tensor]


# torchvision's ImageNet weights. The eight hexadecimal digits in the file name are the start of its SHA-256
# (PyTorch's own # naming rule, checked by torch.hub as well).
DOWNLOADS: dict[str, tuple[str, str]] = {
    "imagenet": ("resnet18", "resnet18-f37072fd.pth"),
    "imagenet-resnet18": ("resnet18", "resnet18-f37072fd.pth"),
    "imagenet-resnet34": ("resnet34", "resnet34-b627a593.pth"),
    "imagenet-wide_resnet50_2": ("wide_resnet50_2", "wide_resnet50_2-95faca4d.pth"),
}


def load_teacher(teacher: str, backbone: str) -> TeacherWeights:
    """The weights that `--teacher` names.

    Args:
        teacher: "edge" (shipped, ResNet-18), "imagenet" (torchvision's weights for `backbone`, downloaded once), or a
            path to a torchvision-style state dict (.pth, .pt or .safetensors) that may hold only the stages the model
            uses.

    Raises:
        TrainingError: unknown name, no such file, no network, wrong checksum, or weights for another backbone.
    """
    if teacher == SHIPPED:
        if backbone != "resnet18":
            raise TrainingError(
                f"the shipped teacher {SHIPPED!r} is a resnet18, the backbone asked for is {backbone}",
                fix=f"--teacher imagenet (downloads {backbone}) or --teacher PATH",
            )
        return _read(SHIPPED, Path(str(files("segrd_edge.training") / "teachers" / SHIPPED_FILE)))
    name = f"imagenet-{backbone}" if teacher == "imagenet" else teacher
    if name in DOWNLOADS:
        wanted, file = DOWNLOADS[name]
        if wanted != backbone:
            raise TrainingError(
                f"teacher {name!r} is a {wanted}, the backbone asked for is {backbone}",
                fix=f"--backbone {wanted}",
            )
        return _read(name, _download(file))
    path = Path(teacher).expanduser()
    if not path.is_file():
        raise TrainingError(
            f"--teacher {teacher!r} is neither a known name nor a file",
            expected=f"{SHIPPED!r}, " + ", ".join(repr(n) for n in DOWNLOADS) + ", or a path to a state dict",
        )
    return _read(path.name, path)


def apply_weights(teacher: nn.Module, weights: TeacherWeights) -> None:
    """Load a state dict that may hold more than the teacher has (layer4, fc), but must hold all that it has."""
    wanted = teacher.state_dict()
    state = {k: v for k, v in weights.state.items() if k in wanted}
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    wrong = [k for k, v in state.items() if v.shape != wanted[k].shape]
    if missing or wrong:
        detail = f"{len(missing)} tensors are missing (first: {missing[0]})" if missing else ""
        if wrong:
            shapes = f"{tuple(state[wrong[0]].shape)} instead of {tuple(wanted[wrong[0]].shape)}"
            detail = f"{wrong[0]} has shape {shapes}"
        raise TrainingError(
            f"teacher weights {weights.name!r} do not fit: {detail}",
            expected="torchvision's key names for conv1, bn1, layer1, layer2, layer3",
            fix="check --backbone, or give the weights of that backbone",
        )
    teacher.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=False)


def _read(name: str, path: Path) -> TeacherWeights:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise a dozen kinds; all of them mean this
        raise TrainingError(
            f"{path} cannot be read as weights: {error}",
            expected="a state dict of tensors (.safetensors, or .pth that loads with weights_only=True)",
            fix="save it with torch.save(model.state_dict(), path)",
        ) from error
    tensors: Any = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise TrainingError(f"{path} holds no state dict", expected="a flat dictionary of tensors")
    return TeacherWeights(name, sha256, {k.removeprefix("module."): v for k, v in tensors.items()})


def _download(file: str) -> Path:
    target = cache_folder() / file
    start = file.rsplit("-", 1)[1].split(".")[0]
    if target.is_file() and _sha256(target).startswith(start):
        return target
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(_HUB + file, timeout=30) as response, replacing(target) as out:
            while chunk := response.read(1 << 20):
                digest.update(chunk)
                out.write(chunk)
            if not digest.hexdigest().startswith(start):
                raise TrainingError(
                    f"{_HUB + file} arrived with SHA-256 {digest.hexdigest()[:16]}…",
                    expected=f"a file whose SHA-256 starts with {start}",
                    fix="download again; a proxy may have changed the file",
                )
    except (urllib.error.URLError, OSError) as error:
        raise TrainingError(
            f"cannot download {_HUB + file}: {error}",
            expected="a network connection, or the file in the cache",
            fix=f"--teacher {SHIPPED} (shipped, needs no network), or copy the file to {target}",
        ) from error
    return target


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
