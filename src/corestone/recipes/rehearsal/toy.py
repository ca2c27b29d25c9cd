"""A recipe at toy width with its real structure: all that happens in its life happens within minutes, in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from corestone.core.spec import parse
from corestone.core.units import Duration
from corestone.data.images.spec import Images, Pairs
from corestone.data.spec import Trained
from corestone.nn.batch_norm import BatchNorm
from corestone.recipes.build import build_model
from corestone.recipes.checks.scale import (
    CHECKPOINT,
    STEPS,
    WARMUP,
    short_rows,
    short_schedule,
    small_model,
    without_dropout,
)
from corestone.recipes.made_up import step_size
from corestone.recipes.rehearsal.stand_in import Instead, read_instead
from corestone.recipes.sizes import patch_size, set_most, set_picture_side, tree_of
from corestone.recipes.spec import ModelFile, Run

Format = Literal["bfloat16", "float32"]
"""Of the arithmetic."""
TOY = 1_000_000
"""Parameters above which a model becomes narrower."""
TABLE, SIDE = 2048, 64
"""Entries of a vocabulary, and pixels of a picture's side, at most (of patches the whole number nearest to it)."""
WRITTEN, SHOWN = 16, 64
"""Tokens that a sample has, and pictures or rows of text that are scored at a time and while training, at most."""
WORKERS = 2
"""Threads that decode pictures, at most."""


def rehearsed(run: Run, processes: int, instead: Sequence[Instead | None], precision: Format) -> tuple[Run, list[str]]:
    """The run at toy width and few steps, on the data that is here; and what was changed, in words.

    Objective, optimiser, form of schedule, number format, micro-batches, recomputing, compiling and the order of
    checkpoints, scores and samples stay the recipe's.

    Args:
        processes: over which a batch is shared: each has four rows at least, so that it can take them in several
            micro-batches.
        instead: what is read in the place of each source (`stand_in.sources_here`).
        precision: the number format, which is measured once where the recipe says auto, so that all processes agree.
    """
    tree = tree_of(run)
    told = read_instead(tree, run, instead)
    told += _small_table(tree, run)
    told += _small_pictures(tree, run)
    model = parse(ModelFile, {"model": tree["model"]}, f"{run.name}, its vocabulary and pictures smaller").model
    tree["model"], changes = small_model(model, TOY)
    told += changes + short_rows(tree, run) + _shared(tree, run, processes)
    short_schedule(tree)
    tree["training"]["precision"] = precision
    if run.training.precision != precision:
        told.append(f"{precision}, which {run.training.precision} is on this machine")
    told.append(f"{STEPS} steps of {run.training.length}, schedule in parts of {WARMUP}")
    told += _rhythm(tree, run)
    if not isinstance(run.data, Images | Pairs):
        tree["evaluation"]["tokens_while_training"] = SHOWN * tree["data"]["context_length"]
    else:
        tree["data"]["workers"] = min(run.data.workers, WORKERS)
        tree["evaluation"]["pictures_while_training"] = SHOWN
    tree["evaluation"]["batch_size"] = min(run.evaluation.batch_size, SHOWN)
    tree["samples"]["sampling"]["max_tokens"] = min(run.samples.sampling.max_tokens, WRITTEN)
    if run.trackers:
        tree["trackers"] = []
        told.append(f"nothing is sent to {', '.join(run.trackers)}")
    if run.start is not None:
        tree["start"] = None
        told.append(f"begun by chance: the weights of start.path ({run.start.path}) are of another width")
    tree |= {"name": f"{run.name}-rehearsal", "description": f"Rehearsal at toy width: {run.description}"}
    return parse(Run, tree, f"{run.name}, at toy width"), told


def whatever_the_processes(run: Run, processes: int) -> Run:
    """The rehearsed run without what depends on how many processes share a batch, so that another number of them comes
    to the same weights but for float32's rounding: dropout follows from a micro-batch's place, lower precision rounds
    by it, and batch norms, where there are any, get the micro-batches of so many processes."""
    precise = without_dropout(run)
    training = run.training.model_copy(update={"precision": "float32"})
    model = build_model(run.model, 0, torch.device("meta"))
    if run.training.noise_scale is not None or any(isinstance(module, BatchNorm) for module in model.modules()):
        share = step_size(run)[0] // processes
        micro = share if run.training.micro_batch is None else math.gcd(share, run.training.micro_batch)
        training = training.model_copy(update={"micro_batch": micro})
    return precise.model_copy(update={"training": training})


def _shared(tree: dict[str, Any], run: Run, processes: int) -> list[str]:
    """Rows and micro-batches that the processes can share, in place."""
    training, context = tree["training"], tree["data"].get("context_length", 1)
    text = not isinstance(run.data, Images | Pairs)
    size, unit = ("batch_tokens", context) if text else ("batch_examples", 1)
    rows = math.ceil(training[size] / unit / (4 * processes)) * 4 * processes
    training[size] = rows * unit
    if run.training.micro_batch is None:
        return []
    training["micro_batch"] = min(run.training.micro_batch, rows // processes // 2)
    passes = math.ceil(rows / processes / training["micro_batch"])
    return [f"micro-batches of {training['micro_batch']} of {run.training.micro_batch} rows, {passes} a step"]


def _small_table(tree: dict[str, Any], run: Run) -> list[str]:
    """A smaller vocabulary for tokenizers that are trained, in place."""
    if isinstance(run.data, Images) or not isinstance(run.data.tokenizer, Trained):
        return []
    before = run.data.tokenizer.vocab_size
    if before <= TABLE:
        return []
    tree["data"]["tokenizer"]["vocab_size"] = TABLE
    set_most(tree["model"], "vocab_size", TABLE)
    return [f"{TABLE:,} entries of the vocabulary's {before:,}"]


def _small_pictures(tree: dict[str, Any], run: Run) -> list[str]:
    """Smaller pictures, in place."""
    if not isinstance(run.data, Images | Pairs):
        return []
    height, width = run.data.augmentation.size
    patch = patch_size(tree["model"])
    side = patch * max(2, round(SIDE / patch))
    if max(height, width) <= side:
        return []
    set_picture_side(tree["model"], side)
    augmentation = tree["data"]["augmentation"]
    augmentation["size"] = [side, side]
    for step in [*augmentation["steps"], *augmentation["evaluation"]]:
        if step.get("shorter"):
            step["shorter"] = math.ceil(step["shorter"] * side / min(height, width))
    return [f"pictures of {side} x {side} pixels of {height} x {width}"]


def _rhythm(tree: dict[str, Any], run: Run) -> list[str]:
    """The recipe's rhythm, in place: a checkpoint every few steps, and what is rarer there as much rarer here."""
    rhythm, told = tree["rhythm"], []
    rhythm["log"] = "1 steps"
    between = {"checkpoint": run.rhythm.checkpoint, "evaluate": run.rhythm.evaluate, "sample": run.rhythm.sample}
    for name, every in between.items():
        if every is not None:
            steps = round(CHECKPOINT * _times(every, run.rhythm.checkpoint))
            rhythm[name] = f"{min(max(CHECKPOINT, steps), STEPS)} steps"
            told.append(f"{name} every {rhythm[name]} of {every}")
    return told


def _times(every: Duration, checkpoint: Duration | None) -> float:
    """How many times as long as that of checkpoints a rhythm is; 1 where they are told in other units."""
    if checkpoint is None or checkpoint.unit != every.unit or not checkpoint.value:
        return 1.0
    return every.value / checkpoint.value
