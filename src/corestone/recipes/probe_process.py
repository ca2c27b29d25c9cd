"""The process of a probe. It loads what `pretrain` loads, so that it holds as much memory before it trains."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from corestone.core.environment import began
from corestone.core.spec import read_yaml
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.collectives import World
from corestone.parallel.peak import gemm_peak
from corestone.plan.probed import Probed
from corestone.recipes import pretrain
from corestone.recipes.build import Built
from corestone.recipes.made_up import guessed
from corestone.recipes.made_up_data import made_up_data
from corestone.recipes.plan import model_of
from corestone.recipes.probe import FOUND, STEPS
from corestone.recipes.spec import Run
from corestone.recipes.steps import Changes, train_steps
from corestone.train.loop import Hook, StepResult
from corestone.train.meter import peak_memory
from corestone.train.spec import Anomaly
from corestone.train.state import State

assert pretrain  # loaded for the memory that it takes

EVALUATIONS = 2
"""Of one batch each; the first is not timed."""


class _EnoughError(Exception):
    """Ends the loop."""


def main() -> None:
    """Read the recipe of a folder and write there what was found: `python -c ... FOLDER PRECISION SECONDS [PEAK]`."""
    folder, precision, seconds, *peak = sys.argv[1:]
    run = read_yaml(Run, Path(folder) / "recipe.yaml")
    found = measure(run, getattr(torch, precision), Path(folder), float(seconds), *map(float, peak))
    (Path(folder) / FOUND).write_text(json.dumps(asdict(found)), encoding="utf-8")


def measure(run: Run, dtype: torch.dtype, folder: Path, most: float, peak: float | None = None) -> Probed:
    """Some steps of a run in this process, then an evaluation, samples and a checkpoint, which is left in the folder.

    The run begins by chance, whatever its recipe begins with, and no step is held to be an anomaly.

    Args:
        most: seconds that the steps may take, where these are more than the fewest.
        peak: FLOP/s of matrix products; None: they are measured.
    """
    keep_freed_memory()
    FakeTensorMode()  # loads torch's compiler for good, 0.15 GB, as the trace of a plan does in the run itself
    world = World(rank=0, size=1, device=torch.device("cpu"))
    peak = peak or gemm_peak(dtype, world.device)
    calm = run.training.model_copy(update={"anomaly": Anomaly(spike_deviations=None)})
    run = run.model_copy(update={"start": None, "training": calm})
    shape = model_of(run)
    data = made_up_data(run, guessed(run, None, shape), shape)
    built = Built(run, data, world, dtype)
    startup = time.time() - began()
    seconds = _steps(built, most)
    settling, row = _evaluation(built)
    samples = _timed(lambda: data.samples(run, built.model))
    rows = run.evaluation.batch_size
    writes = built.model.generates == "captions"
    captions = _timed(lambda: data.captions(run, built.model, rows)) / rows if writes else 0.0
    checkpoint = _timed(lambda: built.save(folder / "checkpoint", State()))
    return Probed(
        steps=len(seconds),
        step_seconds=statistics.median(seconds),
        peak_bytes=peak_memory(world.device),
        peak_flops=peak,
        startup_seconds=startup,
        settle_seconds=settling,
        evaluated_row_seconds=row,
        checkpoint_seconds=checkpoint,
        sample_seconds=samples,
        caption_seconds=captions,
    )


def _steps(built: Built, most: float) -> list[float]:
    """Seconds of each step but the first."""
    at: list[float] = []
    begun = time.perf_counter()

    def mark(state: State, result: StepResult | None) -> None:
        at.append(time.perf_counter())
        if len(at) >= STEPS[0] and at[-1] - begun > most:
            raise _EnoughError

    steps = min(STEPS[1], max(STEPS[0], built.total_steps))
    try:
        train_steps(built, steps, Changes(hooks=[Hook(1, mark)]))
    except _EnoughError:
        pass
    finally:
        built.loader.close()
    return [later - earlier for earlier, later in pairwise(at)]


def _evaluation(built: Built) -> tuple[float, float]:
    """Seconds before an evaluation, and of a row in it."""
    scorer = built.data.held_out(built.run, built.objective)
    begun = time.perf_counter()
    with built.given_away() as model:
        settling = time.perf_counter() - begun
        seconds = [_timed(lambda: list(scorer.run(model))) for _ in range(EVALUATIONS)]
    return settling, statistics.median(seconds[1:]) / built.run.evaluation.batch_size


def _timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
