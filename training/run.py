"""A run: the folder that training leaves behind and that evaluation and export read.

config.json        how it was trained; enough to train it again
data.json          which photographs trained, which were held out, with their checksums
model.safetensors  the weights, teacher included
threshold.json     the threshold from the held-out good images
log.csv            loss and learning rate per step (TensorBoard events beside it)
synthetic/         pictures of synthetic defects, to look at
checkpoint.pt      while training: what `--resume` continues from
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from segrd_edge.errors import TrainingError
from segrd_edge.mapspec import MapSpec
from segrd_edge.preprocess import Preprocess

from .models import build_model

RUN_VERSION = 1


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run trains. Stored as config.json."""

    data: str  # folder of photographs
    model: str = "adps"
    backbone: str = "resnet18"
    options: dict[str, Any] = field(default_factory=dict)  # of the model's constructor; its defaults are published
    teacher: str = "edge"  # name or path, see training.teacher
    defects: str | None = None  # names of training.synthesis, with commas between; None takes the model's own
    textures: str | None = None  # folder for synthetic defects; None cuts them from the training images
    foreground: bool = True  # keep synthetic defects on the object where the background is plain
    rotation: str = "none"  # "none", "small" (±5°) or "full" (quarter turns and ±5°)
    preprocess: Preprocess = field(default_factory=Preprocess)
    steps: int | None = None  # neither these nor minutes: as long as the model is published with
    minutes: float | None = None
    clock: Literal["wall", "processor"] = "wall"  # of `minutes`, see training.fit.Budget
    batch: int = 32
    seed: int = 0
    held_out: float = 0.2  # share of the good images that sets the threshold
    false_reject: float = 0.005  # budget of good parts called defective
    workers: int = 0  # processes that make samples; the result does not depend on it

    @property
    def textures_here(self) -> str | None:
        """The texture folder, unless it has stayed on the machine that trained."""
        return self.textures if self.textures and Path(self.textures).is_dir() else None

    def to_dict(self) -> dict[str, Any]:
        return {"run_version": RUN_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        values = dict(values)
        version = values.pop("run_version", None)
        if version != RUN_VERSION:
            raise TrainingError(
                f"run version {version}", expected=f"{RUN_VERSION}", fix="train again with this release"
            )
        return cls(**{**values, "preprocess": Preprocess.from_dict(values["preprocess"])})


@dataclass
class Run:
    """A finished run, loaded. `model` is in eval mode on the CPU."""

    folder: Path
    config: RunConfig
    model: nn.Module
    data: dict[str, Any]
    threshold: dict[str, Any]
    record: dict[str, Any]  # what training measured: steps, seconds, final losses

    @property
    def preprocess(self) -> Preprocess:
        return self.config.preprocess

    @property
    def map_spec(self) -> MapSpec:
        spec = self.model.map_spec
        assert isinstance(spec, MapSpec)
        return spec

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Load a run.

        Raises:
            TrainingError: not a run, or one that has not finished.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise TrainingError(
                f"{folder} is not a run: it has no config.json",
                expected="a folder that segrd-train wrote",
                fix="segrd-train PHOTOS --out " + str(folder),
            )
        if not (folder / "threshold.json").is_file():
            raise TrainingError(
                f"the run in {folder} has not finished", fix="continue it: segrd-train PHOTOS --out ... --resume"
            )
        config = RunConfig.from_dict(_read_json(folder / "config.json"))
        model = create_model(config)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return cls(
            folder,
            config,
            model.eval(),
            _read_json(folder / "data.json"),
            _read_json(folder / "threshold.json"),
            _read_json(folder / "record.json"),
        )

    def photo_paths(self, purpose: str, data: str | Path | None = None) -> list[Path]:
        """Paths of the photographs of one purpose ("train" or "held_out"); `data` says where the folder is now.

        Raises:
            TrainingError: one of them is gone.
        """
        root = Path(data or self.config.data)
        paths = [root / entry["file"] for entry in self.data[purpose]]
        gone = [p for p in paths if not p.is_file()]
        if gone:
            raise TrainingError(
                f"{len(gone)} of {len(paths)} {purpose} photographs of {self.folder} are gone (first: {gone[0]})",
                expected="the folder that the run was trained on",
                fix="say where it is now with --data FOLDER",
            )
        return paths


def create_model(config: RunConfig) -> nn.Module:
    """The network of a config, with random weights (an `AnomalyModel`)."""
    model = build_model(config.model, backbone=config.backbone, size_hw=config.preprocess.size_hw, **config.options)
    assert isinstance(model, nn.Module)
    return model


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read: {error}", fix="train again; the run is damaged") from error
    if not isinstance(value, dict):
        raise TrainingError(f"{path} holds a {type(value).__name__}", expected="a JSON object")
    return value
