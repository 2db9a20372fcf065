"""The segmentation head's shapes side by side: what a smaller head costs in accuracy, on the very same student.

    python -m segrd_edge.benchmarks.heads ../shared/data --category bottle --threads 1 \
        --teacher ../shared/data/weights/resnet18_imagenet1k_bnfolded_layer1-3.pth --textures ../shared/data/textures

Two trainings of a few minutes differ by more than two heads do. Therefore all heads share one DeSTSeg student, trained
first, and then learn from the same samples in the same steps: what is left is the head. Each becomes a run of its own,
exported and evaluated like any. Heads thus get equal steps, which flatters the large ones: with equal time a small
head gets more of them. An interrupted training continues; a head that has its result is done.

    python -m segrd_edge.benchmarks.heads --latency --threads 1

times all heads, fp32 and INT8 throughout, in one interleaved run. Time does not depend on the weights, so the networks
are untrained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor, nn

from segrd_edge.bundle import Bundle
from segrd_edge.console import console
from segrd_edge.export.bundle import export_bundle
from segrd_edge.files import write_json
from segrd_edge.preprocess import Preprocess
from segrd_edge.training.fit import Budget, Fit
from segrd_edge.training.losses import head_target, segmentation_loss
from segrd_edge.training.models.destseg import DeSTSeg
from segrd_edge.training.parts.head import HeadObjective, head_phase
from segrd_edge.training.phases import Batch, Phase, Recipe
from segrd_edge.training.run import Run, RunConfig
from segrd_edge.training.train import (
    checked,
    create_fabric,
    create_samples,
    create_trainable,
    default_batch,
    finish,
    write_inputs,
)

from .accuracy import find_category
from .accuracy_table import LATENCY_FILE, latency_setting, milliseconds, read_cells, read_latency
from .candidate import Record, describe
from .frames import choose_frames
from .side_by_side import measure_bundles
from .untrained import Network, build

# Name → options of the model. GMACs of the head at 64×64: 31.3, 6.9, 5.5, 2.3, 1.4, 1.4.
HEADS: dict[str, dict[str, Any]] = {
    "official": {},
    "width128": {"head_width": 128, "head_fusion_kernel": 1},
    "width128-levels64": {"head_width": 128, "head_fusion_kernel": 1, "head_level_width": 64},
    "width64": {"head_width": 64, "head_fusion_kernel": 1},
    "width64-levels32": {"head_width": 64, "head_fusion_kernel": 1, "head_level_width": 32},
    "width128-levels64-stride8": {
        "head_width": 128,
        "head_fusion_kernel": 1,
        "head_level_width": 64,
        "head_stride": 8,
    },
}


class SideBySide(nn.Module):
    """Models with one teacher and one student between them, and a head each."""

    def __init__(self, models: Mapping[str, DeSTSeg]) -> None:
        super().__init__()
        first = next(iter(models.values()))
        for model in models.values():
            model.teacher, model.student = first.teacher, first.student
        self.models = nn.ModuleDict(dict(models))

    def phases(self, student_share: float) -> list[Phase]:
        """The student's phase, then that of all heads, which get what time is left."""
        members = [cast(DeSTSeg, model) for model in self.models.values()]
        student = replace(members[0].phases()[0], share_of_time=student_share)
        each = [head_phase(model, share_of_steps=0.8, share_of_time=1 - student_share) for model in members]
        groups = [group for phase in each for group in phase.short.groups]
        short = Recipe(each[0].short.optimiser, groups)
        return [student, replace(each[0], objective=AllHeads(members), short=short)]


class AllHeads(HeadObjective):
    """Sum of the heads' losses. They share no weight that is trained, so each learns as it would alone."""

    def __init__(self, models: list[DeSTSeg]) -> None:
        super().__init__(models[0])
        self.heads = nn.ModuleList(model.head for model in models)

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            products = self.model.products(batch["corrupted"])
        losses = []
        for head in self.heads:
            logits = head(products)
            losses.append(segmentation_loss(logits, head_target(batch["mask"], (logits.shape[2], logits.shape[3]))))
        return torch.stack(losses).sum()


def main(
    data: Annotated[
        Path, typer.Argument(help="Folder that holds the categories, at any depth.", show_default=False)
    ] = Path(),
    category: Annotated[list[str] | None, typer.Option(help="Category to train on; repeatable.")] = None,
    teacher: Annotated[str, typer.Option(help="Teacher, as segrd-train takes it.")] = "edge",
    textures: Annotated[Path | None, typer.Option(help="Texture folder.")] = None,
    head: Annotated[list[str] | None, typer.Option(help="Head; repeatable; default all of HEADS.")] = None,
    student_minutes: Annotated[float, typer.Option(help="Processor time that trains the student.")] = 4,
    heads_minutes: Annotated[float, typer.Option(help="Processor time that trains all heads together.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    threads: Annotated[int, typer.Option(help="Processor threads of training.")] = 2,
    size: Annotated[int, typer.Option(help="Network size.")] = 256,
    int8: Annotated[bool, typer.Option(help="Calibrate and evaluate INT8 as well.")] = True,
    latency: Annotated[
        bool, typer.Option("--latency", help="Time all heads in turn, fp32 and INT8, with untrained networks.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where results are written.")] = Path("benchmarks/results/heads"),
    work: Annotated[Path, typer.Option(help="Where runs and bundles are written.")] = Path("runs/heads"),
) -> None:
    """Train, export and evaluate all heads of each category."""
    torch.set_num_threads(threads)
    names = head or list(HEADS)
    minutes = student_minutes + heads_minutes
    for name in category or ():
        config = RunConfig(
            data=str(find_category(data, name)),
            model="destseg",
            teacher=teacher,
            textures=str(textures) if textures else None,
            minutes=minutes,
            clock="processor",
            preprocess=Preprocess((size, size)),
            batch=default_batch("destseg", minutes),
            seed=seed,
        )
        folder = work / f"{name}-seed{seed}"
        if not all((folder / each / "threshold.json").is_file() for each in names):
            train_heads(config, {each: HEADS[each] for each in names}, folder, student_minutes / minutes)
        for each in names:
            file = out / f"{name}-seed{seed}-{each}.json"
            if not file.is_file():
                names_of = {"category": name, "head": each, "threads": threads}
                write_json(file, measure_head(folder / each, int8=int8) | names_of)
    if latency:
        write_json(out / LATENCY_FILE, time_heads(names, size, threads))
    write_table(out)


def train_heads(config: RunConfig, heads: Mapping[str, dict[str, Any]], folder: Path, student_share: float) -> None:
    """Train every head on one student; `folder` gets a finished run per head, under its name."""
    fabric = create_fabric()
    photos_folder = checked(config, skip_bad=True)
    photos, held_out = photos_folder.split(config.seed, config.held_out)
    samples = create_samples(config, photos)
    created = {name: create_trainable(replace(config, options=options)) for name, options in heads.items()}
    models = {name: cast(DeSTSeg, model) for name, (model, _) in created.items()}
    together = SideBySide(models)
    folder.mkdir(parents=True, exist_ok=True)
    assert config.minutes is not None
    fit = Fit(
        together,
        together.phases(student_share),
        samples,
        config.preprocess,
        Budget(minutes=config.minutes, clock=config.clock),
        batch=config.batch,
        checkpoint=folder / "checkpoint.pt",
        fabric=fabric,
        listener=lambda report: (
            console.print(f"{report.phase} {report.progress:.0%}") if report.step % 20 == 0 else None
        ),
    )
    position = fit.run()
    for name, model in models.items():
        own = replace(config, options=heads[name])
        write_inputs(folder / name, own, photos_folder, photos, held_out, samples)
        finish(model, own, folder / name, held_out, position, created[name][1])


def measure_head(folder: Path, *, int8: bool) -> Record:
    """Export a run; its figures."""
    run = Run.load(folder)
    return describe(run, export_bundle(run, folder / "part.segrd", int8=int8, said=console.print))


def time_heads(names: Sequence[str], size: int, threads: int) -> Record:
    """Latency of every head, from the frame's bytes to the verdict."""
    with TemporaryDirectory(prefix="segrd-") as folder:
        bundles = {name: Path(folder) / f"{name}.segrd" for name in names}
        for name, path in bundles.items():
            console.print(f"building {name}")
            build(Network("destseg", None, size), path, HEADS[name])
        frames = choose_frames(Bundle.open(bundles[names[0]]))
        return measure_bundles(bundles, frames, threads=threads)


METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "iap", "iap90")


def write_table(out: Path) -> None:
    """table.md: every head's metrics averaged over the categories that all heads have, minus the official head's."""
    cells, latency = read_cells(out), read_latency(out) or None
    heads = [name for name in HEADS if any(cell["head"] == name for cell in cells)]
    by_head = {name: {(c["category"], c["seed"]): c for c in cells if c["head"] == name} for name in heads}
    common = sorted(set.intersection(*(set(group) for group in by_head.values()))) if heads else []
    lines = ["# Segmentation heads", ""]
    for key in common:
        group = [by_head[name][key] for name in heads]
        first = group[0]
        lines += [
            f"## {key[0]}, seed {key[1]}",
            "",
            f"{first['steps']} steps in {first['minutes']:g} minutes of processor time on {first['threads']} thread(s) "
            f"of: {first['machine']}. Teacher {first['teacher']['name']}. {first['date']}.",
            "",
            *_rows([(cell["head"], cell, cell["precisions"]["fp32"]) for cell in group]),
            "",
        ]
    means = [
        (name, by_head[name][common[0]], _mean([by_head[name][key] for key in common])) for name in heads if common
    ]
    lines += [f"## Mean of {len(common)} trainings, fp32", "", *_rows(means), "", *_latency_rows(heads, latency)]
    (out / "table.md").write_text("\n".join(lines), encoding="utf-8")


def _mean(cells: list[dict[str, Any]]) -> dict[str, float]:
    return {m: sum(cell["precisions"]["fp32"][m] for cell in cells) / len(cells) for m in METRICS}


def _latency_rows(heads: Sequence[str], latency: dict[str, Any] | None) -> list[str]:
    if latency is None:
        return []
    times = [(name, *(milliseconds(latency, name, precision) for precision in ("fp32", "int8"))) for name in heads]
    rows = [f"| {' | '.join(row)} |" for row in times]
    return [
        "## Latency",
        "",
        latency_setting(latency),
        "",
        "| head | fp32 | int8 |",
        "| --- | ---: | ---: |",
        *rows,
        "",
    ]


def _rows(entries: list[tuple[str, dict[str, Any], dict[str, float]]]) -> list[str]:
    """A row per head; behind image AUROC and pixel AP the difference from the first row's."""
    lines = [
        "| head | million weights | GMACs | " + " | ".join(METRICS) + " | Δ image_auroc | Δ pixel_ap |",
        "| --- |" + " ---: |" * (len(METRICS) + 4),
    ]
    reference = entries[0][2] if entries else {}
    for name, cell, metrics in entries:
        values = [f"{metrics[m]:.4f}" for m in METRICS]
        values += [f"{metrics[m] - reference[m]:+.4f}" for m in ("image_auroc", "pixel_ap")]
        model = cell["model"]
        lines.append(
            f"| {name} | {model['parameters'] / 1e6:.1f} | {model['gmacs']:.1f} | " + " | ".join(values) + " |"
        )
    return lines


if __name__ == "__main__":
    typer.run(main)
