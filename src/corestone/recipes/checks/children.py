"""Processes of a check's own: ranks, and a run that will be killed."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from corestone.core.errors import CorestoneError
from corestone.parallel.collectives import World, end_rank, join_world
from corestone.recipes.build import Built
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.checks.context import Gradient, gradients, open_context
from corestone.recipes.checks.excerpt import with_short_texts
from corestone.recipes.checks.scale import scaled
from corestone.recipes.hooks import Watch
from corestone.recipes.load import open_data
from corestone.recipes.pretrain import open_log, resume_state, train
from corestone.train.checkpoint import read_tensors
from corestone.train.meter import Meter

LOSS, PATIENCE_SECONDS = "/loss", 300
SPAWN = multiprocessing.get_context("spawn")


def gradients_of_ranks(recipe: str, assignments: Sequence[str], size: int, folder: Path) -> list[Gradient]:
    """What so many processes find together. Raises CorestoneError where one of them fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        SPAWN.Process(target=_rank, args=(recipe, tuple(assignments), rank, size, port, folder)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_SECONDS)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()  # does nothing where it has ended
    if codes != [0] * size:
        raise CorestoneError(f"ranks ended with exit codes {codes}; what they said stands above")
    found = []
    for path in sorted(folder.glob("gradient-*.safetensors")):
        tensors = read_tensors(path)
        found.append(Gradient(float(tensors.pop(LOSS)), tensors))
    return found


def _rank(recipe: str, assignments: Sequence[str], rank: int, size: int, port: int, folder: Path) -> None:
    """The life of one rank."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world = join_world()
    ctx, _ = open_context(recipe, assignments, world, folder)
    found = gradients(ctx.build())
    for step, one in enumerate(found if world.is_main else []):
        told = {**one.tensors, LOSS: torch.tensor(one.loss, dtype=torch.float64)}
        save_file(told, folder / f"gradient-{step}.safetensors")
    end_rank()


def train_folder(recipe: str, assignments: Sequence[str], folder: Path) -> None:
    """Train the scaled recipe in a folder, from its newest whole checkpoint on, as `pretrain` does; without the
    evaluation and the report at its end."""
    run, _ = scaled(find_recipe(recipe, [*assignments]))
    world = World(rank=0, size=1, device=join_world().device)
    data = with_short_texts(open_data(run, world), run)
    built = Built(run, data, world, torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(quiet=True)
    state = resume_state(built, folder, console)
    log = open_log(run, folder, state)
    meter = Meter(1.0, 1.0, world.device)
    try:
        train(built, Watch(built, folder, log, meter, console, data.held_out(run, built.objective)), state)
    finally:
        built.loader.close()
        log.close()
