"""Where a training step's time goes: sample making, forward, backward, optimiser, per phase, whole images and windows.

    python -m segrd_edge.benchmarks.training_step --batch 4 --option head_width=64 --option head_fusion_kernel=1

Prints one JSON object as its last line. Random weights: time does not depend on them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from segrd_edge import machine
from segrd_edge.console import new_table, print_table
from segrd_edge.preprocess import Preprocess

if TYPE_CHECKING:
    from segrd_edge.training.phases import Phase

PARTS = ("samples", "forward", "backward", "optimiser")


def main(
    batch: Annotated[int, typer.Option(help="Images per step.")] = 4,
    steps: Annotated[int, typer.Option(help="Measured steps of each phase, after one that is not.")] = 3,
    option: Annotated[list[str] | None, typer.Option(help="Model option NAME=VALUE; repeatable.")] = None,
    model: Annotated[str, typer.Option(help="Model.")] = "adps",
) -> None:
    """Time the steps of every phase on rendered parts."""
    from segrd_edge.training.cli import parse_options

    options = parse_options(option or [])
    rows = list(measure(model, options, batch, steps))
    table = new_table(f"{model} {options or ''}, batch {batch}, ms per step (median)", "phase", *PARTS, "total")
    for row in rows:
        table.add_row(row["phase"], *(f"{row[part]:.0f}" for part in PARTS), f"{sum(row[part] for part in PARTS):.0f}")
    print_table(table)
    print(
        json.dumps({"model": model, "options": options, "batch": batch, "cpu": machine.cpu()["model"], "phases": rows})
    )


def measure(model_name: str, options: dict[str, Any], batch: int, steps: int) -> Iterator[dict[str, Any]]:
    """Median milliseconds of each part of a step, per phase, for whole images and for half-size windows."""
    import torch

    from segrd_edge.training.demo_parts import render_part
    from segrd_edge.training.maps import normalise
    from segrd_edge.training.models import build_model
    from segrd_edge.training.samples import GoodImages, TrainingSamples, half_crops
    from segrd_edge.training.synthesis import PerlinDefects, SelfTextures, foreground_mask

    preprocess = Preprocess()
    images = [preprocess.resize(render_part(np.random.default_rng(i))[0]) for i in range(8)]
    good = GoodImages(images, [foreground_mask(image) for image in images])
    samples = TrainingSamples(good, PerlinDefects(SelfTextures(images)), seed=0)
    model = build_model(model_name, **options).to(memory_format=torch.channels_last)

    def draw(step: int, windows: bool) -> dict[str, Any]:
        drawn = [samples[step * batch + i] for i in range(batch)]
        tensors = {name: torch.stack([sample[name] for sample in drawn]) for name in drawn[0]}
        if windows:
            tensors = half_crops(tensors, np.random.default_rng(step))
        return {
            "clean": normalise(tensors["clean"], preprocess),
            "corrupted": normalise(tensors["corrupted"], preprocess),
            "mask": tensors["mask"].unsqueeze(1).float(),
        }

    for phase in model.phases():
        for windows in (False, True):
            optimiser = prepare(model, phase)
            times = [time_step(phase, optimiser, partial(draw, step, windows)) for step in range(steps + 1)]
            medians = np.median(times[1:], axis=0)
            name = f"{phase.name}, {'half-size windows' if windows else 'whole images'}"
            yield {"phase": name, **{part: round(float(ms), 1) for part, ms in zip(PARTS, medians, strict=True)}}


def prepare(model: Any, phase: Phase) -> Any:
    """The optimiser of a phase, with gradients for its parameters and no others."""
    model.requires_grad_(False)
    for group in phase.short.groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    phase.objective.train()
    return phase.short.optimiser([dict(group) for group in phase.short.groups])


def time_step(phase: Phase, optimiser: Any, draw: Callable[[], dict[str, Any]]) -> list[float]:
    """Milliseconds of each of PARTS in one training step."""
    marks = [time.perf_counter()]
    batch = draw()
    marks.append(time.perf_counter())
    loss = phase.objective(batch)
    marks.append(time.perf_counter())
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    marks.append(time.perf_counter())
    optimiser.step()
    marks.append(time.perf_counter())
    return [1000 * (after - before) for before, after in pairwise(marks)]


if __name__ == "__main__":
    typer.run(main)
