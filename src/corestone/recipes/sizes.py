"""The sizes in a model's plain tree: which of its numbers are widths, layers, tables and pictures, and how they change
together, so that heads still fill the width and every record still holds.

What has a size of its own keeps it: states of an H3 layer, the rank of a gate, the queries of a pool.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch

from corestone.core.spec import Spec, plain
from corestone.recipes.registry import MODELS

Tree = dict[str, Any]

WIDTHS = ("width", "hidden_dim", "embed_dim", "shared_width")
HEADS = ("num_heads", "num_kv_heads")
DROPPED = ("dropout", "drop_path")
"""Fractions by which layers may differ and still be of one kind."""


def tree_of(spec: Spec) -> Tree:
    """The plain tree of a record, of which nothing is shared, so that each part may be changed."""
    tree: Tree = unshared(plain(spec))
    return tree


def unshared(tree: Any) -> Any:
    """A copy of a plain tree in which equal parts are different objects."""
    return json.loads(json.dumps(tree))


def records(node: Any) -> Iterator[Tree]:
    """All records in a tree, outer ones first; what is put into one before the next is asked for is gone through."""
    if isinstance(node, dict):
        yield node
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from records(item)


def shaped_model(model: Spec, seed: int = 0) -> Any:
    """The model of a record on the meta device: shapes without values."""
    return MODELS.build(model, seed=seed, device=torch.device("meta"))


def parameters_of(model: Spec) -> int:
    """Of the model of a record, which is not allocated."""
    return sum(parameter.numel() for parameter in shaped_model(model).parameters())


def _growing(record: Tree) -> list[str]:
    """What grows with the width in a record: a convolution's channels do, a picture's do not, and a single head of keys
    and values, which serves all queries, stays one."""
    keys = [*WIDTHS, *HEADS, *(["channels"] if "kernel" in record else [])]
    return [key for key in keys if isinstance(record.get(key), int) and (key, record[key]) != ("num_kv_heads", 1)]


def growing_numbers(tree: Tree) -> list[int]:
    """All numbers that grow with the width."""
    return [record[key] for record in records(tree) for key in _growing(record)]


def widest(tree: Tree) -> int:
    """The largest width of a stack or stage, or number of channels of a convolution; 1 where there is none."""
    found = (record[key] for record in records(tree) for key in ("width", "channels") if key in _growing(record))
    return max(found, default=1)


def resized(tree: Tree, share: Fraction, thinnest: int | None = None) -> Tree:
    """A tree with everything that grows with the width times `share`, rounded down, one at least.

    Args:
        thinnest: None: heads keep their width, and their number changes. Else they become thinner first, by a power of
            two and to this width at least, with the values of them that are turned by rotary positions, and fewer
            beyond that.
    """
    found: Tree = unshared(tree)
    for record in records(found):
        thinner = 1
        if thinnest is not None and isinstance(record.get("head_dim"), int):
            thinner = 2 ** int(math.log2(max(1, min(1 / share, record["head_dim"] // thinnest))))
            record["head_dim"] //= thinner
            position = record.get("position") or {}
            if "dims" in position:
                position["dims"] = max(2, position["dims"] // thinner // 2 * 2)
        for key in _growing(record):
            record[key] = max(1, int(record[key] * share * (thinner if key in HEADS else 1)))
    return found


def thinned(tree: Tree, pick: Callable[[list[Any]], list[Any]]) -> Tree:
    """A tree with those layers that `pick` leaves of each stack; where a part only counts its layers, all are alike."""
    found: Tree = unshared(tree)
    for record in records(found):
        for key, value in record.items():
            if key == "blocks":
                record[key] = pick(value)
            elif key == "depth":
                record[key] = len(pick([None] * value))
            elif key == "depths":
                record[key] = [len(pick([None] * depth)) for depth in value]
    return found


def stacks(tree: Tree) -> list[list[Any]]:
    """The layers of each stack; None for those that are only counted."""
    found: list[list[Any]] = []

    def note(layers: list[Any]) -> list[Any]:
        found.append(layers)
        return layers

    thinned(tree, note)
    return found


def layer_kind(layer: Any) -> str:
    """What tells kinds of layers apart: all of a layer's tree but its dropouts."""
    if isinstance(layer, dict):
        layer = {key: value for key, value in layer.items() if key not in DROPPED}
    return json.dumps(layer, sort_keys=True)


def layer_kinds(tree: Tree) -> set[str]:
    """Kinds of layers in all stacks."""
    return {layer_kind(layer) for layers in stacks(tree) for layer in layers}


def one_of_each(layers: Sequence[Any]) -> list[Any]:
    """The first layer of each kind, in the order in which kinds end; of a single kind two."""
    kinds = list({layer_kind(layer): layer for layer in reversed(layers)}.values())[::-1]
    return list(layers[:2]) if len(kinds) == 1 else kinds


def spread(layers: Sequence[Any], share: float) -> list[Any]:
    """A share of the layers, one at least, evenly over all; of several the first and the last among them."""
    left = max(1, round(len(layers) * share))
    return [layers[round(place * (len(layers) - 1) / max(1, left - 1))] for place in range(left)]


def set_most(tree: Tree, key: str, most: int) -> None:
    """Let no number under a key of a tree, such as `vocab_size`, be more; in place."""
    for record in records(tree):
        if isinstance(record.get(key), int):
            record[key] = min(record[key], most)


def set_picture_side(tree: Tree, side: int) -> None:
    """Let a model's tree see square pictures of so many pixels a side; in place."""
    for record in records(tree):
        if "image_size" in record:
            record["image_size"] = [side, side]


def patch_size(tree: Tree) -> int:
    """Pixels of a patch's side; 1 where pictures are not cut into patches."""
    return next((record["patch_size"] for record in records(tree) if "patch_size" in record), 1)
