"""A small run in memory, for tests of the loop."""

from __future__ import annotations

import torch

from corestone.core.batch import IGNORE, TextBatch, plain_batch
from corestone.core.rng import fold
from corestone.models.decoder import build_decoder
from corestone.objectives.next_token import NextTokenObjective
from corestone.objectives.spec import NextToken
from corestone.optim.build import build_optimiser
from corestone.optim.spec import AdamW
from corestone.parallel.collectives import World
from corestone.parallel.precision import MasterWeights
from corestone.train.loop import Hook, Trainer
from corestone.train.meter import Meter
from corestone.train.spec import Training
from corestone.zoo.gpt import gpt2

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


class CountingLoader:
    """Rows that count upwards from a random start: learnable, with an uneven number of targets per row."""

    def __init__(self, rows: int = 8, world: World = ALONE) -> None:
        self.rows, self.world, self.poisoned = rows, world, set()

    def batch(self, step: int) -> TextBatch:
        generator = torch.Generator().manual_seed(fold(0, step))
        starts = torch.randint(0, 32, (self.rows, 1), generator=generator)
        tokens = (starts + torch.arange(17)) % 32
        targets = tokens[:, 1:].clone()
        for row in range(self.rows):
            targets[row, : (row * 5) % 16] = IGNORE
        batch = plain_batch(tokens[:, :-1], targets)
        share = self.rows // self.world.size
        return batch.rows(self.world.rank * share, (self.world.rank + 1) * share)

    def names(self, step: int) -> list[str]:
        return [f"document-{step}-{row}" for row in range(self.rows)]


class Poison(NextTokenObjective):
    """The objective with a loss spoilt when certain first tokens appear."""

    def __init__(self, spoil) -> None:
        super().__init__(NextToken())
        self.spoil = spoil
        self.calls = 0

    def loss(self, model, batch):
        self.calls += 1
        loss = super().loss(model, batch)
        factor = self.spoil(self.calls)
        return type(loss)(loss.total * factor, loss.weight, loss.metrics)


def trainer(training: Training, *, hooks=(), objective=None, dtype=torch.float32, steps=20, world=ALONE, **given):
    spec = gpt2(width=32, depth=2, num_heads=2, vocab_size=32, context_length=16)
    model = build_decoder(spec, seed=3)
    weights = MasterWeights(model, dtype)
    log: list = []
    parts = Trainer(
        spec=training,
        seed=0,
        total_steps=steps,
        step_units=training.batch_tokens,
        model=model,
        objective=objective or NextTokenObjective(NextToken()),
        loader=given.get("loader") or CountingLoader(world=world),
        weights=weights,
        optimiser=build_optimiser(AdamW(learning_rate=3e-3), weights.masters),
        learning_rate=lambda step: 3e-3,
        world=world,
        meter=Meter(1.0, 1.0, world.device),
        hooks=[Hook(1, lambda state, result: log.append(result)), *hooks],
        save=given.get("save", lambda state: None),
        roll_back=given.get("roll_back", lambda: None),
        log_anomaly=given.get("log_anomaly", lambda *x: None),
    )
    return parts, log
