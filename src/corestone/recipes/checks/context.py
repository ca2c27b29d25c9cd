"""What checks share: a scaled recipe with its data opened, how it is built, and the gradients of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corestone.core.batch import ImageTextBatch, Seq2SeqBatch, TextBatch
from corestone.core.rng import Draws, fold
from corestone.objectives.mixture import MixedBatch
from corestone.objectives.next_sentence import PairBatch
from corestone.objectives.replaced_token import ReplacedBatch
from corestone.parallel.collectives import World
from corestone.recipes.build import Built
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.checks.scale import scaled
from corestone.recipes.load import open_data
from corestone.recipes.run_data import RunData
from corestone.recipes.spec import Run
from corestone.recipes.steps import Changes, train_steps
from corestone.train.loop import Hook, StepResult
from corestone.train.state import State

SMALL = 1e-3
"""Of the largest tensor's norm: a tensor is measured against this at least, since the gradient of some (the biases of
keys) is zero in exact arithmetic and nothing but rounding here."""


@dataclass(frozen=True)
class Context:
    """What a check is given.

    Attributes:
        recipe, assignments: what a process of its own finds the recipe by.
        whole: the recipe as it is; `run`: scaled down.
        folder: for whatever is to be written; it is deleted in the end.
    """

    recipe: str
    assignments: tuple[str, ...]
    whole: Run
    run: Run
    data: RunData
    world: World
    folder: Path

    def build(self, run: Run | None = None, dtype: torch.dtype = torch.float32) -> Built:
        """The scaled run, or a variant of it, from the beginning."""
        return Built(run or self.run, self.data, self.world, dtype)


def open_context(recipe: str, assignments: Sequence[str], world: World, folder: Path) -> tuple[Context, list[str]]:
    """Find a recipe, scale it down and open its data; and what was scaled, in words."""
    whole = find_recipe(recipe, [*assignments])
    run, told = scaled(whole)
    return Context(recipe, tuple(assignments), whole, run, open_data(run, world), world, folder), told


def corrupted(built: Built, step: int = 0) -> Any:
    """A step's batch as the objective makes it, on the device."""
    batch = built.loader.batch(step)
    draws = Draws(fold(built.run.seed, "corrupt", step), range(len(batch)))
    return built.objective.corrupt(batch, draws).to(built.world.device)


@dataclass(frozen=True)
class Gradient:
    """Of a step: its loss, and each trained tensor's gradient, float32."""

    loss: float
    tensors: Mapping[str, Tensor]


def gradients(
    built: Built, steps: int = 2, micro_batch: int | None = None, model: Any = None, chance: bool = False
) -> list[Gradient]:
    """The gradients of the first steps, all of the initial weights, as the run's own loop finds them.

    Args:
        micro_batch: rows at a time; None: all of them.
        chance: with dropout; without it, batch norms use the statistics they have, too, since those of a batch depend
            on its rows by design.
    """
    if not chance:
        built.model.eval()
    losses: list[float] = []
    tensors: list[dict[str, Tensor]] = []

    def keep() -> None:
        tensors.append({name: m.grad.clone() for name, m in built.weights.masters.items() if m.grad is not None})

    def tell(state: State, result: StepResult | None) -> None:
        losses.extend([] if result is None else [result.loss])

    split = built.run.training.model_copy(update={"micro_batch": micro_batch, "clip_norm": None})
    still = Changes(model=model, training=split, learning_rate=lambda step: 0.0, updated=keep, hooks=[Hook(1, tell)])
    train_steps(built, steps, still)
    return [Gradient(loss, found) for loss, found in zip(losses, tensors, strict=True)]


def distance(ours: Sequence[Gradient], theirs: Sequence[Gradient]) -> tuple[float, str]:
    """The largest distance of a tensor's gradients, and of losses, relative to the second ones; and whose it is."""
    worst, where = 0.0, "nothing"
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one.tensors.keys() != other.tensors.keys():
            return float("inf"), f"step {step}, {sorted(one.tensors.keys() ^ other.tensors.keys())[0]}"
        least = SMALL * max(float(tensor.norm()) for tensor in other.tensors.values())
        found = {"the loss": abs(one.loss - other.loss) / max(abs(other.loss), 1e-6)}
        for name, tensor in other.tensors.items():
            found[name] = float((one.tensors[name] - tensor).norm() / tensor.norm().clamp(min=max(least, 1e-30)))
        name = max(found, key=lambda key: found[key] if found[key] == found[key] else float("inf"))
        if not found[name] <= worst:
            worst, where = found[name], f"{name}, step {step}"
    return worst, where


def texts_of(model: Any, batch: Any) -> Iterator[tuple[Callable[[Any], Tensor], TextBatch | Seq2SeqBatch]]:
    """For every text in an objective's batch: what makes hidden values (B, T, D) of such texts, and the text.

    Of pictures with captions, what a captioner writes; of a batch that holds none of these, nothing.
    """
    if isinstance(batch, MixedBatch):
        for part in batch.parts:
            if part is not None:
                yield from texts_of(model, part)
    elif isinstance(batch, TextBatch | Seq2SeqBatch):
        yield lambda text: _hidden(model, text), batch
    elif isinstance(batch, PairBatch):
        yield lambda text: _hidden(model, text), batch.text
    elif isinstance(batch, ReplacedBatch):
        yield lambda text: _hidden(model.generator, text), batch.hidden
        yield lambda text: _hidden(model.discriminator, text), batch.hidden
    elif isinstance(batch, ImageTextBatch) and model.generates == "captions":
        found = model.encode(batch.images)
        yield lambda text: _decoded(model, text, found), batch.texts


def _hidden(model: Any, batch: Any) -> Tensor:
    hidden: Tensor = model(batch).hidden
    return hidden


def _decoded(model: Any, text: TextBatch, found: Tensor) -> Tensor:
    hidden: Tensor = model.decode(text, found).hidden
    return hidden


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two tensors' values, in root mean squares of the second."""
    size = float(theirs.square().mean().sqrt())
    return float((ours - theirs).abs().max()) / max(size, 1e-30)
