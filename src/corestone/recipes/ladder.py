"""A small scaling study of a recipe: a ladder of small runs under a budget, a law fitted to them, and what it says of
the recipe itself.

The ladder is chosen once and kept in its folder (`ladder.json`); the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from corestone.core.errors import CheckpointError, CorestoneError, DataError, SpecError
from corestone.core.format import si
from corestone.core.spec import fingerprint, override, plain, read_yaml, to_yaml
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.collectives import join_world
from corestone.plan.ladder import BOTH, FEWEST_STEPS, Budget, Ladder, Size, Target, Vary, choose
from corestone.plan.own import OwnLaw, expect, of_judged
from corestone.plan.rows import DISTINCT, Dropped, Row
from corestone.plan.study import Study, study
from corestone.plan.told import told, unusable
from corestone.recipes.compare import Job, finished, train_all
from corestone.recipes.ladder_cost import Measured, measure, target_of
from corestone.recipes.load import is_run, open_data
from corestone.recipes.plan import learns_from, parse_budget
from corestone.recipes.pretrain import changed_paths, check_folder, compute_format
from corestone.recipes.registry import MODELS, OBJECTIVES
from corestone.recipes.scaling import read_runs
from corestone.recipes.show_progress import PrepareProgress
from corestone.recipes.smaller import of_one_size, shortened, size_name, smaller
from corestone.recipes.spec import Run
from corestone.report.scaling import Goal, write_figures

FILE = "ladder.json"
SIZES = 6
"""Different models that a ladder may have, the recipe's own among them."""
Tree = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What the user asks for.

    Attributes:
        budget: as it was typed, such as `20minutes` or `1e15FLOPs`: of all runs together, as predicted.
        rungs: how many different runs, None: as many as suit the budget; seeds: of each.
        vary: what differs between them; None: as `plan.ladder.choose` has it.
        metric: the runs' figure to fit, by name; None: the one by which they are judged.
        target: a finished run of the recipe itself, to hold the prediction to.
    """

    run: Run
    budget: str
    rungs: int | None = None
    seeds: int = 1
    vary: Vary | None = None
    metric: str | None = None
    target: Path | None = None


def ladder(asked: Asked, out: Path, dry_run: bool = False, console: Console | None = None) -> Tree:
    """Choose a ladder, train it, fit a law and predict the recipe's loss.

    Finished runs are left as they are, an interrupted one goes on.

    Args:
        out: of ladder.json, the runs, and the figures. dry_run: choose and print alone; nothing is written.

    Returns:
        What ladder.json holds; after a dry run only its part `ladder`.

    Raises:
        CorestoneError: a mistake the user can mend, such as a folder of another ladder, a budget that is too small, or
            runs that failed. Interrupted: a signal asked for it, and everything is saved.
    """
    console = console or Console()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SpecError("plan ladder: trains each run on one rank by itself; call it without torchrun")
    for registry, spec in ((MODELS, asked.run.model), (OBJECTIVES, asked.run.objective)):
        registry.require_shipped(spec, "plan ladder", "train smaller recipes with compare, and fit them with plan fit")
    if asked.target is not None:
        check_target(asked.run, asked.target)
    kept = read_kept(asked, out)
    chosen = kept or plan(asked, console)
    show(chosen, console)
    if dry_run:
        return {"ladder": chosen.tree}
    if kept is None:
        keep(chosen, out)
    jobs = jobs_of(chosen.tree, asked, out)
    for job in jobs:
        check_folder(job.run, job.folder, "auto")
    left = [job for job in jobs if not finished(job.folder)]
    begun = time.perf_counter()
    failures = train_all(left, out, console)
    if len(left) == len(jobs):
        chosen.tree["seconds"] = {
            "predicted": chosen.tree["predicted_seconds"],
            "measured": time.perf_counter() - begun,
        }
    return conclude(asked, chosen.tree, jobs, failures, out)


@dataclass(frozen=True)
class Chosen:
    """A ladder as a plain tree, and the recipe of each rung by its name."""

    tree: Tree
    recipes: Mapping[str, Run]


def identity(asked: Asked) -> str:
    """What makes two ladders the same."""
    recipe = {**plain(asked.run), "name": "", "description": ""}
    asks = {"budget": asked.budget, "rungs": asked.rungs, "seeds": asked.seeds, "vary": asked.vary}
    return fingerprint({"recipe": recipe, **asks})


def read_kept(asked: Asked, out: Path) -> Chosen | None:
    """The ladder that a folder holds, without its fit; None of an empty one. SpecError where it is another's."""
    path = out / FILE
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise SpecError(f"{out}: is neither empty nor of a ladder; name another folder with --out")
        return None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))["ladder"]
        own, names = tree["identity"], [rung["name"] for rung in tree["rungs"]]
    except (ValueError, KeyError, TypeError):
        raise SpecError(f"{path}: cannot be read as a ladder; name another folder with --out") from None
    if own != identity(asked):
        raise SpecError(
            f"{out}: holds a ladder of another recipe, budget, --rungs, --seeds or --vary ({tree['recipe']}, "
            f"{tree['budget']}, {len(names)} rungs, {tree['seeds']} seeds); name another folder with --out"
        )
    return Chosen(tree, {name: read_yaml(Run, out / "recipes" / f"{name}.yaml") for name in names})


def read_budget(text: str) -> Budget:
    """What was typed, as seconds or FLOPs; SpecError of money."""
    amount, unit = parse_budget(text)
    if unit == "usd":
        raise SpecError(f"--budget {text}: a ladder runs on this machine; give minutes, hours or FLOPs")
    return Budget(amount * 3600, "seconds") if unit == "hours" else Budget(amount, unit)


def plan(asked: Asked, console: Console) -> Chosen:
    """Measure what runs cost and choose; what measuring takes comes off a budget of time."""
    begun, budget, world = time.perf_counter(), read_budget(asked.budget), join_world()
    keep_freed_memory()
    with PrepareProgress(console) as progress:
        data = open_data(asked.run, world, progress)
    precision = str(compute_format(asked.run, None, world)).removeprefix("torch.")
    run = override(asked.run, [f"training.precision={precision}"])  # lest rungs compute in different formats
    target, units = target_of(run, data, world)
    made = smaller(run, 1 if asked.vary == "length" else SIZES, FEWEST_STEPS / (2 * target.steps))
    console.print(f"measuring  what {len(made)} sizes cost on this machine ...", highlight=False)
    measured = measure(made, data, target, budget, world)
    spent = time.perf_counter() - begun
    if budget.unit == "seconds":
        budget = replace(budget, amount=max(0.0, budget.amount - spent))
    found = choose([one.size for one in measured if one.size], target, budget, asked.rungs, asked.seeds, asked.vary)
    runs = {one.size: one.made.run for one in measured if one.size}
    recipes = {
        name_of(rung.size, rung.steps): shortened(
            runs[rung.size], rung.steps, target.steps, f"{run.name}-{name_of(rung.size, rung.steps)}"
        )
        for rung in found.rungs
    }
    tree = tree_of(asked, found, target, units, data.unit)
    said = notes(found, made, measured, of_one_size(run))
    return Chosen(tree | {"notes": said, "planning_seconds": spent}, recipes)


def name_of(size: Size, steps: int) -> str:
    """A rung's name, such as `954k-223`: parameters and steps."""
    return f"{size_name(size.parameters)}-{steps}"


def tree_of(asked: Asked, found: Ladder, target: Target, units: int, material: str) -> Tree:
    """A ladder for JSON."""
    return {
        "recipe": asked.run.name,
        "identity": identity(asked),
        "learns_from": learns_from(asked.run),
        "budget": asked.budget,
        "seeds": asked.seeds,
        "first_seed": asked.run.seed,
        "material": material,
        "variables": list(found.variables),
        "path": found.path,
        "target": {
            "parameters": target.parameters,
            "steps": target.steps,
            "units": target.steps * units,
            "flops": target.flops,
        },
        "predicted_seconds": asked.seeds * sum(rung.seconds for rung in found.rungs),
        "flops": asked.seeds * sum(rung.flops for rung in found.rungs),
        "rungs": [
            {
                "name": name_of(rung.size, rung.steps),
                "parameters": rung.size.parameters,
                "steps": rung.steps,
                "units": rung.steps * units,
                "flops": rung.flops,
                "predicted_seconds": rung.seconds,
            }
            for rung in found.rungs
        ],
    }


def notes(found: Ladder, made: Sequence[Any], measured: Sequence[Measured], alone: str) -> list[str]:
    """What the user must know of a ladder, in words.

    Args:
        alone: why the recipe's own size is the only one; "" where it is not for a reason of the recipe's.
    """
    said = [f"{size_name(one.made.parameters)} parameters left out: {one.reason}" for one in measured if one.reason]
    large = len(made) - len(measured)
    if large:
        said.append(f"{large} larger size(s) left out: their shortest rung takes more than a quarter of the budget")
    if found.variables != BOTH:
        sizes = len({one.size.parameters for one in measured if one.size})
        why = alone or (
            "nearest to the recipe itself; --vary sizes trains smaller models too, for a law that tells of other sizes"
            if sizes >= DISTINCT
            else "the recipe gives too few smaller models, or its runs are too short for them"
        )
        said.append(f"lengths alone vary: {why}")
    elif found.path < 1:
        said.append(
            f"the budget is too small for the target's own units per parameter: the rungs have {found.path:g} of them, "
            "and the law must reach farther"
        )
    return said


def keep(chosen: Chosen, out: Path) -> None:
    """Write the rungs' recipes, then the ladder, without which they are nothing."""
    (out / "recipes").mkdir(parents=True, exist_ok=True)
    for name, run in chosen.recipes.items():
        (out / "recipes" / f"{name}.yaml").write_text(to_yaml(run), encoding="utf-8")
    write(out, {"ladder": chosen.tree})


def write(out: Path, tree: Tree) -> None:
    """Put ladder.json in its place at once."""
    partial = out / f".{FILE}.partial"
    partial.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, out / FILE)


def jobs_of(tree: Tree, asked: Asked, out: Path) -> list[Job]:
    """All runs, smallest first."""
    jobs = []
    for rung in tree["rungs"]:
        recipe = out / "recipes" / f"{rung['name']}.yaml"
        for seed in range(asked.run.seed, asked.run.seed + asked.seeds):
            assignment, folder = f"seed={seed}", out / "runs" / rung["name"] / f"seed-{seed}"
            run = override(read_yaml(Run, recipe), [assignment])
            jobs.append(Job(str(recipe), (assignment,), run, folder, folder.with_suffix(".txt")))
    for job in jobs:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
    return jobs


def check_target(run: Run, folder: Path) -> None:
    """Refuse what is no finished run of the recipe."""
    if not is_run(folder):
        raise CheckpointError(f"--target {folder}: no run folder; give a finished run of {run.name}")
    changed = changed_paths(run, folder)
    if changed:
        raise SpecError(f"--target {folder}: is of another recipe (it differs in {', '.join(changed[:5])})")
    if not finished(folder):
        raise CheckpointError(f"--target {folder}: is not finished; let it finish first")


def conclude(asked: Asked, tree: Tree, jobs: Sequence[Job], failures: Sequence[str], out: Path) -> Tree:
    """Fit the finished runs, predict the target, draw and keep everything.

    Raises:
        CorestoneError: runs failed; what the others allow is kept all the same. DataError: they allow no fit.
    """
    failed = f"plan ladder: {len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}"
    ended = [job.folder for job in jobs if finished(job.folder)]
    if not ended:
        raise DataError(failed)
    try:
        whole = fitted(asked, tree, ended, failures, out)
    except DataError as error:
        if not failures:
            raise
        raise DataError(f"{failed}; those that are left allow no fit ({error})") from None
    write(out, whole)
    if failures:
        raise CorestoneError(f"{failed}; the fit of the others is in {out / FILE}; the same command tries them again")
    return whole


def fitted(asked: Asked, tree: Tree, ended: Sequence[Path], failures: Sequence[str], out: Path) -> Tree:
    """What ladder.json holds of finished runs, with figures drawn. DataError where they allow no fit."""
    data = read_runs([*ended, *([asked.target] if asked.target else [])], asked.metric)
    reached = {row.name: row for row in data.rows}
    own_run = reached.pop(str(asked.target), None)
    found = study([*reached.values()], asked.run.seed)
    goal = tree["target"]
    row = Row(goal["parameters"], goal["units"], 1.0, goal["flops"], goal["steps"], tree["recipe"])
    own = law_of(found, tree, (data.loss, data.material), out)
    expected = expect(own, row)
    failed = [
        Dropped(Row(math.nan, math.nan, math.nan, name=name), reason, "")
        for name, _, reason in (failure.partition(": ") for failure in failures)
    ]
    whole: Tree = {
        "ladder": tree,
        "loss": data.loss,
        "material": data.material,
        "unusable_runs": unusable([*failed, *data.dropped]),
        **told(found),
        "runs": [
            {
                "name": one.name,
                "parameters": one.parameters,
                data.material: one.tokens,
                "flops": one.compute,
                "loss": one.loss,
                "by_the_law": expect(own, one).value,
            }
            for one in found.rows
        ],
        "prediction": {
            "value": expected.value,
            "interval": None if expected.interval is None else list(expected.interval),
            "beyond": expected.beyond,
            "compute_factor": goal["flops"] / max(one.compute for one in found.rows),
        },
        "target_run": None
        if own_run is None
        else {"run": own_run.name, "loss": own_run.loss, "error": expected.value / own_run.loss - 1},
    }
    mark = Goal(goal["flops"], expected.value, expected.interval, own_run.loss if own_run else None)
    whole["figures"] = [path.name for path in write_figures(found, out, data.loss, data.material, mark)]
    return whole


def law_of(found: Study, tree: Tree, unit: tuple[str, str], out: Path) -> OwnLaw:
    """The law that the ladder was chosen for; DataError where its runs do not allow it."""
    name = " and ".join(tree["variables"])
    judged = found.laws[name]
    if isinstance(judged, str):
        raise DataError(f"{out}: no law of {name}: {judged}")
    return of_judged(judged, *unit)


def show(chosen: Chosen, console: Console) -> None:
    """The rungs as a table, smallest first, and the target below them."""
    tree = chosen.tree
    goal, material = tree["target"], tree["material"]
    table = Table("rung", title=f"ladder towards {tree['recipe']}", title_justify="left")
    for name in ("parameters", material, "steps", "FLOPs", "of the target's", "predicted minutes"):
        table.add_column(name, justify="right")
    for rung in [*tree["rungs"], {"name": "target", **goal}]:
        seconds = rung.get("predicted_seconds")
        if seconds is None:
            table.add_section()
        table.add_row(
            rung["name"],
            f"{rung['parameters']:,}",
            si(rung["units"]),
            f"{rung['steps']:,}",
            f"{rung['flops']:.3g}",
            f"1/{goal['flops'] / rung['flops']:.3g}" if seconds else "",
            f"{seconds / 60:.2f}" if seconds else "",
        )
    console.print(table)
    runs = len(tree["rungs"]) * tree["seeds"]
    console.print(
        f"{runs} runs, {tree['flops']:.3g} FLOPs, {tree['predicted_seconds'] / 60:.1f} minutes as predicted "
        f"(budget {tree['budget']}; measuring took {tree['planning_seconds'] / 60:.1f} minutes)",
        highlight=False,
        soft_wrap=True,
    )
    for note in tree["notes"]:
        console.print(f"[yellow]note[/]  {note}", highlight=False, soft_wrap=True)
