"""Some steps of a run by its own loop, for whoever checks, times or compares: nothing is saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from corestone.core.errors import CorestoneError
from corestone.parallel.compiled import Compiled
from corestone.recipes.build import Built
from corestone.train.loop import Hook, Trainer
from corestone.train.meter import Meter
from corestone.train.spec import Training
from corestone.train.state import State


class Diverged(CorestoneError):  # noqa: N818 (it says what was found)
    """A step's loss or gradient is not to be trusted.

    Attributes:
        step: counted from 0.
        problem: what was found, in words.
    """

    def __init__(self, step: int, problem: str) -> None:
        super().__init__(f"step {step + 1}: {problem}")
        self.step, self.problem = step, problem


@dataclass(frozen=True)
class Changes:
    """What is trained otherwise than the run does; None: as the run.

    Attributes:
        model: what the objective is applied to; `built.model` where a run that compiles it is not to.
        training: settings in place of the run's, such as micro-batches and clipping.
        learning_rate: of a step.
        updated: called before what the run does after an update, while the gradients are still there.
        meter: None: one that nobody reads.
    """

    model: Any = None
    objective: Any = None
    training: Training | None = None
    learning_rate: Callable[[int], float] | None = None
    updated: Callable[[], None] | None = None
    meter: Meter | None = None
    hooks: Sequence[Hook] = ()


AS_THE_RUN = Changes()


def train_steps(built: Built, steps: int, changes: Changes = AS_THE_RUN) -> None:
    """Train from the beginning by the run's loop; Diverged where a step is an anomaly, whatever the run's policy."""

    def updated() -> None:
        if changes.updated is not None:
            changes.updated()
        built.updated()

    def anomaly(state: State, problem: str, documents: Sequence[str]) -> None:
        raise Diverged(state.step, problem)

    training, model = built.run.training, changes.model
    if model is None:
        model = Compiled(built.model) if training.compile else built.model
    Trainer(
        spec=changes.training or training,
        seed=built.run.seed,
        total_steps=steps,
        step_units=built.step_units,
        model=model,
        objective=built.objective if changes.objective is None else changes.objective,
        loader=built.loader,
        weights=built.weights,
        optimiser=built.optimiser,
        learning_rate=changes.learning_rate or built.learning_rate,
        world=built.world,
        meter=changes.meter or Meter(1.0, 1.0, built.world.device),
        hooks=changes.hooks,
        updated=updated,
        save=lambda state: None,
        roll_back=State,
        log_anomaly=anomaly,
    ).run(State())
