"""A recipe made smaller for a ladder of runs: a narrower and shallower model, fewer steps, everything else alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from corestone.core.errors import SpecError
from corestone.core.format import si
from corestone.core.spec import parse, plain
from corestone.core.units import Duration
from corestone.optim.build import rules_of
from corestone.recipes.sizes import (
    growing_numbers,
    layer_kinds,
    parameters_of,
    records,
    resized,
    shaped_model,
    spread,
    stacks,
    thinned,
    tree_of,
)
from corestone.recipes.spec import Run

FEWEST_LAYERS = 2
"""One layer is another kind of model, in which nothing reads what an earlier layer found: none is made that shallow."""
TRIED = 12
"""Widths and depths that are tried, at most each."""
APART = 1.25
"""Sizes nearer than this to each other are taken for one."""
OFF_SHAPE = 0.5
"""How much a ratio of width to depth other than the target's counts against a size, beside how far it is from the
number of parameters that is wanted."""


@dataclass(frozen=True)
class Smaller:
    """A recipe of a smaller model.

    Attributes:
        width, depth: over the target's.
    """

    run: Run
    parameters: int
    width: float
    depth: float


def smaller(run: Run, count: int, least: float) -> list[Smaller]:
    """The recipe itself, and recipes of smaller models: at most `count` in all, in about equal ratios, smallest first.

    Args:
        least: parameters of the smallest, at least, over the recipe's own.

    Widths are fractions by which every width and number of heads of the model stays whole; layers are left out evenly,
    as long as each kind of layer is left. A recipe that `of_one_size` tells of, and a model whose sizes hang together
    in another way, cannot be made smaller: then it is there alone.
    """
    own = Smaller(run, parameters_of(run.model), 1.0, 1.0)
    if of_one_size(run):
        return [own]
    lowest, highest = least * own.parameters, own.parameters / APART
    found = sorted((one for one in _tried(run) if lowest <= one.parameters <= highest), key=lambda one: one.parameters)
    if not found:
        return [own]
    low, high = math.log(found[0].parameters), math.log(own.parameters)
    chosen = [own]
    for place in range(count - 1):
        wanted = low + (high - low) * place / (count - 1)
        free = [one for one in found if all(_apart(one, other) for other in chosen)]
        if free:
            chosen.append(min(free, key=lambda one: abs(math.log(one.parameters) - wanted) + _bent(one)))
    return sorted(chosen, key=lambda one: one.parameters)


def of_one_size(run: Run) -> str:
    """What in a recipe belongs to the size of its model, so that smaller ones would be another family; "" for nothing.

    Deviations by name and rates of matrices are what muP rewrites for one width alone (`recipes.mup`). Rates of vectors
    and of what has one axis that grows, such as H3's states, are the same at all widths.
    """
    if run.start is not None:
        return "it begins with given weights (start)"
    if any((record.get("init") or {}).get("rules") for record in records(plain(run.model))):
        return "its model.init.rules give deviations for this width alone"
    narrow = next((one.run for one in _tried(run) if one.width < 1), run)
    shapes = {name: parameter.shape for name, parameter in shaped_model(narrow.model).named_parameters()}
    own = dict(shaped_model(run.model).named_parameters())
    for name, rule in rules_of(run.optimiser, own).items():
        shape = own[name].shape
        if rule.lr_scale != 1 and sum(a != b for a, b in zip(shape, shapes.get(name, shape), strict=True)) > 1:
            return f"its optimiser.rules give {name} a rate for this width alone (lr_scale={rule.lr_scale:g})"
    return ""


def _apart(one: Smaller, other: Smaller) -> bool:
    return max(one.parameters, other.parameters) >= APART * min(one.parameters, other.parameters)


def _bent(one: Smaller) -> float:
    return OFF_SHAPE * abs(math.log(one.width / one.depth))


def _tried(run: Run) -> Iterator[Smaller]:
    """All that could be made; what the records refuse is no model."""
    tree = tree_of(run)
    unit, depth = math.gcd(*growing_numbers(tree["model"])), max(map(len, stacks(tree["model"])), default=1)
    for part in _few(1, unit):
        narrow = resized(tree["model"], Fraction(part, unit))
        for layers in _few(min(FEWEST_LAYERS, depth), depth):
            model = thinned(narrow, partial(spread, share=layers / depth))
            if layer_kinds(model) != layer_kinds(narrow):
                continue
            try:
                made = parse(Run, {**tree, "model": model}, f"{run.name}, made smaller")
                yield Smaller(made, parameters_of(made.model), part / unit, layers / depth)
            except (SpecError, ValueError, RuntimeError):  # its sizes hang together in a way of its own
                continue


def _few(low: int, high: int) -> list[int]:
    """Whole numbers from one to another: all, or some in about equal ratios."""
    if high - low < TRIED:
        return list(range(low, high + 1))
    return sorted({round(low * (high / low) ** (place / (TRIED - 1))) for place in range(TRIED)})


def shortened(run: Run, steps: int, target: int, name: str) -> Run:
    """The recipe with `steps` steps instead of `target`: its schedule shrinks with it, it is scored at its end alone,
    and draws no samples. Every quarter it writes a checkpoint."""
    tree = tree_of(run)
    for key, value in plain(run.schedule).items():
        length = vars(run.schedule)[key]
        tree["schedule"][key] = _share(length, steps / target) if isinstance(length, Duration) else value
    tree["name"], tree["description"] = name, f"A rung of a ladder towards {run.name}."
    tree["training"]["length"] = f"{steps} steps"
    quarter = math.ceil(steps / 4)
    rhythm = {"log": f"{math.ceil(steps / 20)} steps", "checkpoint": f"{quarter} steps", "keep_last": 1}
    tree["rhythm"] |= {"evaluate": None, "sample": None, **rhythm}
    tree["samples"]["prompts"], tree["trackers"] = [], []
    return parse(Run, tree, name)


def _share(length: Duration, share: float) -> str:
    """A part of a duration; of steps a whole number, one at least."""
    if length.unit == "steps":
        return f"{max(min(1, math.ceil(length.value)), round(length.value * share))} steps"
    return f"{length.value * share!r} {length.unit}"


def size_name(parameters: int) -> str:
    """A short name of a size, such as `954k`."""
    return si(parameters).replace(" ", "")
