"""A learning-rate range test: one short run whose rate rises until the loss blows up (Smith 2017, section 3.3)."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from corestone.core.environment import began_for
from corestone.core.errors import CheckpointError, CorestoneError, Interrupted
from corestone.core.format import clock
from corestone.core.spec import parse, plain
from corestone.core.units import duration
from corestone.optim.spec import ExponentialRise
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.collectives import join_world
from corestone.parallel.peak import gemm_peak
from corestone.recipes.build import Built
from corestone.recipes.hooks import Watch
from corestone.recipes.load import is_run, open_data
from corestone.recipes.pretrain import changed_paths, compute_format, describe_folder, open_log
from corestone.recipes.show_progress import PrepareProgress
from corestone.recipes.space import RATES
from corestone.recipes.spec import Run
from corestone.recipes.steps import Changes, Diverged, train_steps
from corestone.report.folder import RANGE_TEST, read_run
from corestone.report.range_test import BLOWN_UP, RangeTest, files, lines, read_off, span_of
from corestone.report.write import write, write_report
from corestone.train.loop import Hook, StepResult
from corestone.train.meter import Meter
from corestone.train.spec import Anomaly, Rhythm
from corestone.train.state import State

FEWEST_STEPS, MOST_STEPS, SECONDS = 100, 300, 60.0
"""A test takes as many steps as this time has room for, between the two, where it is not said."""

TIMED = 3
"""Steps by which that is found; the first one, which allocates, does not count."""

TOLD = 10
"""Lines of progress."""

OF_ONE_TEST = ("optimiser.learning_rate", "schedule.initial", "training.length")
"""Where tests of one recipe may differ: rates and steps are told anew with each."""

OWN_FOLDER = "a range test begins in a folder of its own: name one with --out"


class Over(Exception):  # noqa: N818 (it is no error)
    """The loss has blown up; the test is over."""


@dataclass
class Climb:
    """What was measured on the way up.

    Attributes:
        steps: planned.
        best: least mean of the losses of the last `span_of(steps)` steps.
        ended: why it ended, where that was before the last step.
    """

    steps: int
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    best: float = math.inf
    ended: str = ""

    def step(self, rate: float, loss: float) -> None:
        """Take a step's rate, and its loss, which was measured before it. Raises Over where the loss has blown up."""
        self.rates.append(rate)
        self.losses.append(loss)
        span = span_of(self.steps)
        if len(self.losses) < span:
            return
        mean = statistics.fmean(self.losses[-span:])
        self.best = min(self.best, mean)
        if mean > BLOWN_UP * self.best:
            self.ended = (
                f"it ended after {len(self.losses)}, when the mean loss of {span} was {BLOWN_UP:g} times its best"
            )
            raise Over

    def diverged(self, rate: float, found: Diverged) -> None:
        """Take the rate of the last step, at which the loss or the gradient is not finite. CorestoneError where that is
        the first step."""
        if not self.losses:
            raise CorestoneError(
                f"range test: {found.problem} before any step was taken; the model, its start or its data is at fault, "
                "not the rate (corestone check RECIPE initial-loss data)"
            )
        self.rates.append(rate)
        self.losses.append(math.nan)  # what the step before led to
        self.ended = f"it ended after {found.step}: {found.problem}"


def range_test(
    run: Run,
    folder: Path,
    bounds: tuple[float, float] = RATES,
    steps: int | None = None,
    console: Console | None = None,
) -> Path:
    """Test the rates between two bounds on a recipe: its model, objective, data, optimiser, batch and clipping.

    The run folder gets range-test.json, range-test.png and a report with a section about the test; no checkpoint is
    kept.

    Args:
        bounds: lowest and highest rate.
        steps: None: as many as a minute has room for, between 100 and 300; three steps at the lowest rate are timed,
            and thrown away.

    Returns:
        The path of report.html.

    Raises:
        CorestoneError: a mistake the user can mend, or a loss that is not finite before anything is learnt.
        Interrupted: a signal asked for it; such a test begins anew.
    """
    keep_freed_memory()
    world = join_world()
    console = (console or Console()) if world.is_main else Console(quiet=True)
    check_free(run, folder)
    with PrepareProgress(console) as progress:
        data = open_data(run, world, progress)
    dtype = compute_format(run, None, world)
    if steps is None:
        lowest = (bounds[0], 1.001 * bounds[0])  # at high rates the loss might blow up before anything is timed
        built = Built(risen(run, lowest, TIMED), data, world, dtype)
        steps = _room(built)
        built.loader.close()
    built = Built(risen(run, bounds, steps), data, world, dtype)
    console.print(
        f"[bold]range test[/] {run.name}: {run.optimiser.kind} from {bounds[0]:g} to {bounds[1]:g} in {steps} steps\n"
        f"folder     {folder}",
        highlight=False,
        soft_wrap=True,
    )
    climb = _climbed(built, folder, console)
    ended = climb.ended or f"it took all {steps}"
    # Each rate with the loss of the batch after its step; what the last step led to was not measured.
    found = read_off(bounds, steps, climb.rates[:-1], climb.losses[1:], ended, bool(climb.ended))
    if not world.is_main:
        return folder / "report.html"
    show(found, console)
    for name, content in files(found, read_run(folder)).items():
        write(folder / name, content)
    return write_report([folder])


def check_free(run: Run, folder: Path) -> None:
    """Refuse a folder that holds anything but an unfinished test of this recipe, which is begun anew."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if (folder / RANGE_TEST).exists() or not is_run(folder):
        raise CheckpointError(f"{folder}: is not empty; {OWN_FOLDER}")
    test = risen(run, RATES, MOST_STEPS)
    changed = [path for path in changed_paths(test, folder) if path not in OF_ONE_TEST]
    if changed:
        raise CheckpointError(
            f"{folder}: holds something else than an unfinished test of {run.name} (it differs in "
            f"{', '.join(changed[:5])}); {OWN_FOLDER}"
        )


def risen(run: Run, bounds: tuple[float, float], steps: int) -> Run:
    """The recipe of the test. What changes nothing that is learnt is left out: averages, compilation, samples."""
    low, high = bounds
    training = run.training.model_copy(
        update={
            "length": duration(f"{steps} steps"),
            "anomaly": Anomaly(),
            "average": None,
            "noise_scale": None,
            "compile": False,
        }
    )
    rhythm = Rhythm(log=duration("1 steps"), evaluate=None, sample=None, checkpoint=None)
    changed = {
        "optimiser": run.optimiser.model_copy(update={"learning_rate": high}),
        "schedule": ExponentialRise(initial=low / high),
        "training": training,
        "rhythm": rhythm,
        "trackers": (),
    }
    return parse(Run, plain(run.model_copy(update=changed)), "range test")


def _room(built: Built) -> int:
    """How many steps there is time for."""
    times: list[float] = []
    meter = Meter(1.0, 1.0, built.world.device)

    def tick(state: State, result: StepResult | None) -> None:
        meter.read()  # waits for the device
        times.append(time.perf_counter())

    try:
        train_steps(built, TIMED, Changes(meter=meter, hooks=[Hook(1, tick)]))
    except Diverged:
        return FEWEST_STEPS  # the test will end as soon, and say why
    room = torch.tensor(SECONDS * (len(times) - 1) / max(1e-9, times[-1] - times[0]), dtype=torch.float64)
    room = room.to(built.world.device)
    built.world.sum_([room])  # all ranks take as many
    return round(min(MOST_STEPS, max(FEWEST_STEPS, float(room) / built.world.size)))


def _climbed(built: Built, folder: Path, console: Console) -> Climb:
    """Rise, and write down what happens in the run's folder."""
    world, data, climb = built.world, built.data, Climb(built.total_steps)
    peak = gemm_peak(built.dtype, world.device) * world.size
    meter = Meter(built.objective.training_flops(built.model, data.row_tokens()), peak, world.device)
    if world.is_main:
        describe_folder(built.run, folder, built, peak, began_for(time.time()))
    log = open_log(built.run, folder, State()) if world.is_main else None
    watch = Watch(built, folder, log, meter, Console(quiet=True), data.held_out(built.run, built.objective))
    try:
        _climb(built, watch, climb, console)
    finally:
        built.loader.close()
        if log is not None:
            log.close()
    return climb


def _climb(built: Built, watch: Watch, climb: Climb, console: Console) -> None:
    """Rise to the highest rate, or until the loss has blown up."""
    reached = State()

    def judge(state: State, result: StepResult | None) -> None:
        reached.step = state.step
        if result is None:
            return
        if state.step % max(1, climb.steps // TOLD) == 0:
            console.print(
                f"step {state.step:>{len(str(climb.steps))}}/{climb.steps}  lr {result.learning_rate:.2e}  "
                f"loss {result.loss:.4f}",
                highlight=False,
            )
        climb.step(result.learning_rate, result.loss)

    begun = time.perf_counter()
    changes = Changes(meter=watch.meter, hooks=[Hook(1, watch.progress), Hook(1, judge)])
    try:
        train_steps(built, climb.steps, changes)
    except Over:
        pass
    except Diverged as found:
        climb.diverged(built.learning_rate(found.step), found)
    except Interrupted as asked:
        raise Interrupted(asked.signum, f"stopped after step {reached.step}; the range test begins anew") from None
    watch.write("end", reached, seconds=watch.meter.total_seconds)
    console.print(f"took       {clock(time.perf_counter() - begun)} for {reached.step} steps", highlight=False)


def show(found: RangeTest, console: Console) -> None:
    """What was read off, as a table."""
    table = Table("rate of", "learning rate", "smoothed loss", title=f"range test: {found.ended}", title_justify="left")
    for name, rate, loss in lines(asdict(found)):
        table.add_row(name, "none" if rate is None else f"{rate:.3g}", "" if loss is None else f"{loss:.4g}")
    console.print(table)
    console.print(f"suggested  {found.rule}", highlight=False)
    if found.why_none:
        console.print(f"[yellow]no rate is suggested[/]: {found.why_none}", highlight=False, soft_wrap=True)
