"""From a folder of photographs to a run: check, split, train, set the threshold."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from segrd_edge.errors import DataError, OptionError, TrainingError
from segrd_edge.files import write_json
from segrd_edge.frames import read_frame

from .data import Photo, PhotoFolder, check, file_sha256, scan
from .fit import Budget, Fit, Listener, Position, StepReport
from .models import AnomalyModel, options_for_minutes, own_defects, published_batch, published_steps
from .predict import predict
from .run import Run, RunConfig, create_model
from .samples import GoodImages, Rotation, TrainingSamples
from .synthesis import SelfTextures, TextureFolder, Textures, create_defects
from .teacher import apply_weights, load_teacher
from .threshold import choose_threshold

SYNTHETIC_PICTURES = 12
MINIMUM_BATCH = 2


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    skip_bad: bool = False,
    listener: Listener = lambda report: None,
    stop_after: int | None = None,
    said: Callable[[str], None] = lambda line: None,
) -> Run | None:
    """Train a detector from photographs of good parts.

    Args:
        config: what to train on what, for how long.
        out: folder of the run.
        resume: continue the unfinished run in `out` (its own config counts, not `config`).
        skip_bad: go on without the files that the data check refuses; a resumed run keeps its first choice.
        listener: called with a StepReport after every step.
        stop_after: stop after so many steps, as an interruption would; None is returned then.
        said: called with a line of progress between the stages.

    Raises:
        DataError: the data check found problems and `skip_bad` is not set, or too few good images.
        TrainingError: `out` holds a run already and `resume` is not set, nothing to resume, or other photographs.
    """
    out = Path(out)
    config = _open_run(config, out, resume)
    as_published = config.steps is None and config.minutes is None
    budget = None if as_published else Budget(steps=config.steps, minutes=config.minutes, clock=config.clock)
    if config.batch < MINIMUM_BATCH:
        raise OptionError(
            f"a batch of {config.batch}",
            expected=f"at least {MINIMUM_BATCH}: BatchNorm after global pooling sees one value per image",
            fix=f"--batch {MINIMUM_BATCH} or more",
        )
    said(f"checking {config.data}")
    folder = checked(config, skip_bad=skip_bad or resume)
    photos, held_out = folder.split(config.seed, config.held_out)
    said(f"{len(photos)} good images train, {len(held_out)} are held out for the threshold")
    fabric = create_fabric()
    if config.batch % fabric.world_size:
        raise OptionError(
            f"a batch of {config.batch} on {fabric.world_size} GPUs",
            expected="as many images for each",
            fix=f"--batch {config.batch + -config.batch % fabric.world_size}, or fewer with CUDA_VISIBLE_DEVICES",
        )
    model, teacher_record = create_trainable(config)
    samples = create_samples(config, photos)
    if budget is None:
        config = replace(config, steps=published_steps(config.model, len(samples.good.images), config.batch))
        budget = Budget(steps=config.steps)
        said(f"{config.steps} steps, as long as the schedule that {config.model} is published with, or its base")
    if fabric.is_global_zero:
        if resume:
            _check_same_photographs(out, folder, photos, held_out)
        else:
            write_inputs(out, config, folder, photos, held_out, samples)
    fabric.barrier()
    phases = cast("AnomalyModel", model).phases()
    with _Log(out, listener) as log:
        fit = Fit(
            model,
            phases,
            samples,
            config.preprocess,
            budget,
            batch=config.batch,
            checkpoint=out / "checkpoint.pt",
            fabric=fabric,
            workers=config.workers,
            listener=log,
        )
        position = fit.run(stop_after)
    if not position.done:
        return None
    said("scoring the held-out good images")
    if fabric.is_global_zero:
        finish(model.cpu(), config, out, held_out, position, teacher_record)
    fabric.barrier()
    return Run.load(out)


def checked(config: RunConfig, *, skip_bad: bool) -> PhotoFolder:
    """The folder after the data check; DataError lists every problem unless they may be skipped."""
    folder = check(scan(config.data), config.preprocess)
    if folder.problems and not skip_bad:
        listing = "\n".join(f"  {problem}" for problem in folder.problems)
        large_enough = ", inside which the crop lies" if config.preprocess.crop_xywh else ""
        if config.preprocess.tile_hw:
            large_enough += ", no smaller than a tile"
        raise DataError(
            f"the data check found {len(folder.problems)} problem(s):\n{listing}",
            expected=f"readable images, each once{large_enough}, with masks of their own size",
            fix="mend or remove these files, or train without them: --skip-bad",
        )
    return folder


def create_fabric() -> Fabric:
    """CPU, one GPU or several; mixed precision on a GPU."""
    cuda = torch.cuda.is_available()
    fabric = Fabric(accelerator="cuda" if cuda else "cpu", devices="auto" if cuda else 1,
                    precision="16-mixed" if cuda else "32-true")  # fmt: skip
    fabric.launch()
    return fabric


def create_trainable(config: RunConfig) -> tuple[nn.Module, dict[str, str]]:
    """The seeded network with its teacher's weights, channels-last; and where the teacher came from."""
    torch.manual_seed(config.seed)
    model = create_model(config)
    weights = load_teacher(config.teacher, config.backbone)
    apply_weights(cast("AnomalyModel", model).teacher, weights)
    record = {"name": weights.name, "sha256": weights.sha256}
    return model.to(memory_format=torch.channels_last), record  # type: ignore[call-overload]


def create_samples(config: RunConfig, photos: Sequence[Photo]) -> TrainingSamples:
    """The stream of training samples of a config."""
    good = GoodImages.load(photos, config.preprocess, foreground=config.foreground)
    textures: Textures = TextureFolder(config.textures) if config.textures else SelfTextures(good.images)
    names = config.defects.split(",") if config.defects else own_defects(config.model)
    defects = create_defects(names, good.images, textures)
    return TrainingSamples(good, defects, config.seed, cast("Rotation", config.rotation))


def _open_run(config: RunConfig, out: Path, resume: bool) -> RunConfig:
    present = (out / "config.json").is_file()
    if resume:
        if not present:
            raise TrainingError(f"nothing to resume in {out}", fix="leave --resume out")
        if (out / "threshold.json").is_file():
            raise TrainingError(
                f"the run in {out} has finished: there is nothing to resume",
                fix=f"segrd-export {out}, or train longer into another --out",
            )
        return RunConfig.from_dict(json.loads((out / "config.json").read_text(encoding="utf-8")))
    if present:
        raise TrainingError(
            f"{out} holds a run already", fix="choose another --out, delete the folder, or continue it with --resume"
        )
    return config


def write_inputs(
    out: Path,
    config: RunConfig,
    folder: PhotoFolder,
    photos: Sequence[Photo],
    held_out: Sequence[Photo],
    samples: TrainingSamples,
) -> None:
    """What a run's folder says before training: config, photographs, pictures of synthetic defects."""
    out.mkdir(parents=True, exist_ok=True)
    entry = {"layout": folder.layout, "counts": folder.counts, "problems": [str(p) for p in folder.problems]}
    write_json(out / "data.json", entry | {"train": _files(folder, photos), "held_out": _files(folder, held_out)})
    write_synthetic(samples, out / "synthetic", SYNTHETIC_PICTURES)
    write_json(out / "config.json", config.to_dict())  # last: with it the folder is a run that can be resumed


def _check_same_photographs(out: Path, folder: PhotoFolder, photos: Sequence[Photo], held_out: Sequence[Photo]) -> None:
    """Sample k would be another image than before the interruption if the folder had changed."""
    begun = json.loads((out / "data.json").read_text(encoding="utf-8"))
    if begun["train"] != _files(folder, photos) or begun["held_out"] != _files(folder, held_out):
        raise TrainingError(
            f"the photographs in {folder.root} are not those that the run in {out} began with",
            expected=f"the {len(begun['train']) + len(begun['held_out'])} good images listed in {out / 'data.json'}",
            fix="restore them, or train again into another --out",
        )


def _files(folder: PhotoFolder, photos: Sequence[Photo]) -> list[dict[str, str]]:
    return [{"file": p.path.relative_to(folder.root).as_posix(), "sha256": file_sha256(p.path)} for p in photos]


def write_synthetic(samples: TrainingSamples, folder: Path, count: int) -> None:
    """Pictures to look at: clean image, synthetic defect and mask side by side, one PNG per sample."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        sample = {name: tensor.numpy() for name, tensor in samples[k].items()}
        mask = cv2.cvtColor(sample["mask"] * 255, cv2.COLOR_GRAY2BGR)
        picture = np.hstack([sample["clean"], sample["corrupted"], mask])
        cv2.imwrite(str(folder / f"{k:03d}.png"), picture)


def finish(
    model: nn.Module,
    config: RunConfig,
    out: Path,
    held_out: Sequence[Photo],
    position: Position,
    teacher: dict[str, str],
) -> None:
    """Threshold from the held-out photographs, weights, record: after it the folder is a finished run."""
    from safetensors.torch import save_file

    model.eval()
    frames = (read_frame(p.path, value_range=config.preprocess.value_range) for p in held_out)
    scores = [prediction.score for prediction in predict(model, config.preprocess, frames)]
    threshold = choose_threshold(scores, false_reject=config.false_reject)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors")
    record: dict[str, Any] = {
        "teacher": teacher,
        "steps": position.total_steps,
        "seconds": round(position.total_seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "trained_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(out / "record.json", record)
    write_json(out / "threshold.json", {**threshold.to_dict(), "scores": scores})
    (out / "checkpoint.pt").unlink(missing_ok=True)


class _Log:
    """log.csv and TensorBoard events, then whoever else listens."""

    def __init__(self, out: Path, listener: Listener) -> None:
        self.out, self.listener = out, listener

    def __enter__(self) -> _Log:
        from torch.utils.tensorboard import SummaryWriter

        new = not (self.out / "log.csv").is_file()
        self.file = (self.out / "log.csv").open("a", newline="", encoding="utf-8")
        self.csv = csv.writer(self.file)
        if new:
            self.csv.writerow(["step", "phase", "phase_step", "loss", "rate"])
        self.events = SummaryWriter(str(self.out / "tensorboard"))
        return self

    def __call__(self, report: StepReport) -> None:
        row = [report.total_steps, report.phase, report.step, f"{report.loss:.6g}", f"{report.rate:.6g}"]
        self.csv.writerow(row)
        self.events.add_scalar(f"loss/{report.phase}", report.loss, report.total_steps)
        self.events.add_scalar("rate", report.rate, report.total_steps)
        self.listener(report)

    def __exit__(self, *exception: object) -> None:
        self.file.close()
        self.events.close()


def default_options(model: str, minutes: float | None) -> dict[str, Any]:
    """The published network; where there are only minutes, what learns most in them."""
    return {} if minutes is None else options_for_minutes(model)


def default_batch(model: str, minutes: float | None) -> int:
    """The published one; 4 where a CPU has only minutes, because many small steps learn more than a few large ones."""
    return 4 if minutes is not None and not torch.cuda.is_available() else published_batch(model)
