"""`corestone sweep`: the best values of a recipe's keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sweep(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name, a .yaml file, or a .py file with recipe().", metavar="RECIPE")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH=LOW:HIGH|PATH=A,B,C|PATH=VALUE",
            help="Ranges and choices to search, and typed overrides of every trial. A positive range whose ends are "
            "ten times apart or more is drawn in its logarithm; low:high:log and low:high:linear decide it. Ends "
            "without a point give whole numbers.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials that the folder shall hold in the end.")] = 20,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time; they share this machine.")] = 1,
    metric: Annotated[
        str | None,
        typer.Option(help="Held-out figure by its name in metrics.jsonl. Default: the one such runs are judged by."),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End the weaker half of the trials at scores 1, 2, 4, 8, ...")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the trials and the page. Default: runs/NAME-sweep.")
    ] = None,
) -> None:
    """Search the best values of a recipe's keys with many runs.

    Each trial is a run folder. Held-out scores come at the recipe's rhythm (rhythm.evaluate). Run it again after an
    interruption and it goes on where it stopped; with more trials it adds them.
    """
    from corestone.recipes.catalogue import find_recipe
    from corestone.recipes.space import check_space, read_space

    space, fixed = read_space(words or [])
    base = find_recipe(recipe, [*fixed])
    check_space(base, space)  # refused before torch is loaded
    from corestone.recipes.sweep import Plan
    from corestone.recipes.sweep import sweep as run_sweep

    plan = Plan(recipe, space, fixed, trials, jobs, metric, prune)
    typer.echo(f"report: {run_sweep(plan, out or Path('runs') / f'{base.name}-sweep')}")
