"""Stages of a rehearsal in which it trains: what is prepared, planned, started, kept, killed and resumed."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import torch

from corestone.core.errors import CorestoneError
from corestone.core.format import si
from corestone.core.runlog import FILE, Event, number, read_events
from corestone.core.units import Duration
from corestone.recipes.build import build_model
from corestone.recipes.checks.apart import checkpoints_apart
from corestone.recipes.checks.children import KILLS, killed_somewhere
from corestone.recipes.checks.scale import STEPS
from corestone.recipes.load import open_data
from corestone.recipes.made_up import step_size
from corestone.recipes.plan import Wanted, plan_recipe
from corestone.recipes.rehearsal.setting import Outcome, Setting, failed, passed, skipped, told
from corestone.recipes.rehearsal.stand_in import ALONE
from corestone.recipes.rehearsal.toy import whatever_the_processes
from corestone.train.archive import WEIGHTS
from corestone.train.checkpoint import checkpoint_folder, checkpoints, damage, newest_whole, read_tensors, step_of

HOOKS = 3
"""Lines that the log has of a step besides its own: a score, a sample, and a checkpoint when it is complete."""
APART = 1e-3
"""How far float32 losses and gradient norms may be from those of another number of processes, relative to these: the
sums are the same in another order (2.0e-7 at most in eight shipped recipes). Of weights nothing is demanded: where a
gradient is zero in exact arithmetic, as that of keys' biases is, Adam and Lion make whole steps of its rounding."""
COMPARED = ("loss", "grad_norm")


def prepare(setting: Setting) -> Outcome:
    """The data of here is prepared, as `corestone prepare` does, and fits the model."""
    data = open_data(setting.run, ALONE)
    data.check(build_model(setting.run.model, 0, torch.device("meta")))
    loader = data.loader(setting.run, step_size(setting.run)[0], ALONE)
    epoch = loader.epoch_units
    loader.close()
    others = [one.told for one in setting.instead if one is not None]
    shown = f"{data.summary()}; a pass has {si(epoch, data.unit)}"
    return passed("; ".join(others) or "the recipe's own data, all of it", shown)


def plan(setting: Setting) -> Outcome:
    """What the rehearsed run needs is foretold, as `corestone plan` does; at the end it stands beside what was
    measured."""
    data = open_data(setting.run, ALONE)
    loader = data.loader(setting.run, step_size(setting.run)[0], ALONE)
    wanted = Wanted(hardware="cpu", devices=setting.processes, available=float(loader.epoch_units))
    loader.close()
    found = plan_recipe(setting.run, wanted)
    size, memory = found["parameters"]["total"], found["memory"]["peak_bytes"]
    return passed(
        f"the plan of {STEPS} steps in {told(setting.processes)}",
        f"{si(size)} parameters, {si(memory, 'B')} a process",
    )


def start(setting: Setting) -> Outcome:
    """All processes find each other and train from the first step to the last; nobody kills them."""
    setting.begin(setting.whole, setting.run)
    setting.train(setting.whole, setting.processes)
    losses = [number(event, "loss") for event in _steps(setting.whole)]
    ran = f"{STEPS} steps in {told(setting.processes)}, {setting.run.training.precision}"
    if len(losses) != STEPS or not all(loss is not None and math.isfinite(loss) for loss in losses):
        return failed(ran, f"the log has {len(losses)} steps, of which not each has a finite loss")
    return passed(ran, f"loss from {losses[0]:.4g} to {losses[-1]:.4g}")


def _steps(folder: Path) -> list[Event]:
    return read_events(folder).of("train")


def checkpoint(setting: Setting) -> Outcome:
    """Checkpoints stand where the rhythm wants them, whole, and old ones are gone."""
    rhythm = setting.run.rhythm
    wanted = _rhythm(rhythm.checkpoint)[-rhythm.keep_last :]
    found = dict(checkpoints(setting.whole))
    ran = f"a checkpoint every {rhythm.checkpoint or 'run'}, of which {rhythm.keep_last} and the best are kept"
    lost = [step for step in wanted if step not in found]
    if lost or len(found) > rhythm.keep_last + 1:
        return failed(ran, f"there are those of steps {sorted(found)}, and {wanted} were to be kept")
    for path in found.values():
        problem = damage(path)
        if problem is not None:
            return failed(ran, f"{path.name} {problem}")
    size = sum(file.stat().st_size for file in found[STEPS].iterdir())
    steps = ", ".join(map(str, sorted(found)))
    return passed(ran, f"those of steps {steps}, whole, {si(size, 'B')} each")


def _rhythm(every: Duration | None) -> list[int]:
    """The steps behind which there is a checkpoint."""
    size = STEPS if every is None else int(every.value)
    return sorted({*range(size, STEPS + 1, size), STEPS})


def kill(setting: Setting) -> Outcome:
    """The same run once more, and in the middle of it SIGKILL to every process."""
    first, before = _rhythm(setting.run.rhythm.checkpoint)[0], 0

    def begin() -> list[subprocess.Popen[bytes]]:
        nonlocal before
        clear(setting.folder)
        before = setting.said_bytes()
        return setting.start(setting.folder, setting.processes)

    try:
        in_time = killed_somewhere(begin, setting.folder, (min(first, STEPS // 2) + HOOKS, STEPS - 2))
    except CorestoneError as error:
        raise CorestoneError(f"{error}: {setting.error(before)}") from None
    if not in_time:
        ran = f"SIGKILL to {told(setting.processes)}, {KILLS} times"
        return failed(ran, f"the run of {STEPS} steps was over before each kill, so nothing was resumed; try again")
    reached = max((int(event["step"]) for event in _steps(setting.folder)), default=0)
    left = [step for step, _ in checkpoints(setting.folder)]
    return passed(
        f"SIGKILL to {told(setting.processes)} behind step {reached}", f"checkpoints left: steps {left or 'none'}"
    )


def clear(folder: Path) -> None:
    """Forget what an attempt left in a run's folder."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / FILE).unlink(missing_ok=True)


def resume(setting: Setting) -> Outcome:
    """The killed run goes on from its newest checkpoint, in as many processes, and ends with the bits of the other."""
    newest, messages = newest_whole(setting.folder)
    ran = f"{told(setting.processes)} from {newest.name if newest else 'the beginning'} on"
    if messages:
        return failed(ran, messages[0])
    begun = 0 if newest is None else step_of(newest) or 0
    if newest is not None:
        shutil.copytree(newest, setting.middle / newest.name)
    kept = [event for event in _steps(setting.folder) if int(event["step"]) <= begun]
    setting.train(setting.folder, setting.processes)
    ended = [checkpoint_folder(folder, STEPS) for folder in (setting.whole, setting.folder)]
    worst, where, states = checkpoints_apart(*ended)
    if worst or not states:
        return failed(ran, f"ends elsewhere: {where} by {worst:.2g}" if worst else "ends with another state")
    if _steps(setting.folder)[: len(kept)] != kept:
        return failed(ran, f"began anew: the log before step {begun} is another one")
    return passed(ran, f"weights, optimiser and state after {STEPS} steps are those of the run that was not killed")


def resize(setting: Setting) -> Outcome:
    """The killed run's checkpoint also goes on in another number of processes, to the same losses."""
    run = whatever_the_processes(setting.run, setting.processes)
    if not setting.middle.is_dir():
        return skipped("the kill left no checkpoint to go on from")
    (middle,) = setting.middle.iterdir()
    reference, without = setting.whole, ""
    if run != setting.run:
        reference, without = setting.scratch / "as-many", ", both in float32 and without what depends on their number"
        _from(middle, setting, reference, setting.processes)
    others = setting.scratch / "others"
    _from(middle, setting, others, setting.other)
    ran = f"from {middle.name} on in {told(setting.other)} in place of {setting.processes}{without}"
    ours, theirs = ({int(event["step"]): event for event in _steps(folder)} for folder in (others, reference))
    gaps = {
        (name, step): abs(_figure(event, name) - _figure(theirs[step], name))
        / max(abs(_figure(theirs[step], name)), 1e-6)
        for step, event in ours.items()
        for name in COMPARED
    }
    (name, step), worst = max(gaps.items(), key=lambda gap: math.inf if math.isnan(gap[1]) else gap[1])
    moved = _weights_apart(setting, middle, checkpoint_folder(others, STEPS), checkpoint_folder(reference, STEPS))
    shown = (
        f"losses and gradient norms of {len(ours)} steps differ by {worst:.2g} of themselves ({name}, step {step}; at "
        f"most {APART:g}), weights in the end by {moved:.2g} of their way"
    )
    return passed(ran, shown) if worst <= APART else failed(ran, shown)


def _figure(event: Event, name: str) -> float:
    value = number(event, name)
    return math.nan if value is None else value


def _from(middle: Path, setting: Setting, folder: Path, processes: int) -> None:
    """Train from a checkpoint on in another folder."""
    setting.begin(folder, whatever_the_processes(setting.run, setting.processes))
    shutil.copytree(middle, folder / "checkpoints" / middle.name)
    setting.train(folder, processes, alike=True)


def _weights_apart(setting: Setting, middle: Path, ours: Path, theirs: Path) -> float:
    """How far parameters of two checkpoints are apart, relative to how far they have come from the one in the middle.
    What is remembered beside them each process has of its own."""
    names = [name for name, _ in build_model(setting.run.model, 0, torch.device("meta")).named_parameters()]
    begun, one, other = (read_tensors(folder / WEIGHTS) for folder in (middle, ours, theirs))
    gap = math.hypot(*(float((one[name] - other[name]).norm()) for name in names))
    return gap / max(math.hypot(*(float((other[name] - begun[name]).norm()) for name in names)), 1e-30)
