"""The main job: a recipe in; a trained, evaluated, reported run folder out."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from corestone.core.environment import began_for, environment
from corestone.core.errors import CheckpointError
from corestone.core.format import clock, si
from corestone.core.runlog import RunLog, read_events
from corestone.core.spec import differing, plain, to_yaml
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.collectives import World, join_world
from corestone.parallel.compiled import Compiled
from corestone.parallel.peak import gemm_peak
from corestone.parallel.precision import compute_dtype
from corestone.recipes.build import Built
from corestone.recipes.evaluate import evaluate
from corestone.recipes.hooks import SHORT, Scored, Watch
from corestone.recipes.load import open_data, open_run
from corestone.recipes.made_up import known_of
from corestone.recipes.plan import store_plan
from corestone.recipes.show_progress import PrepareProgress
from corestone.recipes.spec import Run
from corestone.report.folder import CERTIFICATE
from corestone.report.write import write, write_report
from corestone.train.checkpoint import checkpoints, newest_whole
from corestone.train.loop import Trainer
from corestone.train.meter import Meter
from corestone.train.state import State
from corestone.train.trackers import build_trackers

Resume = Literal["auto", "never"]

MAY_CHANGE = {"description", "rhythm", "samples", "evaluation", "trackers"}
"""Keys of a recipe that may differ when a run goes on: they change nothing that is learnt."""


def pretrain(run: Run, folder: Path, resume: Resume = "auto", console: Console | None = None) -> Path:
    """Prepare the data, train (going on from the newest whole checkpoint), evaluate and write the report.

    Args:
        folder: of the run; made where it is missing.
        resume: "auto" goes on where the folder holds a run of this recipe; "never" refuses such a folder.

    Returns:
        The path of report.html, which is written twice: how long the command took, the first page among it, is on the
        second.

    Raises:
        CorestoneError: a mistake the user can mend. Interrupted: a signal asked for it and everything is saved.
    """
    main = train_run(run, folder, resume, console)
    if main is None:
        return folder / "report.html"
    main.print("evaluating on all held-out data, beside the floors ...")
    evaluate(folder, precision=run.training.precision, console=main)
    write_report([folder])
    note_end(folder)
    return write_report([folder])


def train_run(
    run: Run,
    folder: Path,
    resume: Resume = "auto",
    console: Console | None = None,
    scored: Scored | None = None,
) -> Console | None:
    """Prepare the data and train, without the evaluation and the report at the end; arguments as `pretrain`'s.

    Args:
        scored: is told the held-out figures each time they are taken, and may end the run by raising an error.

    Returns:
        The console of the main rank; None on others.
    """
    begun = began_for(time.time())
    keep_freed_memory()
    world = join_world()
    console = (console or Console()) if world.is_main else Console(quiet=True)
    check_folder(run, folder, resume)
    fresh = not has_begun(folder)
    taken_over = fresh and differs(run, folder)
    if taken_over:
        console.print(f"taken over {folder} held another recipe, of which no step was taken", highlight=False)
    with PrepareProgress(console) as progress:
        data = open_data(run, world, progress)
    built = Built(run, data, world, compute_format(run, None if fresh else folder, world))
    meter = Meter(
        built.objective.training_flops(built.model, data.row_tokens()),
        peak := gemm_peak(built.dtype, world.device) * world.size,
        world.device,
    )
    if world.is_main:
        if taken_over:
            (folder / CERTIFICATE).unlink(missing_ok=True)  # it is of the other recipe
        describe_folder(run, folder, built, peak, begun)
        introduce(console, built, folder, peak)
        precision = str(built.dtype).removeprefix("torch.")
        known = partial(known_of, run, data, built.objective, built.loader.epoch_units)
        told = store_plan(run, known, folder, precision, peak / world.size, world, fresh, begun)
        if told:
            console.print(f"plan       {told}", highlight=False, soft_wrap=True)
    state = resume_state(built, folder, console)
    log = open_log(run, folder, state) if world.is_main else None
    watch = Watch(built, folder, log, meter, console, data.held_out(run, built.objective), scored)
    try:
        train(built, watch, state)
    finally:
        built.loader.close()
        if log is not None:
            log.close()
    return console if world.is_main else None


def check_folder(run: Run, folder: Path, resume: Resume) -> None:
    """Refuse a folder that holds another run, or any run where resuming is not wanted. A run that never took a step
    stands in nobody's way."""
    if not (folder / "recipe.yaml").is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise CheckpointError(f"{folder}: is neither empty nor a run folder; name another folder")
        return
    if not has_begun(folder):
        return
    if resume == "never":
        raise CheckpointError(f"{folder}: already holds a run; name another folder with --run, or drop --resume never")
    changed = changed_paths(run, folder)
    if changed:
        raise CheckpointError(
            f"{folder}: holds a run of another recipe (it differs in {', '.join(changed[:5])}); name another folder"
        )


def changed_paths(run: Run, folder: Path) -> list[str]:
    """Where the recipe of a run folder differs from this one in what is learnt."""
    old, new = plain(open_run(folder)), plain(run)
    return [path for key in new if key not in MAY_CHANGE for path in differing(old[key], new[key], key)]


def has_begun(folder: Path) -> bool:
    """Whether a run left a checkpoint there, or a line of its log."""
    events = read_events(folder)
    return bool(checkpoints(folder) or events.rows or events.unreadable)


def differs(run: Run, folder: Path) -> bool:
    """Whether the folder has a recipe, and not this one."""
    kept = folder / "recipe.yaml"
    return kept.is_file() and kept.read_bytes() != to_yaml(run).encode()


def compute_format(run: Run, folder: Path | None, world: World) -> torch.dtype:
    """The run's number format: what it began with, lest a second measurement choose otherwise; else this machine's.

    Args:
        folder: of a run that has begun; None: this one begins.
    """
    try:
        told = "{}" if folder is None else (folder / "environment.json").read_text(encoding="utf-8")
        dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[json.loads(told)["precision"]]
    except (OSError, ValueError, KeyError, TypeError):
        dtype = compute_dtype(run.training.precision, world.device)
    return torch.bfloat16 if world.any(dtype == torch.bfloat16) else torch.float32


def describe_folder(run: Run, folder: Path, built: Built, peak: float, begun: float) -> None:
    """Write what the report needs to know beside the log; `begun` is when the run began, in unix seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(to_yaml(run), encoding="utf-8")
    facts = environment() | {
        "threads": torch.get_num_threads(),
        "device": str(built.world.device),
        "precision": str(built.dtype).removeprefix("torch."),
        "ranks": built.world.size,
        "parameters": built.parameters,
        "began": begun,
        "gemm_peak_flops": {str(built.dtype).removeprefix("torch."): peak},
    }
    (folder / "environment.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    (folder / "data.json").write_text(json.dumps(built.data.described(), indent=1), encoding="utf-8")


def note_end(folder: Path) -> None:
    """Keep when the command came to its end, in unix seconds, beside when it began."""
    path = folder / "environment.json"
    facts = json.loads(path.read_text(encoding="utf-8")) | {"finished": time.time()}
    write(path, json.dumps(facts, indent=1).encode())


def introduce(console: Console, built: Built, folder: Path, peak: float) -> None:
    """Say what is about to be trained, on what."""
    run, unit = built.run, built.data.unit
    planned = built.total_steps * built.step_units
    precision = str(built.dtype).removeprefix("torch.") + (
        "" if built.dtype == torch.float32 else " with float32 masters"
    )
    console.print(f"[bold]{run.name}[/]  {run.description}", highlight=False)
    console.print(
        f"model      {si(built.parameters)} parameters, {precision}\n"
        f"data       {built.data.summary()}\n"
        f"run        {built.total_steps:,} steps of {built.step_units:,} {unit} = {si(planned, unit)} "
        f"({planned / built.loader.epoch_units:.1f} epochs)\n"
        f"machine    {torch.get_num_threads()} threads, GEMM peak {si(peak, 'FLOP/s')} measured\n"
        f"folder     {folder}",
        highlight=False,
        soft_wrap=True,
    )


def resume_state(built: Built, folder: Path, console: Console) -> State:
    """Go on from the newest whole checkpoint, or begin."""
    newest, messages = newest_whole(folder)
    for message in messages:
        console.print(f"[yellow]passed over[/]  {message}", highlight=False)
    if newest is None:
        if checkpoints(folder):
            console.print("[yellow]no checkpoint is whole; starting from the beginning[/]")
        return State()
    console.print(f"resuming   from {newest}", highlight=False)
    return built.restore(newest)


def open_log(run: Run, folder: Path, state: State) -> RunLog:
    """The run's log, without what a killed process wrote after its last checkpoint."""
    log = RunLog(folder, build_trackers(run.trackers, folder, run.name, plain(run)))
    log.truncate(state.step if state.step else -1)
    return log


def train(built: Built, watch: Watch, state: State) -> State:
    """Run the loop with this run's parts and hooks."""
    training = built.run.training
    model = Compiled(built.model) if training.compile else built.model

    def roll_back() -> State:
        newest, _ = newest_whole(watch.folder)
        if newest is None:
            raise CheckpointError(f"{watch.folder}: no whole checkpoint to roll back to")
        return built.restore(newest)

    trainer = Trainer(
        spec=training,
        seed=built.run.seed,
        total_steps=built.total_steps,
        step_units=built.step_units,
        model=model,
        objective=built.objective,
        loader=built.loader,
        weights=built.weights,
        optimiser=built.optimiser,
        learning_rate=built.learning_rate,
        world=built.world,
        meter=watch.meter,
        hooks=watch.hooks(),
        updated=built.updated,
        save=watch.checkpoint,
        roll_back=roll_back,
        log_anomaly=watch.anomaly,
    )
    if training.anomaly.policy == "roll_back" and state.step == 0:
        watch.checkpoint(state)  # so that there is always something to return to
    begun = state.step
    state = trainer.run(state)
    if not read_events(watch.folder).of("end"):  # a kill may have come between the last checkpoint and this
        watch.write("end", state, seconds=watch.meter.total_seconds)
    if state.step > begun:
        watch.console.print(
            f"trained    {state.step - begun} steps in {clock(watch.meter.total_seconds)} "
            f"({si(watch.meter.total_units / watch.meter.total_seconds, f'{SHORT[built.data.unit]}/s')} on average)",
            highlight=False,
        )
    return state
