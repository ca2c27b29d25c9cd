"""Does a learning rate carry over to other widths (Yang et al. 2022, figure 1)? Short runs at many rates and widths."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from corestone.core.errors import SpecError
from corestone.core.runlog import spelled
from corestone.core.spec import fingerprint, override, plain
from corestone.parallel.collectives import join_world
from corestone.parallel.precision import compute_dtype
from corestone.recipes.build import Built
from corestone.recipes.coordinates import MUP, STANDARD, parametrised
from corestone.recipes.load import open_data
from corestone.recipes.spec import Run
from corestone.recipes.steps import Changes, Diverged, train_steps
from corestone.train.loop import Hook, StepResult
from corestone.train.state import State

LAST = 0.2
"""The share of a run's steps, its last ones, whose mean loss is compared."""

STEP = 2.0
"""From one rate of a range to the next, as a factor."""

RECORD = "transfer.jsonl"


@dataclass(frozen=True)
class Grid:
    """What is tried: every rate at every width, in both parametrisations, with several seeds counted from the recipe's.

    Attributes:
        base: the width at which both parametrisations are the same; its runs are trained once.
    """

    widths: tuple[int, ...]
    base: int
    rates: tuple[float, ...]
    seeds: int


def read_rates(text: str) -> tuple[float, ...]:
    """Learning rates in order: `low:high`, each twice the one before it, or a list, `a,b,c`. SpecError for others."""
    wanted = f"--rates '{text}': give low:high, such as 0.0005:0.016, or rates with commas between them"
    try:
        numbers = [float(part) for part in text.replace(":", ",").split(",")]
    except ValueError:
        raise SpecError(wanted) from None
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise SpecError(f"{wanted}; they are positive")
    if ":" in text:
        if "," in text or len(numbers) != 2 or not numbers[0] < numbers[1]:
            raise SpecError(wanted)
        low, high = numbers
        numbers = [low * STEP**n for n in range(1 + math.floor(math.log(high / low, STEP) + 1e-9))]
    if len(set(numbers)) < 3:
        raise SpecError(f"{wanted}; a best one shows among three or more, and these are {len(set(numbers))}")
    return tuple(sorted(set(numbers)))


def transfer(run: Run, grid: Grid, steps: int, out: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train the recipe for a few steps at every rate and width in both parametrisations, and tell which rates are best.

    A run's loss is the mean over its last fifth of steps, on the same batches for all runs of a seed; that of a run
    that diverged, or ends above where it began, is infinite. Every loss is written to `out` as soon as it is known,
    and what stands there is not trained again.

    Args:
        tell: is given a line of each run that was trained, and of what could not be read.

    Returns:
        What was tried; `losses` by parametrisation and width: the mean over seeds per rate, and `each` those of each
        seed; `best` by parametrisation and width: a rate; `drift` by parametrisation: the largest best rate over the
        smallest.

    Raises SpecError where `out` holds losses of another recipe or length, and for one of several ranks.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SpecError("mup transfer: trains each run on one rank by itself; call it without torchrun")
    run = override(run, [f"training.length={steps} steps"])
    known, record = _read(run, out / RECORD, tell), out / RECORD
    world = join_world()
    data = open_data(run, world)
    dtype = compute_dtype(run.training.precision, world.device)

    def train(planned: Run) -> float:
        losses: list[float] = []

        def keep(state: State, result: StepResult | None) -> None:
            losses.extend([] if result is None else [result.loss])

        built = Built(planned, data, world, dtype)
        try:
            # Eager: compiling each run anew takes longer than a short run gains by it.
            train_steps(built, steps, Changes(model=built.model, hooks=[Hook(1, keep)]))
        except Diverged:
            return math.inf
        finally:
            built.loader.close()
        end = statistics.fmean(losses[-max(1, round(LAST * steps)) :])
        return end if end < losses[0] else math.inf

    each: dict[str, dict[int, list[list[float]]]] = {STANDARD: {}, MUP: {}}
    for width in grid.widths:
        # At the base width both are the same, and muP at all others depends on it.
        kinds = {STANDARD: STANDARD, MUP: STANDARD if width == grid.base else f"{MUP} (base {grid.base})"}
        for kind, wide in parametrised(run, width, grid.base).items():
            for rate in grid.rates:
                found = []
                for seed in range(run.seed, run.seed + grid.seeds):
                    name = f"{kinds[kind]} {width} {rate:g} {seed}"
                    if name not in known:
                        optimiser = wide.optimiser.model_copy(update={"learning_rate": rate})
                        known[name] = train(wide.model_copy(update={"optimiser": optimiser, "seed": seed}))
                        _write(record, {"run": name, "loss": known[name]})
                        tell(f"{name}: {known[name]:.4f}")
                    found.append(known[name])
                each[kind].setdefault(width, []).append(found)
    return _told(run, grid, steps, str(dtype).removeprefix("torch."), each)


def _told(
    run: Run, grid: Grid, steps: int, precision: str, each: dict[str, dict[int, list[list[float]]]]
) -> dict[str, Any]:
    losses = {
        kind: {w: [statistics.fmean(s) for s in rows] for w, rows in rows_of.items()} for kind, rows_of in each.items()
    }
    best = {kind: {w: grid.rates[row.index(min(row))] for w, row in rows.items()} for kind, rows in losses.items()}
    return {
        "recipe": run.name,
        "widths": list(grid.widths),
        "base_width": grid.base,
        "rates": list(grid.rates),
        "steps": steps,
        "seeds": grid.seeds,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "losses": losses,
        "each": each,
        "best": best,
        "drift": {kind: max(rates.values()) / min(rates.values()) for kind, rates in best.items()},
    }


def _read(run: Run, record: Path, tell: Callable[[str], None]) -> dict[str, float]:
    """Losses that are known already; begins the record where there is none. A last line that a kill cut short is taken
    off, and told; SpecError for anything else that is no loss of these."""
    asked = fingerprint(plain(run))
    if not record.exists() or not record.stat().st_size:
        record.parent.mkdir(parents=True, exist_ok=True)
        _write(record, {"recipe": run.name, "fingerprint": asked})
        return {}
    try:
        whole, _, torn = record.read_text(encoding="utf-8").rpartition("\n")
        first, *lines = [json.loads(line) for line in whole.splitlines()]
        of, known = first["fingerprint"], {line["run"]: float(line["loss"]) for line in lines}
    except (ValueError, TypeError, KeyError):
        raise SpecError(f"{record}: is no record of losses, or damaged; delete it or give another --out") from None
    if of != asked:
        raise SpecError(f"{record}: holds losses of another recipe or number of steps; give another folder, --out")
    if torn:
        os.truncate(record, record.stat().st_size - len(torn.encode()))
        tell(f"{record}: dropped its last line, which was cut short; that run is trained again")
    return known


def _write(record: Path, line: dict[str, Any]) -> None:
    with record.open("a", encoding="utf-8") as file:
        file.write(json.dumps(spelled(line)) + "\n")
