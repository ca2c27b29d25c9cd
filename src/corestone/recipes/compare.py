"""Several recipes on one budget: every recipe with every seed, one run after the other, then one page about all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console

from corestone.core.errors import CorestoneError, Interrupted, SpecError
from corestone.core.spec import override
from corestone.recipes.budget import Contender
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.pretrain import check_folder, pretrain
from corestone.recipes.processes import end_with_parent, hold
from corestone.recipes.spec import Run
from corestone.report.folder import read_run
from corestone.report.write import write_comparison
from corestone.train.checkpoint import checkpoint_folder
from corestone.train.signals import StopFlag, stop_flag


@dataclass(frozen=True)
class Job:
    """One of several runs.

    Attributes:
        printed: a file for what the run says; None: the terminal.
    """

    recipe: str
    assignments: tuple[str, ...]
    run: Run
    folder: Path
    printed: Path | None = None


def compare(found: Sequence[Contender], seeds: int, out: Path, console: Console | None = None) -> Path:
    """Train each recipe with seeds `seed`, `seed + 1`, ... into `out/NAME/seed-S`, then write the page.

    Finished runs are left as they are, interrupted ones go on. A run that fails is named at the end and keeps no other
    from being trained.

    Returns:
        The path of comparison.html, beside which comparison.json and the plots stand.

    Raises:
        CorestoneError: a mistake the user can mend, or runs that failed. Interrupted: a signal asked for it, and
            everything is saved.
    """
    console = console or Console()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SpecError("compare: trains each run on one rank by itself; call it without torchrun")
    jobs = {contender.folder: plan(contender, seeds, out) for contender in found}
    every = [job for group in jobs.values() for job in group]
    for job in every:
        check_folder(job.run, job.folder, "auto")
    open_jobs = [job for job in every if not finished(job.folder)]
    console.print(
        f"[bold]comparison[/]  {len(found)} recipes x {seeds} seeds = {len(every)} runs, "
        f"{len(every) - len(open_jobs)} of them finished, in {out}",
        highlight=False,
        soft_wrap=True,
    )
    failures = train_all(open_jobs, out, console)
    begun = {
        name: folders
        for name, group in jobs.items()
        if (folders := [job.folder for job in group if (job.folder / "recipe.yaml").is_file()])
    }
    page = write_comparison(begun, out) if begun else None
    if failures or page is None:
        raise CorestoneError(f"compare: {len(failures)} of {len(every)} runs failed: {'; '.join(failures)}")
    return page


def plan(contender: Contender, seeds: int, out: Path) -> list[Job]:
    """A recipe's runs."""
    jobs = []
    for seed in range(contender.run.seed, contender.run.seed + seeds):
        assignment = f"seed={seed}"
        run = override(contender.run, [assignment])
        folder = out / contender.folder / f"seed-{seed}"
        jobs.append(Job(contender.recipe, (*contender.assignments, assignment), run, folder))
    return jobs


def finished(folder: Path) -> bool:
    """Whether a run was trained to its end, evaluated there and reported."""
    if not (folder / "report.html").is_file():
        return False
    run = read_run(folder)
    ends = run.events.of("end")
    evaluated = Path(str((run.evaluation or {}).get("checkpoint")))
    return bool(ends) and evaluated.name == checkpoint_folder(folder, ends[-1]["step"]).name


def train_all(jobs: Sequence[Job], out: Path, console: Console) -> list[str]:
    """Train runs one after the other and tell which failed and why."""
    failures = []
    with stop_flag() as stop:
        for number, job in enumerate(jobs, start=1):
            console.rule(f"run {number} of {len(jobs)}: {job.run.name}, seed {job.run.seed}")
            problem = _in_own_process(job, out / ".lock", stop)
            if stop.signum is not None:
                raise Interrupted(stop.signum, f"stopped in run {number} of {len(jobs)}; everything is saved")
            if problem is not None:
                failures.append(f"{job.folder}: {problem}")
                console.print(f"[red]failed[/]     {failures[-1]}", highlight=False, soft_wrap=True)
    return failures


def _in_own_process(job: Job, lock: Path, stop: StopFlag) -> str | None:
    """Train in a fresh process, so that each run's peak memory is its own. Returns what went wrong.

    The process begins deaf to Ctrl-C, which a terminal sends to it too; a stop comes from here, as SIGTERM.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    answer, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(job.recipe, job.assignments, job.folder, job.printed, lock, sender))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.start()
    signal.signal(signal.SIGINT, handler)
    try:
        while stop.signum is None and process.is_alive():
            process.join(0.2)
    finally:
        process.terminate()  # does nothing where it has ended
        process.join()
    if process.exitcode == 0:
        return None
    return str(answer.recv()) if answer.poll() else f"its process ended with exit code {process.exitcode}"


def _train(
    recipe: str, assignments: Sequence[str], folder: Path, printed: Path | None, lock: Path, answer: Connection
) -> None:
    """The whole life of the process of one run."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        with lock.open("w") as file, printed.open("a", encoding="utf-8") if printed else nullcontext() as text:
            hold(file.fileno(), lock)
            console = Console(file=text, width=160) if text else None
            pretrain(find_recipe(recipe, [*assignments]), folder, console=console)
    except Interrupted as asked:
        sys.exit(128 + asked.signum)
    except KeyboardInterrupt:  # Ctrl-C for the second time
        sys.exit(128 + signal.SIGINT)
    except (CorestoneError, OSError) as error:
        answer.send(str(error))
        sys.exit(2)
