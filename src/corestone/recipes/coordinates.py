"""The coordinate check of muP (Yang et al. 2022, appendix D.1): how far a few steps move a model's values, by width."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from corestone.core.errors import SpecError
from corestone.core.protocols import Output
from corestone.core.rng import Draws, fold
from corestone.parallel.collectives import World
from corestone.recipes.build import Built
from corestone.recipes.load import open_data
from corestone.recipes.mup import at_width, mup, smallest_width
from corestone.recipes.run_data import RunData
from corestone.recipes.spec import Run
from corestone.recipes.steps import Changes, Diverged, train_steps

ROWS = 8
"""Of the first batch, whose values are looked at."""

STANDARD, MUP = "standard", "muP"
"""Parametrisations: the recipe as it is, made wider, and that rewritten by `mup`."""

FLAT = 0.25
"""How far from 0 a slope over the width may be where changes keep their size: halfway to 1/2, by about
which each rule of muP moves some slope where it is left out, or by more (measured, docs/mup.md)."""


def parametrised(run: Run, width: int, base: int) -> dict[str, Run]:
    """The recipe at a width, in both parametrisations."""
    wide = at_width(run, width)
    return {STANDARD: wide, MUP: mup(wide, base)}


def widths_of(run: Run, widths: Sequence[int] | None, base: int | None) -> tuple[list[int], int]:
    """Widths in order, by default 1, 2, 4 and 8 times the smallest one that the recipe can have, and the base width, by
    default the least of them. SpecError for what the recipe cannot have, before anything is trained."""
    found = sorted(set(widths or [smallest_width(run) * times for times in (1, 2, 4, 8)]))
    if len(found) < 2:
        raise SpecError(f"mup: widths={found[0]}: one width tells nothing of growth; give two or more")
    base = found[0] if base is None else base
    for width in found:
        parametrised(run, width, base)
    return found, base


def coordinate_check(
    run: Run,
    widths: Sequence[int],
    base: int,
    steps: int = 5,
    seeds: int = 3,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train the recipe at several widths for a few steps, in the standard parametrisation and in muP, and tell how far
    each part's values on the first batch moved: root mean squares, means over seeds.

    In muP what moves is of one size at all widths; in the standard parametrisation it grows with the width. Computes in
    float32 on the CPU, at the recipe's full learning rate from the first step on. Where a run diverges, all of its
    changes are infinite.

    Args:
        tell: is given a line of what is done.

    Returns:
        What was tried; `changes` by parametrisation and part, one per width; `slopes`, the exponents of the width that
        they follow; `flat` and `grows`, the verdicts on muP and on the standard parametrisation.

    Raises SpecError for one of several ranks.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SpecError("mup check: computes in one process; call it without torchrun")
    world = World(0, 1, torch.device("cpu"))
    data = open_data(run, world)
    changes: dict[str, dict[str, list[float]]] = {}
    for width in widths:
        for kind, planned in parametrised(run, width, base).items():
            found = [
                _moved(planned.model_copy(update={"seed": run.seed + n}), data, world, steps) for n in range(seeds)
            ]
            tell(f"width {width}, {kind}: {seeds} runs of {steps} steps")
            for part in found[0]:
                mean = statistics.mean(moves[part] for moves in found)
                changes.setdefault(kind, {}).setdefault(part, []).append(mean)
    slopes = {kind: {part: slope(widths, sizes) for part, sizes in parts.items()} for kind, parts in changes.items()}
    return {
        "recipe": run.name,
        "widths": list(widths),
        "base_width": base,
        "steps": steps,
        "seeds": seeds,
        "learning_rate": run.optimiser.learning_rate,
        "changes": changes,
        "slopes": slopes,
        "bound": FLAT,
        "flat": max(map(abs, slopes[MUP].values())) <= FLAT,
        "grows": max(slopes[STANDARD].values()) > FLAT,
    }


def slope(widths: Sequence[int], sizes: Sequence[float]) -> float:
    """The exponent of the width that sizes follow, by least squares in logarithms; infinite where one is no number."""
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        return math.inf
    return statistics.linear_regression([math.log(w) for w in widths], [math.log(size) for size in sizes]).slope


def _moved(run: Run, data: RunData, world: World, steps: int) -> dict[str, float]:
    """How far each part's values move within so many updates."""
    built = Built(run, data, world, torch.float32)
    try:
        before = _values(built)
        rate = run.optimiser.learning_rate
        # Eager: so few steps, at so many widths, do not pay for a compiler.
        train_steps(built, steps, Changes(model=built.model, learning_rate=lambda step: rate))
        after = _values(built)
    except Diverged:
        return dict.fromkeys(before, math.inf)
    finally:
        built.loader.close()
    return {part: float((after[part] - value).square().mean().sqrt()) for part, value in before.items()}


@torch.no_grad()
def _values(built: Built) -> dict[str, Tensor]:
    """What the embedding, each layer's branches and the head make of the first rows that the run sees."""
    rows = built.loader.batch(0).rows(0, ROWS)
    batch = built.objective.corrupt(rows, Draws(fold(built.run.seed, "corrupt", 0), range(len(rows))))
    stack = built.model.stack
    parts: dict[str, nn.Module] = {"embedding": built.model.embedding}
    for layer, block in enumerate(stack.blocks):
        parts |= {f"layer {layer}, mixer": block.mixer, f"layer {layer}, feed-forward": block.feedforward}
    built.model.eval()
    with _kept({**parts, "logits": built.model}) as found:
        built.objective.loss(built.model, batch.to(built.world.device))
        output = found.pop("logits")
    built.model.train()
    return {**found, "logits": built.model.head(output.hidden)}


@contextmanager
def _kept(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """What modules give, by name."""
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor | Output) -> None:
            found[name] = output.clone() if isinstance(output, Tensor) else output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
