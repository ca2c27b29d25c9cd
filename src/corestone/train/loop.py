"""The training loop, for every model, objective and kind of data.

It knows them through protocols alone. One step: draw the batch of that step, run it through the objective in
micro-batches, sum losses and gradients (over ranks too), divide once by the global weight, clip, update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from corestone.core.errors import CorestoneError, Interrupted
from corestone.core.protocols import JointObjective, Loader, Loss, Objective
from corestone.core.rng import Draws, fold
from corestone.optim.build import set_learning_rate
from corestone.parallel.collectives import World
from corestone.parallel.precision import MasterWeights
from corestone.train.anomaly import verdict
from corestone.train.meter import Meter
from corestone.train.noise import averaged, part_sums, take_estimates
from corestone.train.signals import stop_flag
from corestone.train.spec import Training
from corestone.train.state import State


@dataclass(frozen=True)
class StepResult:
    """What one step measured: nats per target, gradient norm before clipping, learning rate, further means."""

    loss: float
    grad_norm: float
    learning_rate: float
    targets: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Hook:
    """Something done every so many steps, after the update, and once at the end. `every` None: only at the end."""

    every: int | None
    call: Callable[[State, StepResult | None], None]


@dataclass
class Trainer:
    """The built parts of a run.

    Attributes:
        step_units: tokens or pictures of a step over all ranks, for the meter.
        model: what the objective is applied to (compiled or not), holding `weights`' compute copy.
        learning_rate: of a step.
        updated: called when the master weights have changed, before the model gets them.
        save: writes a checkpoint of the state now.
        roll_back: restores weights, optimiser and state of the last checkpoint and returns that state.
        log_anomaly: tells of an anomaly: state, what, documents.
    """

    spec: Training
    seed: int
    total_steps: int
    step_units: int
    model: Any
    objective: Objective
    loader: Loader
    weights: MasterWeights
    optimiser: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    world: World
    meter: Meter
    hooks: Sequence[Hook]
    updated: Callable[[], None]
    save: Callable[[State], None]
    roll_back: Callable[[], State]
    log_anomaly: Callable[[State, str, Sequence[str]], None]

    def run(self, state: State) -> State:
        """Train to the end, or raise Interrupted with everything saved when a signal asks for it."""
        result: StepResult | None = None
        with stop_flag() as stop:
            while state.step < self.total_steps:
                if state.step in state.skipped:
                    state.step += 1
                    continue
                result = self._gradients(state.step)
                problem = verdict(self.spec.anomaly, state.recent_losses, result.loss, result.grad_norm)
                if problem is not None:
                    state = self._anomaly(state, problem)
                    continue
                self._update(result.learning_rate)
                if self.spec.noise_scale is not None:
                    per_target = self.step_units / result.targets
                    state.noise = averaged(state.noise, result.metrics, self.spec.noise_scale.decay, per_target)
                state.recent_losses = [*state.recent_losses, result.loss][-self.spec.anomaly.window :]
                state.step += 1
                self.meter.step_done(self.step_units)
                self._call_hooks(state, result)
                if self.world.any(stop.signum is not None) and state.step < self.total_steps:
                    self.save(state)
                    raise Interrupted(stop.signum or 0, f"stopped after step {state.step}; everything is saved")
        for hook in self.hooks:
            if result is not None and (hook.every is None or state.step % hook.every):
                hook.call(state, result)
        return state

    def _gradients(self, step: int) -> StepResult:
        """Leave the step's mean gradient, clipped, in the master weights."""
        with self.meter.waiting_for_data():
            batch = self._corrupted(self.loader.batch(step), step)
        sums = self._parts(batch, step)
        gradients = self.weights.gradients()
        self.world.sum_([*gradients, *sums.values()])
        weight = float(sums.pop("weight"))
        if weight == 0:
            raise CorestoneError(
                f"step {step + 1}: no target in the whole batch (documents {self.loader.names(step)[:3]})"
            )
        norm = float(torch.nn.utils.get_total_norm(gradients)) / weight
        clip = self.spec.clip_norm
        shrink = min(1.0, clip / norm) if clip is not None and norm > 0 else 1.0
        torch._foreach_mul_(gradients, shrink / weight)
        estimates = take_estimates(sums, norm, weight)
        means = {name: float(value) / weight for name, value in sums.items()} | estimates
        return StepResult(means.pop("loss"), norm, self.learning_rate(step), int(weight), means)

    def _corrupted(self, batch: Any, step: int) -> Any:
        """What the objective makes of a rank's rows: a function of the seed, the step and each row's global number."""
        first = self.world.rank * len(batch)
        return self.objective.corrupt(batch, Draws(fold(self.seed, "corrupt", step), range(first, first + len(batch))))

    def _parts(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Run a batch forward and backward in micro-batches; its sums. A micro-batch's dropout follows from its place
        alone."""
        size, sums = self.spec.micro_batch or len(batch), dict[str, Tensor]()
        starts = range(0, len(batch), size)
        seeds = [fold(self.seed, "micro-batch", step, self.world.rank, start) for start in starts]
        parts = (batch.rows(start, start + size) for start in starts)
        if self.objective.reduction == "joint":
            self._add(sums, cast(JointObjective, self.objective).gradients(self.model, list(parts), seeds, self.world))
            return sums
        for part, seed in zip(parts, seeds, strict=True):
            torch.manual_seed(seed)
            loss = self.objective.loss(self.model, part.to(self.world.device))
            loss.total.backward()
            if not sums and self.spec.noise_scale is not None:
                sums.update(part_sums(self.weights.gradients(), loss.weight))
            self._add(sums, loss)
        return sums

    @staticmethod
    def _add(sums: dict[str, Tensor], loss: Loss) -> None:
        found = {"loss": loss.total, "weight": loss.weight, **loss.metrics}
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value.detach().double()

    def _update(self, learning_rate: float) -> None:
        set_learning_rate(self.optimiser, learning_rate)
        self.optimiser.step()
        self.updated()
        self.weights.publish()
        self.weights.clear()

    def _anomaly(self, state: State, problem: str) -> State:
        """Follow the policy; the documents of the batch are named in any case."""
        self.weights.clear()
        step, policy = state.step, self.spec.anomaly.policy
        documents = self.loader.names(step)
        self.log_anomaly(state, problem, documents)
        shown = ", ".join(documents[:8]) + (f" and {len(documents) - 8} more" if len(documents) > 8 else "")
        if policy == "stop" or state.anomalies >= self.spec.anomaly.most:
            after = "" if policy == "stop" else f" ({state.anomalies} anomalies before it, the most allowed)"
            raise CorestoneError(
                f"step {step + 1}: {problem}{after}; documents of the batch: {shown}. Lower "
                "optimiser.learning_rate, or set training.anomaly.policy=skip or roll_back"
            )
        anomalies, skipped = state.anomalies + 1, [*state.skipped, step]
        if policy == "roll_back":
            state = self.roll_back()
        state.anomalies, state.skipped = anomalies, skipped
        return state

    def _call_hooks(self, state: State, result: StepResult) -> None:
        for hook in self.hooks:
            if hook.every is not None and state.step % hook.every == 0:
                hook.call(state, result)
