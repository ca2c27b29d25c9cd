"""Corestone's side of a training benchmark."""

from __future__ import annotations

import time

import torch

from corestone.core.units import duration
from corestone.optim.build import build_optimiser
from corestone.optim.spec import AdamW
from corestone.parallel.collectives import World
from corestone.parallel.precision import MasterWeights
from corestone.train.loop import Trainer
from corestone.train.meter import Meter
from corestone.train.spec import Training

CPU = torch.device("cpu")


class Listed:
    """Batches from a list."""

    def __init__(self) -> None:
        self.batches: list = []

    def batch(self, step: int):
        return self.batches[step]

    def names(self, step: int) -> list[str]:
        return []


class Corestone:
    """The real trainer's own step, on a model that is kept, from the weights it has."""

    name = "corestone"

    def __init__(self, model, objective, dtype=torch.bfloat16, learning_rate: float = 3e-4) -> None:
        self.weights = MasterWeights(model, dtype)
        self.loader = Listed()
        self.trainer = Trainer(
            spec=Training(length=duration("1 steps"), batch_tokens=1),
            seed=0,
            total_steps=1,
            step_units=1,
            model=model,
            objective=objective,
            loader=self.loader,
            weights=self.weights,
            optimiser=build_optimiser(AdamW(learning_rate=learning_rate), self.weights.masters),
            learning_rate=lambda step: learning_rate,
            world=World(rank=0, size=1, device=CPU),
            meter=Meter(1.0, 1.0, CPU),
            hooks=[],
            updated=lambda: None,
            save=lambda state: None,
            roll_back=lambda: None,
            log_anomaly=lambda *given: None,
        )

    def in_micro_batches(self, rows: int) -> None:
        """Take a batch in parts: the same gradient from fewer activations at a time."""
        self.trainer.spec = self.trainer.spec.model_copy(update={"micro_batch": rows})

    def times(self, batches) -> tuple[list[float], list[float]]:
        self.loader.batches = batches
        seconds, losses = [], []
        for step in range(len(batches)):
            start = time.perf_counter()
            result = self.trainer._gradients(step)
            self.trainer._update(result.learning_rate)
            seconds.append(time.perf_counter() - start)
            losses.append(result.loss)
        return seconds, losses
