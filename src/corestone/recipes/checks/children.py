"""Processes of a check's own: ranks, and a run that will be killed."""

from __future__ import annotations

import json
import os
import pkgutil
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import torch
from rich.console import Console
from safetensors.torch import save_file

from corestone.core.errors import CorestoneError
from corestone.parallel.collectives import World, end_rank, join_world
from corestone.recipes.build import Built
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.checks.context import Context, Gradient, gradients, open_context
from corestone.recipes.checks.excerpt import with_short_texts
from corestone.recipes.checks.scale import STEPS, scaled
from corestone.recipes.hooks import Watch
from corestone.recipes.load import open_data
from corestone.recipes.pretrain import open_log, resume_state, train
from corestone.train.checkpoint import checkpoint_folder, read_tensors
from corestone.train.meter import Meter

LOSS, PATIENCE_SECONDS, GRACE_SECONDS = "/loss", 300, 5
"""A loss among tensors; how long processes may take; and how long the others may where one has failed."""
POLL_SECONDS = 0.002
KILLS, MOMENT_SECONDS = 4, 0.02
"""How often a kill is tried, and how long after a random event it comes at most."""
COMMAND = "from corestone.recipes.checks.children import main; main()"


def start(
    what: str, told: Mapping[str, object], environment: Mapping[str, str], said: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """A process of its own that calls a function of a recipe, which it finds and scales itself, on the CPU.

    Args:
        what: the function, as module:function.
        told: its arguments by name; `folder` becomes a path again, whatever else JSON has no word for a text.
        said: takes what the process says; None: standard error does.
    """
    command = [sys.executable, "-c", COMMAND, json.dumps({"what": what, **told}, default=str)]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env={**hidden, **environment}, stdout=said or subprocess.DEVNULL, stderr=said)


def start_ranks(
    what: str, told: Mapping[str, object], size: int, said: IO[bytes] | None = None
) -> list[subprocess.Popen[bytes]]:
    """So many such processes that find each other over gloo; one alone needs nobody."""
    if size == 1:
        return [start(what, told, {}, said)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(size)}
    ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size))
    return [start(what, told, place | rank, said) for rank in ranks]


def ended(processes: Sequence[subprocess.Popen[bytes]], patience: float = PATIENCE_SECONDS) -> list[int]:
    """Exit codes of processes, when all have ended. Where one has failed, the others wait for it in vain and are
    killed. Raises CorestoneError where they are not done in time."""
    until = time.monotonic() + patience
    try:
        while any(process.poll() is None for process in processes):
            if any(process.returncode for process in processes):
                until = min(until, time.monotonic() + GRACE_SECONDS)
            if time.monotonic() > until:
                break
            time.sleep(POLL_SECONDS)
        codes = [process.poll() for process in processes]
    finally:
        kill(processes)
    if None in codes and not any(codes):
        raise CorestoneError(f"{len(processes)} ranks were not done after {patience:g} seconds")
    return [-signal.SIGKILL if code is None else code for code in codes]


def kill(processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    """SIGKILL to all; whether none had ended by itself before."""
    for process in processes:
        process.kill()  # does nothing where it has ended
    codes = [process.wait() for process in processes]
    return all(code == -signal.SIGKILL for code in codes)


def killed(processes: Sequence[subprocess.Popen[bytes]], folder: Path, events: int, seconds: float) -> bool:
    """Kill the processes that train in a folder so long after so many events of its log; whether that came before their
    end."""
    log = folder / "metrics.jsonl"
    while all(process.poll() is None for process in processes):
        if log.is_file() and log.read_bytes().count(b"\n") >= events:
            break
        time.sleep(POLL_SECONDS)
    time.sleep(seconds)
    return kill(processes)


def killed_somewhere(
    begin: Callable[[], Sequence[subprocess.Popen[bytes]]], folder: Path, events: tuple[int, int]
) -> bool:
    """Kill a run of `STEPS` steps at a random moment; whether one of `KILLS` kills came before its end.

    Args:
        begin: starts the run's processes in the folder, in which it leaves nothing of an attempt before.
        events: of the run's log, the fewest and the most after which a kill comes.

    Raises:
        CorestoneError: a process failed before it was killed.
    """
    chance = random.SystemRandom()
    for _ in range(KILLS):
        processes = begin()
        early = killed(processes, folder, chance.randint(*events), chance.uniform(0, MOMENT_SECONDS))
        if early and not checkpoint_folder(folder, STEPS).exists():
            return True
        codes = [process.returncode for process in processes]
        if any(code not in (0, -signal.SIGKILL) for code in codes):
            raise CorestoneError(f"before the kill a process failed by itself (exit codes {codes})")
    return False


def main() -> None:
    """The life of such a process."""
    told = json.loads(sys.argv[1])
    function = pkgutil.resolve_name(told.pop("what"))
    function(**told | {"folder": Path(told["folder"])})


def gradients_of_ranks(ctx: Context, size: int) -> list[Gradient]:
    """What so many processes find together. Raises CorestoneError where one of them fails."""
    given = {"recipe": ctx.recipe, "assignments": ctx.assignments, "folder": ctx.folder}
    codes = ended(start_ranks(f"{__name__}:write_gradients", given, size))
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
