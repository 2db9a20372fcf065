"""The fit loop. It knows phases, budgets and checkpoints, and nothing of any model.

One code for CPU, one GPU and several (Lightning Fabric). Sample k of a run is a function of the seed and k
(`training.samples`), so the only state is the weights, the optimiser and how far the run has come: a resumed run gives
what an uninterrupted one gives, but for the scale of mixed precision's gradients on a GPU, which begins anew.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segrd_edge.errors import OptionError, TrainingError
from segrd_edge.files import replacing
from segrd_edge.preprocess import Preprocess

from .maps import normalise
from .phases import Batch, Phase
from .samples import TrainingSamples, batches, half_crops

CHECKPOINT_EVERY_S = 60.0


Clock = Literal["wall", "processor"]


@dataclass(frozen=True)
class Budget:
    """How long to train: `steps` in all, or `minutes` in all.

    With steps, everything is as published: optimisers, learning rates, how phases share the steps. With
    minutes, phases share the time and use their short recipe, whose learning rate falls over the last `decay` of each
    phase; the first `crops` of each phase runs on half-size windows, four times as many steps for the same time.
    Progress is measured in time, so the budget holds on any machine. The clock "processor" counts what this process
    computes, all threads together: a comparison is then fair on a machine that others use too.
    """

    steps: int | None = None
    minutes: float | None = None
    clock: Clock = "wall"
    decay: float = 0.5
    crops: float = 0.6

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise OptionError(
                f"a budget of steps={self.steps} and minutes={self.minutes}", expected="one of --steps and --minutes"
            )
        if self.steps is not None and self.steps < 1:
            raise OptionError(f"--steps {self.steps}", expected="at least 1")
        if self.minutes is not None and not 0 < self.minutes < math.inf:  # NaN is not, either
            raise OptionError(f"--minutes {self.minutes:g}", expected="a number above 0")

    def rate_factor(self, progress: float) -> float:
        """Factor on a recipe's learning rates at `progress` in [0, 1] of a phase."""
        if self.steps is not None:
            return 1.0
        ramp = min(1.0, 0.1 + progress / 0.05)
        left = (1 - progress) / self.decay
        return ramp * (0.5 * (1 - math.cos(math.pi * left)) if left < 1 else 1.0)

    def now(self) -> float:
        """Seconds by the budget's clock, from some moment."""
        return time.process_time() if self.clock == "processor" else time.monotonic()

    def uses_crops(self, progress: float) -> bool:
        return self.minutes is not None and progress < self.crops


@dataclass
class Position:
    """How far a run has come."""

    phase: int = 0
    step: int = 0  # of the phase
    seconds: float = 0.0  # spent in the phase
    total_steps: int = 0
    total_seconds: float = 0.0
    done: bool = False


@dataclass(frozen=True)
class StepReport:
    """What the fit loop tells its listeners after every step."""

    phase: str
    phase_number: int
    phases: int
    step: int  # of the phase, from 1
    progress: float  # of the phase, in [0, 1]
    loss: float
    rate: float  # learning rate of the first parameter group
    seconds_left: float  # of the phase
    total_steps: int


Listener = Callable[[StepReport], None]


class Fit:
    """Trains `model` in place through its phases.

    Args:
        model: the network; all its weights are in the checkpoint.
        phases: what to optimise, in order (`training.phases`).
        checkpoint: file that is written every minute and at the end; `run` continues from it if it exists.
        batch: samples per step, over all processes.
        listener: called after every step, on the first process.
    """

    def __init__(
        self,
        model: nn.Module,
        phases: list[Phase],
        samples: TrainingSamples,
        preprocess: Preprocess,
        budget: Budget,
        *,
        batch: int,
        checkpoint: Path,
        fabric: Fabric,
        workers: int = 0,
        listener: Listener = lambda report: None,
    ) -> None:
        self.model, self.phases, self.samples = model, phases, samples
        self.preprocess, self.budget, self.batch = preprocess, budget, batch
        self.checkpoint, self.fabric, self.workers, self.listener = checkpoint, fabric, workers, listener
        self.position = Position()

    def run(self, stop_after: int | None = None) -> Position:
        """Run to the end, or until `stop_after` more steps have been done (a checkpoint is written either way).

        Raises:
            TrainingError: the loss is not finite, or the checkpoint belongs to another model.
        """
        optimiser_state = self._load()
        last_step = None if stop_after is None else self.position.total_steps + stop_after
        while self.position.phase < len(self.phases):
            finished = self._run_phase(self.phases[self.position.phase], optimiser_state, last_step)
            if not finished:
                return self.position
            optimiser_state = None
            self.position.phase += 1
            self.position.step, self.position.seconds = 0, 0.0
        self.position.done = True
        self._save(None)
        self.model.eval()
        return self.position

    def _run_phase(self, phase: Phase, optimiser_state: dict[str, Any] | None, last_step: int | None) -> bool:
        """One phase, from where the position says. False when `last_step` was reached first."""
        recipe = phase.published if self.budget.steps is not None else phase.short
        self.model.requires_grad_(False)
        for group in recipe.groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        optimiser = recipe.optimiser([dict(group) for group in recipe.groups])
        rates = [group["lr"] for group in optimiser.param_groups]
        if optimiser_state is not None:
            optimiser.load_state_dict(optimiser_state)
        objective, optimiser = self.fabric.setup(phase.objective, optimiser)
        objective.train()
        saved_at = time.monotonic()
        batches = self._batches()
        while (progress := self._progress(phase)) < 1 and self.position.total_steps != last_step:
            started = self.budget.now()
            samples = next(batches)  # made here and now, unless workers make them: it belongs to the budget
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * self.budget.rate_factor(progress) * recipe.rate_factor(progress)
            loss = self._step(objective, optimiser, samples, progress)
            # Of several processes the first one's clock counts for all, or they would part at the end of a phase.
            seconds = self.fabric.broadcast(self.budget.now() - started)
            self._advance(seconds, phase, loss, optimiser.param_groups[0]["lr"])
            if time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
                self._save(optimiser)
                saved_at = time.monotonic()
        self._save(optimiser)
        return self._progress(phase) >= 1

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        first = self.position.total_steps * self.batch
        rank, world = self.fabric.global_rank, self.fabric.world_size
        return iter(batches(self.samples, first, self.batch, self.workers, rank=rank, world=world))

    def _step(
        self, objective: Any, optimiser: torch.optim.Optimizer, samples: dict[str, Tensor], progress: float
    ) -> float:
        if self.budget.uses_crops(progress):
            samples = half_crops(samples, np.random.default_rng([self.samples.seed, 4, self.position.total_steps]))
        loss = objective(self._to_batch(self.fabric.to_device(samples)))
        optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        optimiser.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingError(
                f"the loss became {value} at step {self.position.total_steps + 1}",
                fix="train again with another --seed or a larger --batch; the last checkpoint is untouched",
            )
        return value

    def _to_batch(self, samples: dict[str, Tensor]) -> Batch:
        return {
            "clean": normalise(samples["clean"], self.preprocess),
            "corrupted": normalise(samples["corrupted"], self.preprocess),
            "mask": samples["mask"].unsqueeze(1).float(),
        }

    def _phase_seconds(self, phase: Phase) -> float:
        return (self.budget.minutes or 0) * 60 * phase.share_of_time

    def _phase_steps(self, phase: Phase) -> int:
        return max(1, round((self.budget.steps or 0) * phase.share_of_steps))

    def _progress(self, phase: Phase) -> float:
        if self.budget.steps is not None:
            return self.position.step / self._phase_steps(phase)
        return self.position.seconds / self._phase_seconds(phase)

    def _advance(self, seconds: float, phase: Phase, loss: float, rate: float) -> None:
        position = self.position
        position.step += 1
        position.total_steps += 1
        position.seconds += seconds
        position.total_seconds += seconds
        if self.budget.steps is not None:
            left = (self._phase_steps(phase) - position.step) * position.seconds / position.step
        else:
            left = self._phase_seconds(phase) - position.seconds
        if self.fabric.is_global_zero:
            progress = min(1.0, self._progress(phase))
            self.listener(
                StepReport(
                    phase.name, position.phase + 1, len(self.phases), position.step, progress, loss, rate,
                    max(0.0, left), position.total_steps,
                )
            )  # fmt: skip

    def _save(self, optimiser: torch.optim.Optimizer | None) -> None:
        """Write the checkpoint, atomically: an interruption leaves the one before."""
        if not self.fabric.is_global_zero:
            return
        state = {
            "model": self.model.state_dict(),
            "optimiser": optimiser.state_dict() if optimiser else None,
            "position": asdict(self.position),
        }
        with replacing(self.checkpoint) as file:
            torch.save(state, file)

    def _load(self) -> dict[str, Any] | None:
        """Take up the checkpoint, if there is one, and return the optimiser's state."""
        if not self.checkpoint.is_file():
            return None
        try:
            saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            self.position = Position(**saved["position"])
            self.model.load_state_dict(saved["model"])
        except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise TrainingError(
                f"{self.checkpoint} cannot be resumed: {error}",
                expected="a checkpoint of this very run",
                fix="delete the run's folder and train again",
            ) from error
        return cast("dict[str, Any] | None", saved["optimiser"])
