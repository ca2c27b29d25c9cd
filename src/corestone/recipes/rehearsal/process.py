"""The life of one process of a rehearsal: that of `corestone pretrain`, of a recipe at toy width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from corestone.parallel.collectives import end_rank
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.pretrain import train_run
from corestone.recipes.rehearsal.stand_in import Instead
from corestone.recipes.rehearsal.toy import Format, rehearsed, whatever_the_processes

TRAIN = f"{__name__}:train_rehearsed"


def train_rehearsed(
    recipe: str,
    assignments: Sequence[str],
    folder: Path,
    processes: int,
    instead: Sequence[Any],
    precision: Format,
    alike: bool,
) -> None:
    """Train in a folder, from its newest whole checkpoint on.

    Args:
        processes: of the rehearsal, by which the recipe is scaled; this run's own number is in its environment.
        instead: what is read in the place of each source, as JSON has it.
        alike: without what depends on how many processes there are.
    """
    sources = [None if one is None else Instead(*one) for one in instead]
    run, _ = rehearsed(find_recipe(recipe, [*assignments]), processes, sources, precision)
    train_run(whatever_the_processes(run, processes) if alike else run, folder, console=Console(quiet=True))
    end_rank()
