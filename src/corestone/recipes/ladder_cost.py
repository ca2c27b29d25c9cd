"""What runs of a recipe will cost on this machine: a few real steps, and one very short run from start to report."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from rich.console import Console

from corestone.core.errors import CorestoneError
from corestone.core.spec import override, to_yaml
from corestone.parallel.collectives import World
from corestone.parallel.peak import gemm_peak
from corestone.plan.ladder import FEWEST_STEPS, Budget, Size, Target
from corestone.plan.spec import CPU_UTILISATION
from corestone.recipes.build import Built
from corestone.recipes.compare import Job, train_all
from corestone.recipes.plan import model_of
from corestone.recipes.pretrain import compute_format
from corestone.recipes.registry import OBJECTIVES
from corestone.recipes.run_data import RunData
from corestone.recipes.smaller import Smaller, shortened
from corestone.recipes.spec import Run
from corestone.recipes.steps import Changes, train_steps
from corestone.recipes.text import TextData
from corestone.train.loop import Hook

STEPS = 4
"""Steps that are timed of each size; the first one, which is slower, does not count."""
LONGEST_STEP = 2.0
"""Seconds of a step that is timed, at most, as estimated: a larger batch is cut, and counts in proportion."""
SHARE = 1 / 4
"""Sizes whose shortest rung would take more of a budget than this are not tried."""


@dataclass(frozen=True)
class Measured:
    """A recipe and what it costs; or the reason, in words, why it cannot be trained."""

    made: Smaller
    size: Size | None
    reason: str = ""


@dataclass(frozen=True)
class Timed:
    """Seconds of a step, and of scoring at the end of a run; FLOPs of a step."""

    step: float
    scoring: float
    flops: float


def target_of(run: Run, data: RunData, world: World) -> tuple[Target, int]:
    """A run in numbers, and its tokens or pictures per step; its model is not allocated."""
    rows, units = data.batch(run)
    loader = data.loader(run, rows, world)
    loader.close()
    lengths = {"batch_tokens": units, "batch_examples": rows, "epoch_tokens": loader.epoch_units}
    model = model_of(run)
    objective = OBJECTIVES.build(run.objective, data.vocabulary)
    flops = objective.training_flops(model, data.row_tokens()) * units
    count = sum(parameter.numel() for parameter in model.parameters())
    return Target(count, run.training.length.steps(**lengths), flops), units


def measure(made: Sequence[Smaller], data: RunData, target: Target, budget: Budget, world: World) -> list[Measured]:
    """What each size costs a step and beside its steps; those that no rung can be made of under the budget are left
    out."""
    dtype = compute_format(made[0].run, None, world)
    speed = CPU_UTILISATION * gemm_peak(dtype, world.device)
    flops = [target.flops_per_step * one.parameters / target.parameters for one in made]  # roughly
    cost = [count * FEWEST_STEPS / (speed if budget.unit == "seconds" else 1.0) for count in flops]
    tried = [place for place, one in enumerate(cost) if one <= SHARE * budget.amount] or [0]
    timed: list[Timed | str] = []
    for place in tried:
        try:
            timed.append(time_steps(made[place].run, data, world, flops[place] / speed, target.steps))
        except CorestoneError as error:  # such as rules of the optimiser that fit the target's layers alone
            timed.append(str(error))
    whole = [(place, found) for place, found in zip(tried, timed, strict=True) if isinstance(found, Timed)]
    if not whole:
        raise CorestoneError(f"plan ladder: no size can be trained: {timed[0]}")
    first, least = whole[0]
    besides = max(0.0, _whole_run(made[first].run, target.steps) - STEPS * least.step - least.scoring)
    return [
        Measured(made[place], Size(made[place].parameters, found.flops, found.step, besides + found.scoring))
        if isinstance(found, Timed)
        else Measured(made[place], None, found)
        for place, found in zip(tried, timed, strict=True)
    ]


def time_steps(run: Run, data: RunData, world: World, step: float, target: int) -> Timed:
    """Take a few steps, and score once.

    Args:
        step: seconds of one, as estimated.
        target: steps of the target.
    """
    rows, units = data.batch(run)
    few = min(rows, max(2, int(rows * LONGEST_STEP / step) // 2 * 2))  # an even number, which pairs of sentences need
    key = "batch_tokens" if run.training.batch_tokens else "batch_examples"
    cut = override(
        shortened(run, STEPS, target, "probe"), [f"training.{key}={units // rows * few}", "training.noise_scale=null"]
    )
    if cut.training.compile:
        torch._dynamo.reset()  # or what differs from the size before is held to vary, and kernels are made for that
    built = Built(cut, data, world, compute_format(cut, None, world))
    moments = [time.perf_counter()]
    try:
        clock = Hook(1, lambda state, result: moments.append(time.perf_counter()))
        train_steps(built, STEPS, Changes(hooks=[clock]))
    finally:
        built.loader.close()
    begun = time.perf_counter()
    with built.given_away() as model:
        list(data.held_out(cut, built.objective).run(model))
    scoring = time.perf_counter() - begun
    steps = [after - before for before, after in pairwise(moments)][1:]
    flops = built.objective.training_flops(built.model, data.row_tokens()) * units
    return Timed(statistics.median(steps) * rows / few, scoring * (1 + _all_over_some(run, data)), flops)


def _all_over_some(run: Run, data: RunData) -> float:
    """All held-out data, which a run is scored on in the end, over what it is scored on while it trains."""
    if not isinstance(data, TextData):
        return 1.0
    tokens = [held_out.n_tokens for held_out in data.validation]
    return max(1.0, sum(tokens) / min(tokens[0], run.evaluation.tokens_while_training))


def _whole_run(run: Run, target: int) -> float:
    """Seconds of a run of `STEPS` steps in a process of its own, from its start to its report."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        short = shortened(run, STEPS, target, "probe")
        (place / "probe.yaml").write_text(to_yaml(short), encoding="utf-8")
        job = Job(str(place / "probe.yaml"), (), short, place / "run", place / "probe.txt")
        begun = time.perf_counter()
        failures = train_all([job], place, Console(quiet=True))
        if failures:
            raise CorestoneError(f"plan ladder: the shortest run failed: {failures[0]}")
        return time.perf_counter() - begun
