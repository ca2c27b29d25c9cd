"""A recipe scaled down, so that its promises can be tried within seconds: the same parts, fewer and smaller."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from corestone.core.errors import SpecError
from corestone.core.format import si
from corestone.core.spec import Spec, parse
from corestone.data.images.spec import Images, Pairs
from corestone.data.spec import Data
from corestone.recipes.sizes import DROPPED, one_of_each, parameters_of, records, resized, thinned, tree_of, widest
from corestone.recipes.spec import ModelFile, Run

STEPS, WARMUP, CHECKPOINT = 24, 2, 5
"""Of a run that is killed and resumed: steps, those of its warm-up, and those between checkpoints."""
TOKENS, ROWS, PICTURES = 64, 8, 16
"""Tokens of a row of text, rows of a batch of text, and pictures of a batch, at most."""
LARGE, NARROW, HEAD = 20_000_000, 128, 8
"""Parameters above which a model becomes narrower, how narrow at most, and its heads at least."""


def scaled(run: Run) -> tuple[Run, list[str]]:
    """The run with few steps, short rows and small batches, of few layers, narrower where the model is large, on the
    same data; in float32, without compiling, weights to begin with or trackers. And what was changed, in words."""
    tree, told = tree_of(run), []
    tree["model"], changes = small_model(run.model)
    told += changes
    told += short_rows(tree, run)
    training, rhythm = tree["training"], tree["rhythm"]
    told.append(f"{STEPS} steps at most of {run.training.length}, warm-up of {WARMUP}, float32")
    short_schedule(tree)
    training |= {"precision": "float32", "compile": False, "micro_batch": None}
    training["noise_scale"] = None  # it needs micro-batches, and changes nothing that is learnt
    tree["data"]["prefetch"] = 0
    if not isinstance(run.data, Data):
        tree["data"]["workers"] = 0
    rhythm |= {"log": "1 steps", "evaluate": None, "sample": None, "checkpoint": f"{CHECKPOINT} steps"}
    tree["evaluation"] |= {"tokens_while_training": 2_000, "pictures_while_training": 64}
    tree["samples"]["prompts"], tree["trackers"] = [], []
    if run.start is not None:
        tree["start"] = None
        told.append("begun by chance, not with start.path")
    return parse(Run, tree, f"{run.name}, scaled down"), told


def short_schedule(tree: dict[str, Any]) -> None:
    """Give a run's tree, in place, a few steps, and its schedule's parts fewer still."""
    tree["training"]["length"] = f"{STEPS} steps"
    for name, short in (("warmup", WARMUP), ("flat", WARMUP), ("decay", WARMUP), ("until", STEPS)):
        if tree["schedule"].get(name) is not None:
            tree["schedule"][name] = f"{short} steps"


def without_dropout(run: Run) -> Run:
    """The run with every dropout of its model at zero."""
    tree = tree_of(run)
    for record in records(tree["model"]):
        for key, value in record.items():
            if key in DROPPED:
                record[key] = dict.fromkeys(value, 0.0) if isinstance(value, dict) else 0.0
    return parse(Run, tree, f"{run.name}, without dropout")


def short_rows(tree: dict[str, Any], run: Run) -> list[str]:
    """Shorten rows and batches of a run's tree, in place; tells how."""
    data, training = tree["data"], tree["training"]
    if isinstance(run.data, Images | Pairs):
        pictures = run.training.batch_examples or 0
        few = min(pictures, PICTURES)
        training["batch_examples"] = few
        return [f"{few} of {pictures} pictures a batch"] if few < pictures else []
    tokens = min(run.data.context_length, TOKENS)
    rows = (run.training.batch_tokens or 0) // run.data.context_length
    few = min(max(2, rows), ROWS)
    data["context_length"], training["batch_tokens"] = tokens, few * tokens
    return [f"{few} rows of {tokens} tokens of {rows} of {run.data.context_length} a batch"]


def small_model(model: Spec, large: int = LARGE) -> tuple[Any, list[str]]:
    """The plain tree of a model with one layer of each kind (two where there is one kind), and narrower where it has
    more than `large` parameters still: by a power of two with which no width is above `NARROW`, then by more, until no
    more than `large` are left or a record refuses its sizes; and what was changed, in words."""
    whole, told = tree_of(model), []
    tree = thinned(whole, one_of_each)
    if tree != whole:
        told.append("a layer of each kind, two at least")
    small, divided = tree, 1
    before = left = _parameters(tree)
    while left > large:
        factor = 2 * divided if divided > 1 else max(2, 2 ** math.ceil(math.log2(widest(tree) / NARROW)))
        narrow = resized(tree, Fraction(1, factor), HEAD)
        try:
            found = _parameters(narrow)
        except (SpecError, ValueError, RuntimeError):  # its sizes hang together in a way of its own
            break
        if found >= left:  # nothing is left to divide
            break
        small, divided, left = narrow, factor, found
    if divided > 1:
        told.append(f"widths and heads / {divided} ({si(left)} of {si(before)} parameters)")
    elif before > large:
        told.append(f"not made narrower ({si(before)} parameters)")
    return small, told


def _parameters(tree: Any) -> int:
    return parameters_of(parse(ModelFile, {"model": tree}, "a smaller model").model)
