"""A search for the best values of a recipe's keys: many runs, the weak ones ended early, then one page about all.

Optuna proposes values (a tree-structured Parzen estimator, Bergstra et al. 2011) and ends trials by successive halving
(Li et al. 2020). This process alone writes its storage; each trial is a run folder, trained by a process of its own
that waits for an answer at every held-out score.
"""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from corestone.core.errors import CorestoneError, Interrupted, SpecError, unknown
from corestone.core.metric import Metric
from corestone.core.rng import fold
from corestone.core.runlog import read_events
from corestone.core.spec import fingerprint, plain
from corestone.parallel.collectives import World, join_world
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.load import open_data
from corestone.recipes.pretrain import train_run
from corestone.recipes.processes import end_with_parent, hold
from corestone.recipes.show_progress import PrepareProgress
from corestone.recipes.space import Choice, Dimension, Range, Value, check_space
from corestone.recipes.spec import Run
from corestone.report.sweep import Sweep, Trial, write_sweep
from corestone.report.units import SHARES, quality_of
from corestone.train.signals import StopFlag, stop_flag
from corestone.train.state import State

HALVING = 2
"""At held-out scores 1, 2, 4, 8, ... a trial goes on if it is among the best half of those that came as far."""

FEWEST_FOR_IMPORTANCE = 4
"""Finished trials below which no importance is told."""


@dataclass(frozen=True)
class Plan:
    """What a sweep does.

    Attributes:
        recipe: as it is named on the command line.
        fixed: overrides of every trial.
        metric: held-out figure by its name in the log; None: the one by which such runs are judged.
        prune: whether weak trials end early.
    """

    recipe: str
    space: Sequence[Dimension]
    fixed: Sequence[str]
    trials: int = 20
    jobs: int = 1
    metric: str | None = None
    prune: bool = True


@dataclass
class Running:
    """A trial under way: Optuna's record of it, its process and the line to that."""

    trial: Any
    process: Any
    answer: Connection
    reason: str | None = None
    pruned: bool = False


class Pruned(Exception):  # noqa: N818 (it is no error)
    """The trial is among the weaker half."""


def load_optuna() -> Any:
    """The module; SpecError tells how to install it where it is missing."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise SpecError("sweep: needs Optuna; install it with: pip install 'corestone[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def sweep(plan: Plan, out: Path, console: Console | None = None) -> Path:
    """Search until the folder holds `plan.trials` trials, then write the page.

    Finished trials are left as they are and interrupted ones go on. A trial that fails counts as one, and its reason is
    shown.

    Returns:
        The path of sweep.html, beside which sweep.json stands.

    Raises:
        CorestoneError: a mistake the user can mend, or no trial that finished. Interrupted: a signal asked for it, and
            everything is saved.
    """
    optuna = load_optuna()
    console = console or Console()
    world = join_world()
    if world.size > 1:
        raise SpecError("sweep: trains each trial on one rank by itself; call it without torchrun, with --jobs")
    base = find_recipe(plan.recipe, [*plan.fixed])
    check_space(base, plan.space)
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpecError(f"{out}: another sweep is at work here; wait for it, or name another folder") from None
        study = open_study(optuna, plan, base, out)
        prepare_once(base, world, console)
        introduce(study, plan, base, out, console)
        with stop_flag() as stop:
            search(optuna, study, plan, base, out, console, stop)
        found = summarised(optuna, study, plan, base, out)
        page = write_sweep(found, out)
    show(found, console)
    if found.best is None:
        reasons = [trial.reason for trial in found.trials if trial.reason]
        raise CorestoneError(f"sweep: none of {len(found.trials)} trials finished; the first: {reasons[0]}")
    return page


def open_study(optuna: Any, plan: Plan, base: Run, out: Path) -> Any:
    """The sweep's storage, an SQLite file, which a kill at any moment leaves whole; SpecError where it is another's.

    Scores are stored so that less is better: those of which more is better by their negative.
    """
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALVING)
    study = optuna.create_study(
        storage=f"sqlite:///{(out / 'study.db').resolve()}",
        study_name="sweep",
        pruner=pruner if plan.prune else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    described = {dimension.path: plain_dimension(dimension) for dimension in plan.space}
    own = fingerprint({"recipe": {**plain(base), "name": "", "description": ""}, "space": described})
    if study.user_attrs.setdefault("sweep", own) != own:
        raise SpecError(f"{out}: holds a sweep of another recipe or of other ranges; name another folder with --out")
    study.set_user_attr("sweep", own)
    before = study.user_attrs.get("metric")
    if before is not None and plan.metric is not None and plan.metric != before:
        raise SpecError(f"{out}: holds a sweep judged by '{before}', not '{plan.metric}'; name another folder")
    return study


def plain_dimension(dimension: Dimension) -> Any:
    """A dimension as plain values, for the fingerprint."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(dimension).items()}


def prepare_once(base: Run, world: World, console: Console) -> None:
    """Prepare the data before several processes want it at once."""
    with PrepareProgress(console) as progress:
        open_data(base, world, progress)


def introduce(study: Any, plan: Plan, base: Run, out: Path, console: Console) -> None:
    """Say what is about to be searched."""
    made = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    console.print(
        f"[bold]sweep[/]      {base.name}: {plan.trials} trials, {len(made)} of them done, {plan.jobs} at a time\n"
        f"searched   {'; '.join(told(dimension) for dimension in plan.space)}\n"
        f"pruning    {'at scores 1, 2, 4, 8, ... the weaker half' if plan.prune else 'off'}\n"
        f"folder     {out}",
        highlight=False,
        soft_wrap=True,
    )


def told(dimension: Dimension) -> str:
    """A dimension in words."""
    if isinstance(dimension, Choice):
        return f"{dimension.path} of {', '.join(dimension.values)}"
    kind = ("whole, " if dimension.whole else "") + ("logarithmic" if dimension.log else "linear")
    return f"{dimension.path} from {dimension.low:g} to {dimension.high:g} ({kind})"


def search(optuna: Any, study: Any, plan: Plan, base: Run, out: Path, console: Console, stop: StopFlag) -> None:
    """Run trials until there are enough; those that a kill left open first."""
    states = optuna.trial.TrialState
    left = [optuna.trial.Trial(study, t._trial_id) for t in study.get_trials(deepcopy=False, states=[states.RUNNING])]
    running: dict[Connection, Running] = {}
    try:
        while stop.signum is None:
            while len(running) < plan.jobs and (left or len(study.get_trials(deepcopy=False)) < plan.trials):
                one = begin(left.pop(0) if left else propose(optuna, study, plan, base), plan, out)
                running[one.answer] = one
                console.print(f"trial {one.trial.number:>3}  {values_in_words(one.trial.params)}", highlight=False)
            if not running:
                return
            for line in wait([*running], timeout=0.2):
                one = running[line]  # type: ignore[index]
                if not heard(study, one, plan):
                    del running[one.answer]
                    finish(states, study, one, console)
    finally:
        for one in running.values():
            one.answer.close()
            one.process.terminate()
        for one in running.values():
            one.process.join()
    raise Interrupted(stop.signum or 0, "stopped; the trials under way are saved")


def propose(optuna: Any, study: Any, plan: Plan, base: Run) -> Any:
    """A new trial with values for all dimensions; they follow from the recipe's seed, the trial's number and what was
    known when it began."""
    number = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=fold(base.seed, "sweep", number) % 2**32, constant_liar=True)
    trial = study.ask()
    for dimension in plan.space:
        if isinstance(dimension, Choice):
            trial.suggest_categorical(dimension.path, list(dimension.values))
        elif dimension.whole:
            trial.suggest_int(dimension.path, int(dimension.low), int(dimension.high), log=dimension.log)
        else:
            trial.suggest_float(dimension.path, dimension.low, dimension.high, log=dimension.log)
    return trial


def folder_of(out: Path, number: int) -> Path:
    """A trial's run folder."""
    return out / "trials" / f"{number:04d}"


def assignments_of(params: dict[str, Value]) -> list[str]:
    """A trial's values as overrides; floats in full."""
    return [f"{path}={value}" for path, value in params.items()]


def values_in_words(params: dict[str, Value]) -> str:
    """A trial's values for people."""
    return "  ".join(
        f"{path}={value:.4g}" if isinstance(value, float) else f"{path}={value}" for path, value in params.items()
    )


def begin(trial: Any, plan: Plan, out: Path) -> Running:
    """Start a trial's process. It begins deaf to Ctrl-C, which a terminal sends to it too; a stop comes from here."""
    folder = folder_of(out, trial.number)
    folder.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    assignments = (*plan.fixed, *assignments_of(trial.params))
    process = context.Process(target=_train, args=(plan.recipe, assignments, folder, plan.jobs, plan.metric, there))
    handler = (
        signal.signal(signal.SIGINT, signal.SIG_IGN) if threading.current_thread() is threading.main_thread() else None
    )
    process.start()
    if handler is not None:
        signal.signal(signal.SIGINT, handler)
    there.close()
    return Running(trial, process, here)


def heard(study: Any, one: Running, plan: Plan) -> bool:
    """Take what a trial has to say and answer; False where it has ended.

    Raises SpecError where the trial has no such figure as the sweep is to be judged by.
    """
    try:
        kind, *told = one.answer.recv()
    except (EOFError, ConnectionResetError):
        return False
    if kind == "failed":
        (one.reason,) = told
    elif kind == "no metric":
        raise SpecError(f"sweep: --metric: {told[0]}")
    else:
        count, value, name, unit = told
        if "metric" not in study.user_attrs:
            for key, fact in (("metric", name), ("unit", unit), ("more_is_better", unit in SHARES)):
                study.set_user_attr(key, fact)
        one.trial.report(-value if study.user_attrs["more_is_better"] else value, count)
        one.pruned = plan.prune and bool(one.trial.should_prune())
        with suppress(BrokenPipeError):  # it was killed meanwhile
            one.answer.send(one.pruned)
    return True


def finish(states: Any, study: Any, one: Running, console: Console) -> None:
    """Write down how a trial ended."""
    one.answer.close()
    one.process.join()
    scores = study.get_trials(deepcopy=False)[one.trial.number].intermediate_values
    last = scores[max(scores)] if scores else math.nan
    sign = -1 if study.user_attrs.get("more_is_better") else 1
    if one.pruned:
        study.tell(one.trial, state=states.PRUNED)
        said = f"[yellow]pruned[/] at score {max(scores)}: {sign * last:.4f}"
    elif one.process.exitcode != 0 or not math.isfinite(last):
        reason = one.reason or (
            f"its score is {last}" if one.process.exitcode == 0 else f"its process ended with {one.process.exitcode}"
        )
        one.trial.set_user_attr("reason", reason)
        study.tell(one.trial, state=states.FAIL)
        said = f"[red]failed[/] {reason}"
    else:
        study.tell(one.trial, last)
        said = f"[green]finished[/] {sign * last:.4f}"
    console.print(f"trial {one.trial.number:>3}  {said}", highlight=False, soft_wrap=True)


def _train(
    recipe: str, assignments: Sequence[str], folder: Path, jobs: int, metric: str | None, answer: Connection
) -> None:
    """The whole life of the process of one trial; what it prints goes to a file beside its folder."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    lock = folder.with_name(f".{folder.name}.lock")

    def scored(state: State, metrics: Sequence[Metric]) -> None:
        named = {found.name: found for found in metrics}
        if metric is not None and metric not in named:
            answer.send(("no metric", unknown("metric", metric, named)))
        by = named.get(metric or quality_of(named).key, metrics[0])
        count = len(read_events(folder).of("evaluate"))
        answer.send(("score", count, float(by.value), by.name, by.unit))
        if answer.recv():
            raise Pruned

    try:
        with lock.open("w") as held, folder.with_suffix(".txt").open("a", encoding="utf-8") as text:
            hold(held.fileno(), lock)
            train_run(find_recipe(recipe, [*assignments]), folder, console=Console(file=text, width=160), scored=scored)
    except Pruned:
        return
    except (EOFError, BrokenPipeError, KeyboardInterrupt):  # the sweep has ended, or wants to at once
        sys.exit(128 + signal.SIGTERM)
    except Interrupted as asked:
        sys.exit(128 + asked.signum)
    except (CorestoneError, OSError, RuntimeError) as error:  # RuntimeError: out of memory, among others
        answer.send(("failed", " ".join(str(error).split())))
        sys.exit(2)


def summarised(optuna: Any, study: Any, plan: Plan, base: Run, out: Path) -> Sweep:
    """What the report needs to know."""
    facts = study.user_attrs
    sign = -1 if facts.get("more_is_better") else 1
    words = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    trials = []
    for trial in study.get_trials(deepcopy=False):
        scores = [sign * trial.intermediate_values[count] for count in sorted(trial.intermediate_values)]
        trials.append(
            Trial(
                number=trial.number,
                state=words.get(trial.state.name, "open"),
                values=dict(trial.params),
                scores=scores,
                reason=trial.user_attrs.get("reason", ""),
                folder=folder_of(out, trial.number),
            )
        )
    return Sweep(
        recipe=plan.recipe,
        name=base.name,
        metric=facts.get("metric", plan.metric or "score"),
        unit=facts.get("unit", ""),
        more_is_better=bool(facts.get("more_is_better")),
        fixed=list(plan.fixed),
        logarithmic={d.path for d in plan.space if isinstance(d, Range) and d.log},
        choices={d.path: list(d.values) for d in plan.space if isinstance(d, Choice)},
        trials=trials,
        importance=importance(optuna, study),
    )


def importance(optuna: Any, study: Any) -> dict[str, float]:
    """The share of each key in what tells good finished trials from others (PED-ANOVA, Watanabe et al. 2023); empty
    where too few have finished."""
    finished = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if len(finished) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in finished}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def show(found: Sweep, console: Console) -> None:
    """The best trials as a table, and how many ended how."""
    paths = list(dict.fromkeys(path for trial in found.trials for path in trial.values))
    short = [path.rsplit(".", 1)[-1] for path in paths]
    heads = short if len(set(short)) == len(short) else paths
    table = Table("trial", f"{found.metric}, {found.unit}", "", *heads, title="best trials", title_justify="left")
    for trial in found.ranked()[:10]:
        values = [found.shown(trial.values.get(path)) for path in paths]
        table.add_row(str(trial.number), f"{trial.score:.4f}", trial.state, *values)
    console.print(table)
    counts = found.counts()
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()), highlight=False)
    for trial in found.trials:
        if trial.reason:
            console.print(f"[red]failed[/]     trial {trial.number}: {trial.reason}", highlight=False, soft_wrap=True)
    for path, share in found.importance.items():
        console.print(f"importance {path} {share:.0%}", highlight=False)
    if found.best is not None:
        console.print(f"best       {found.command()}", highlight=False, soft_wrap=True)
