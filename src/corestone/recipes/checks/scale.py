"""A recipe scaled down, so that its promises can be tried within seconds: the same parts, fewer and smaller."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from corestone.core.errors import SpecError
from corestone.core.format import si
from corestone.core.spec import Spec, parse, plain
from corestone.data.images.spec import Images, Pairs
from corestone.data.spec import Data
from corestone.recipes.build import build_model
from corestone.recipes.spec import ModelFile, Run

STEPS, WARMUP, CHECKPOINT = 24, 2, 5
"""Of a run that is killed and resumed: steps, those of its warm-up, and those between checkpoints."""
TOKENS, ROWS, PICTURES = 64, 8, 16
"""Tokens of a row of text, rows of a batch of text, and pictures of a batch, at most."""
LARGE, NARROW, HEAD = 20_000_000, 128, 8
"""Parameters above which a model becomes narrower, how narrow at most, and its heads at least."""
DROPPED = ("dropout", "drop_path")
"""Fractions by which layers may differ and still be of one kind."""


def scaled(run: Run) -> tuple[Run, list[str]]:
    """The run with few steps, short rows and small batches, of few layers, narrower where the model is large, on the
    same data; in float32, without compiling, weights to begin with or trackers. And what was changed, in words."""
    tree, told = json.loads(json.dumps(plain(run))), []
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
    tree = json.loads(json.dumps(plain(run)))
    _zero(tree["model"])
    return parse(Run, tree, f"{run.name}, without dropout")


def _zero(node: Any) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, float | int) and key in DROPPED:
                node[key] = 0.0
            elif key == "dropout" and isinstance(value, dict):
                node[key] = dict.fromkeys(value, 0.0)
            else:
                _zero(value)
    elif isinstance(node, list):
        for item in node:
            _zero(item)


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
    more than `large` parameters still: by the power of two with which no `width` is above `NARROW`, however many
    parameters that leaves (a network of convolutions alone has no such width, and keeps its channels); and what was
    changed, in words."""
    tree, told = json.loads(json.dumps(plain(model))), []
    before = json.dumps(tree)
    _cut_layers(tree)
    if json.dumps(tree) != before:
        told.append("a layer of each kind, two at least")
    small = parse(ModelFile, {"model": tree}, "model with fewer layers").model
    size = _parameters(small)
    if size <= large:
        return tree, told
    factor = 2 ** math.ceil(math.log2(max(_widths(tree), default=NARROW) / NARROW))
    if factor <= 1:
        return tree, told
    narrow = _narrowed(tree, factor)
    try:
        found = _parameters(parse(ModelFile, {"model": narrow}, "narrower model").model)
    except (SpecError, ValueError, RuntimeError):  # its sizes hang together in a way of its own
        return tree, [*told, f"not made narrower ({si(size)} parameters)"]
    return narrow, [*told, f"widths and heads / {factor} ({si(found)} of {si(size)} parameters)"]


def _parameters(model: Spec) -> int:
    built = build_model(model, 0, torch.device("meta"))
    return sum(parameter.numel() for parameter in built.parameters())


def layer_kind(block: Any) -> str:
    """What tells kinds of layers apart: all of a layer's tree but its dropouts."""
    alike = {key: value for key, value in block.items() if key not in DROPPED} if isinstance(block, dict) else block
    return json.dumps(alike, sort_keys=True)


def _cut_layers(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _cut_layers(item)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key == "blocks" and isinstance(value, list):
            kinds = list({layer_kind(block): block for block in reversed(value)}.values())[::-1]
            node[key] = value[:2] if len(kinds) == 1 else kinds
        elif key == "depth" and isinstance(value, int):
            node[key] = min(value, 2)
        elif key == "depths" and isinstance(value, list):
            node[key] = [min(depth, 2) for depth in value]
        else:
            _cut_layers(value)


def _widths(node: Any) -> list[int]:
    if isinstance(node, list):
        return [width for item in node for width in _widths(item)]
    if not isinstance(node, dict):
        return []
    own = [node["width"]] if isinstance(node.get("width"), int) else []
    return own + [width for value in node.values() for width in _widths(value)]


def _narrowed(node: Any, factor: int) -> Any:
    """A tree with all widths divided. Of attention as far as can be the width of heads is, and beyond that their
    number, so that heads fill the width that they filled."""
    if isinstance(node, list):
        return [_narrowed(item, factor) for item in node]
    if not isinstance(node, dict):
        return node
    thinner = 1
    if isinstance(node.get("head_dim"), int):
        thinner = 2 ** int(math.log2(max(1, min(factor, node["head_dim"] // HEAD))))
    told = dict.fromkeys(("width", "hidden_dim", "embed_dim", "shared_width"), factor)
    told |= {"head_dim": thinner, "num_heads": factor // thinner, "num_kv_heads": factor // thinner}
    found = {name: _narrowed(value, factor) for name, value in node.items()}
    for name, by in told.items():
        if isinstance(found.get(name), int):
            found[name] = max(1, found[name] // by)
    position = found.get("position")
    if isinstance(position, dict) and isinstance(position.get("dims"), int):
        position["dims"] = max(2, position["dims"] // thinner)
    return found
