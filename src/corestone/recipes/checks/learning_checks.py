"""Checks of learning: the same twice, the same after a kill, from where it should begin, to where it can get."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from corestone.core.batch import IGNORE, ImageBatch
from corestone.core.protocols import Loss
from corestone.core.rng import Draws
from corestone.objectives.classification import smoothed
from corestone.objectives.spec import (
    Captioning,
    Classification,
    Continuation,
    Contrastive,
    Denoising,
    MaskedToken,
    Mixture,
    NextSentence,
    NextToken,
    Prefix,
    ReplacedToken,
    SpanCorruption,
)
from corestone.recipes.build import Built
from corestone.recipes.checks.apart import checkpoints_apart, tensors_apart
from corestone.recipes.checks.children import KILLS, killed_somewhere, start_ranks, train_folder
from corestone.recipes.checks.context import Context, corrupted
from corestone.recipes.checks.finding import Finding, failed, judged, skipped
from corestone.recipes.checks.scale import STEPS, without_dropout
from corestone.recipes.steps import Changes, train_steps
from corestone.train.checkpoint import checkpoint_folder, checkpoints
from corestone.train.loop import Hook, StepResult
from corestone.train.state import State

BEGINNING = 0.15
"""How far the first loss may be from a guess's, relative to that."""
LEFT, PATIENCE_STEPS = 0.1, 300
"""What share of the first loss one batch may keep, after so many steps at most."""
WARMING = 10
"""Steps in which one batch's learning rate rises."""
TOKENS = (NextToken, Prefix, MaskedToken, SpanCorruption, Denoising, Continuation, Mixture)
"""Objectives whose loss is the mean of tokens' nats."""


def determinism(ctx: Context) -> Finding:
    """The same recipe twice gives the same weights, bit for bit, whatever was drawn before."""
    found = []
    for other in (1, 2):
        torch.manual_seed(other)
        np.random.seed(other)
        random.seed(other)
        built = ctx.build()
        train_steps(built, 4)
        found.append({name: master.detach().clone() for name, master in built.weights.masters.items()})
    worst, where = tensors_apart(*found)
    return judged("weights after 4 steps, twice", worst, 0.0, where)


def resume(ctx: Context) -> Finding:
    """A run that is killed at a random moment and resumed ends with the same bits (design, promise 1)."""
    compared = f"weights, optimiser and state after {STEPS} steps, with a SIGKILL and without"
    whole, cut = ctx.folder / "whole", ctx.folder / "cut"
    train_folder(ctx.recipe, ctx.assignments, whole)

    def begin() -> list[subprocess.Popen[bytes]]:
        shutil.rmtree(cut, ignore_errors=True)
        given = {"recipe": ctx.recipe, "assignments": ctx.assignments, "folder": cut}
        return start_ranks("corestone.recipes.checks.children:train_folder", given, 1)

    if not killed_somewhere(begin, cut, (1, STEPS - 2)):
        return skipped(f"the run of {STEPS} steps was over before each of {KILLS} kills")
    left = [step for step, _ in checkpoints(cut)]
    train_folder(ctx.recipe, ctx.assignments, cut)
    worst, where, states = checkpoints_apart(*(checkpoint_folder(folder, STEPS) for folder in (whole, cut)))
    note = f"killed with checkpoints of steps {left or 'none'}; {where}"
    return judged(compared, worst, 0.0, note) if states else failed(compared, f"{note}; other states")


def initial_loss(ctx: Context) -> Finding:
    """Before it has learnt anything, a model guesses."""
    built = ctx.build()
    batch = corrupted(built)
    expected, what = guess(built, batch)
    if expected is None:
        return skipped(what)
    built.model.eval()
    with torch.no_grad():
        loss = built.objective.loss(built.model, batch)
    found = float(loss.total) / float(loss.weight)
    note = f"{found:.4g} against {expected:.4g} nats ({what})"
    return judged("first loss and a guess's, relative", abs(found - expected) / expected, BEGINNING, note)


def guess(built: Built, batch: Any) -> tuple[float | None, str]:
    """Nats per target of one who knows nothing, and their formula; None and why where that is not known."""
    objective, model, rows = built.run.objective, built.model, len(batch)
    if isinstance(objective, Classification):
        known = (math.log(model.classes), f"ln {model.classes}")
        return known if objective.loss == "softmax" else (model.classes * math.log(2), f"{model.classes} x ln 2")
    if isinstance(objective, Contrastive):
        known = (math.log(rows), f"ln {rows} pairs")
        return known if objective.loss == "softmax" else (None, "a sigmoid's first loss is that of its scale and bias")
    if isinstance(objective, ReplacedToken):
        size, weight = model.generator.vocab_size, objective.weight
        return math.log(size) + weight * math.log(2), f"ln {size} + {weight:g} x ln 2"
    if isinstance(objective, Captioning):
        tokens, caption = float((batch.texts.targets_BT != IGNORE).sum()) / rows, objective.caption_weight
        pairs, size = objective.contrastive_weight, model.vocab_size
        formula = f"{caption:g} x {tokens:.3g} tokens x ln {size} + {pairs:g} x ln {rows}"
        return caption * tokens * math.log(size) + pairs * math.log(rows), formula
    if isinstance(objective, NextSentence):
        return math.log(model.vocab_size) + math.log(2), f"ln {model.vocab_size} + ln 2"
    if isinstance(objective, TOKENS):
        return math.log(model.vocab_size), f"ln {model.vocab_size}"
    return None, f"the first loss of objective {objective.model_dump()['kind']} is not known here"


def overfit(ctx: Context) -> Finding:
    """One batch, seen again and again without dropout, is learnt by heart by the recipe's optimiser at its full rate,
    or it is not the data that keeps the model from learning."""
    built = ctx.build(without_dropout(ctx.run))
    again, losses = _Again(built.objective, corrupted(built)), list[float]()

    def tell(state: State, result: StepResult | None) -> None:
        losses.extend([] if result is None else [result.loss])
        if len(losses) > 1 and losses[-1] - floor <= LEFT * (losses[0] - floor):
            raise _LearntError

    floor = _floor(built, again.batch)
    rate = built.run.optimiser.learning_rate
    full = Changes(
        objective=again,
        learning_rate=lambda step: rate * min(1.0, (step + 1) / WARMING),
        hooks=[Hook(1, tell)],
    )
    with suppress(_LearntError):
        train_steps(built, PATIENCE_STEPS, full)
    share = (min(losses) - floor) / (losses[0] - floor) if losses[0] > floor else float("nan")
    note = f"from {losses[0]:.4g} to {losses[-1]:.4g} nats in {len(losses)} steps"
    if floor:
        note += f"; less than {floor:.4g} is impossible, as targets are shared or smoothed"
    return judged("what is left of the first loss of one batch", share, LEFT, note)


class _LearntError(Exception):
    """One batch was learnt; the loop needs go on no longer."""


class _Again:
    """An objective that asks the same questions at every step."""

    def __init__(self, objective: Any, batch: Any) -> None:
        self.batch, self.reduction, self.asks = batch, objective.reduction, objective.asks
        self._objective = objective

    def corrupt(self, batch: Any, draws: Draws) -> Any:
        """The batch of always."""
        return self.batch

    def loss(self, model: Any, batch: Any) -> Loss:
        """The objective's."""
        loss: Loss = self._objective.loss(model, batch)
        return loss

    def gradients(self, model: Any, micro_batches: Sequence[Any], seeds: Sequence[int], ranks: Any) -> Loss:
        """The objective's."""
        loss: Loss = self._objective.gradients(model, micro_batches, seeds, ranks)
        return loss

    def training_flops(self, model: Any, tokens: int) -> float:
        """The objective's."""
        flops: float = self._objective.training_flops(model, tokens)
        return flops


def _floor(built: Built, batch: Any) -> float:
    """The least loss that a batch has: the entropy of its targets, nats."""
    objective = built.run.objective
    if not isinstance(objective, Classification) or not isinstance(batch, ImageBatch) or batch.targets_BK is None:
        return 0.0
    targets_BK = smoothed(batch.targets_BK, objective)
    nats_BK = torch.special.entr(targets_BK)
    if objective.loss == "sigmoid":
        nats_BK = nats_BK + torch.special.entr(1 - targets_BK)
    return float(nats_BK.sum(dim=1).mean())
