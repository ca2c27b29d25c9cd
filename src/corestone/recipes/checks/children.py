"""Processes of a check's own: ranks, and a run that will be killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from corestone.core.errors import CorestoneError
from corestone.parallel.collectives import World, end_rank, join_world
from corestone.recipes.build import Built
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.checks.context import Context, Gradient, gradients, open_context
from corestone.recipes.checks.excerpt import with_short_texts
from corestone.recipes.checks.scale import scaled
from corestone.recipes.hooks import Watch
from corestone.recipes.load import open_data
from corestone.recipes.pretrain import open_log, resume_state, train
from corestone.train.checkpoint import read_tensors
from corestone.train.meter import Meter

LOSS, PATIENCE_SECONDS = "/loss", 300
COMMAND = "from corestone.recipes.checks.children import main; main()"


def start(what: str, ctx: Context, environment: dict[str, str], **told: object) -> subprocess.Popen[bytes]:
    """A process of its own that finds and scales the recipe itself and computes on the CPU; what it says goes to
    standard error."""
    given = {"what": what, "recipe": ctx.recipe, "assignments": ctx.assignments, **told}
    command = [sys.executable, "-c", COMMAND, json.dumps(given, default=str)]
    return subprocess.Popen(
        command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environment, stdout=subprocess.DEVNULL
    )


def main() -> None:
    """The life of such a process."""
    told = json.loads(sys.argv[1])
    {"rank": write_gradients, "train": train_folder}[told.pop("what")](**told | {"folder": Path(told["folder"])})


def gradients_of_ranks(ctx: Context, size: int) -> list[Gradient]:
    """What so many processes find together. Raises CorestoneError where one of them fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(size)}
    processes = [
        start("rank", ctx, place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, folder=ctx.folder)
        for rank in range(size)
    ]
    try:
        codes = [process.wait(PATIENCE_SECONDS) for process in processes]
    except subprocess.TimeoutExpired:
        raise CorestoneError(f"{size} ranks were not done after {PATIENCE_SECONDS} seconds") from None
    finally:
        for process in processes:
            process.kill()  # does nothing where it has ended
    if any(codes):
        raise CorestoneError(f"{size} ranks ended with exit codes {codes}; what they said stands above")
    found = []
    for path in sorted(ctx.folder.glob("gradient-*.safetensors")):
        tensors = read_tensors(path)
        found.append(Gradient(float(tensors.pop(LOSS)), tensors))
    return found


def write_gradients(recipe: str, assignments: Sequence[str], folder: Path) -> None:
    """What one rank does: the main one writes what all found."""
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
    world = World(rank=0, size=1, device=torch.device("cpu"))
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
