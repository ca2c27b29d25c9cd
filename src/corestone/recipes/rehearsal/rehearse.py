"""The whole life of a recipe at toy width, stage by stage, and what came of it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from corestone.core.environment import environment
from corestone.core.errors import CheckpointError, CorestoneError, SpecError
from corestone.core.runlog import spelled
from corestone.core.spec import fingerprint, plain
from corestone.parallel.precision import compute_dtype
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.rehearsal import training_stages, use_stages
from corestone.recipes.rehearsal.setting import Outcome, Setting, failed, skipped
from corestone.recipes.rehearsal.stand_in import ALONE, sources_here
from corestone.recipes.rehearsal.toy import rehearsed
from corestone.report.figures import measured
from corestone.report.folder import REHEARSAL, read_run
from corestone.report.planned import held_to_account
from corestone.report.write import write, write_report

VERSION = 1

STAGES: dict[str, tuple[Callable[[Setting], Outcome], tuple[str, ...]]] = {
    "prepare": (training_stages.prepare, ()),
    "plan": (training_stages.plan, ("prepare",)),
    "start": (training_stages.start, ("prepare",)),
    "checkpoint": (training_stages.checkpoint, ("start",)),
    "kill": (training_stages.kill, ("start",)),
    "resume": (training_stages.resume, ("kill",)),
    "resize": (training_stages.resize, ("resume",)),
    "evaluate": (use_stages.evaluate, ("resume",)),
    "generate": (use_stages.generate, ("resume",)),
    "export": (use_stages.export, ("resume",)),
    "import": (use_stages.import_, ("export",)),
    "report": (use_stages.report, ("evaluate",)),
}
"""Each stage, and those that it needs to have passed."""


def rehearse(
    recipe: str, assignments: Sequence[str], processes: int, out: Path | None, console: Console
) -> dict[str, Any]:
    """Rehearse a recipe on the CPU.

    Args:
        recipe: as `pretrain` takes it.
        processes: that stand for its devices.
        out: the rehearsal's folder; None: `runs/rehearsals/NAME`. An earlier rehearsal there is replaced.

    Returns:
        What `rehearsal.json` in that folder holds: `recipe`, `scaled`, `stages` (each with its name, verdict, what ran
        and was shown, the reason and seconds), `plan` (predicted beside measured) and `passed`, which is False where a
        stage failed.

    Raises:
        SpecError: called under torchrun.
        CheckpointError: the folder holds something else.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SpecError("rehearse: starts the processes it needs itself; call it without torchrun")
    whole = find_recipe(recipe, [*assignments])
    folder = _empty(out or Path("runs") / "rehearsals" / whole.name)
    with tempfile.TemporaryDirectory(prefix="corestone-rehearse-") as scratch:
        with console.status("looking for the data"):
            setting, scaled = open_setting(recipe, assignments, processes, folder, Path(scratch))
        console.print(f"[bold]{whole.name}[/], rehearsed in {folder}", highlight=False)
        for line in scaled:
            console.print(f"  {line}", highlight=False, markup=False)
        facts = {
            "version": VERSION,
            "recipe": whole.name,
            "fingerprint": fingerprint(plain(whole)),
            "processes": processes,
            "scaled": scaled,
            "environment": environment(),
            "time": round(time.time(), 3),
        }
        found = all_stages(setting, facts, console)
    told = _keep(facts, found, folder)
    write_report([folder])  # once more, with what came of all stages
    _show(told, console, folder)
    return told


def open_setting(
    recipe: str, assignments: Sequence[str], processes: int, folder: Path, scratch: Path
) -> tuple[Setting, list[str]]:
    """Find a recipe and the data that is here, bring it to toy width and begin its folder; and what was changed, in
    words.

    Raises:
        DataError: data that is here and cannot be read.
    """
    whole = find_recipe(recipe, [*assignments])
    instead = tuple(sources_here(whole, folder / "data"))
    precision = str(compute_dtype(whole.training.precision, ALONE.device)).removeprefix("torch.")
    run, scaled = rehearsed(whole, processes, instead, "float32" if precision == "float32" else "bfloat16")
    other = 1 if processes > 1 else 2
    setting = Setting(recipe, tuple(assignments), processes, other, instead, run, folder, scratch)
    setting.begin(folder, run)
    return setting, scaled


def _empty(folder: Path) -> Path:
    """A folder for a rehearsal, without an earlier one; CheckpointError where it holds something else."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / REHEARSAL).is_file():
            raise CheckpointError(f"{folder}: is neither empty nor a rehearsal's; name another folder with --out")
        shutil.rmtree(folder)
    write(folder / REHEARSAL, b"{}")  # so that what breaks off before the first stage can be replaced too
    return folder


Found = dict[str, tuple[Outcome, float]]
"""What came of each stage so far, and its seconds."""


def all_stages(setting: Setting, facts: dict[str, Any], console: Console) -> Found:
    """Try the stages in their order.

    Args:
        facts: what `rehearsal.json` says besides.
    """
    found: Found = {}
    for name, (stage, needs) in STAGES.items():
        _keep(facts, found, setting.folder)  # so that the report shows what was, and a broken-off one can be replaced
        begun = time.perf_counter()
        lacking = [need for need in needs if found[need][0].verdict != "passed"]
        with console.status(name):
            outcome = skipped(_lacks(lacking[0], found)) if lacking else _tried(stage, setting)
        found[name] = outcome, time.perf_counter() - begun
    return found


def _lacks(need: str, found: Found) -> str:
    return f"needs {need}, which {'failed' if found[need][0].verdict == 'failed' else 'was skipped'}"


def _tried(stage: Callable[[Setting], Outcome], setting: Setting) -> Outcome:
    """What came of a stage. One that breaks off has failed: models and objectives may be the user's own, and raise
    anything."""
    try:
        return stage(setting)
    except CorestoneError as error:
        return failed("", str(error))
    except Exception as error:
        return failed("", f"broke off with {type(error).__name__}: {error}")


def _keep(facts: dict[str, Any], found: Found, folder: Path) -> dict[str, Any]:
    """Write what came of the stages so far."""
    run = read_run(folder)
    told: dict[str, Any] = spelled(
        {
            **facts,
            "stages": [{"name": name, **asdict(one), "seconds": round(took, 3)} for name, (one, took) in found.items()],
            "plan": [asdict(one) for one in held_to_account(run.plan, measured(run))],
            "passed": all(one.verdict != "failed" for one, _ in found.values()),
        }
    )
    write(folder / REHEARSAL, json.dumps(told, indent=1, allow_nan=False).encode())
    return told


def _show(told: dict[str, Any], console: Console, folder: Path) -> None:
    """The stages, and the plan beside what was measured."""
    colours = {"passed": "green", "failed": "red", "skipped": "yellow"}
    shown = Table(title=told["recipe"], title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("stage", "verdict", "seconds", "what ran and was shown"):
        shown.add_column(column, justify="right" if column == "seconds" else "left")
    for one in told["stages"]:
        about = "\n".join(filter(None, [one["ran"], one["shown"], one["reason"]]))
        verdict = f"[{colours[one['verdict']]}]{one['verdict']}[/]"
        shown.add_row(one["name"], verdict, f"{one['seconds']:.1f}", Text(about))
    console.print(shown)
    if told["plan"]:
        beside = Table(title="at toy width", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for column in ("figure", "planned", "measured", "difference"):
            beside.add_column(column, justify="left" if column == "figure" else "right")
        for row in told["plan"]:
            beside.add_row(row["name"], row["predicted"], row["measured"], row["difference"])
        console.print(beside)
    console.print(
        f"kept {folder / REHEARSAL} and {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True
    )
