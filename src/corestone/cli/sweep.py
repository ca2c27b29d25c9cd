"""`corestone sweep`: the best values of a recipe's keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corestone.core.errors import SpecError

SEARCH_ALONE = {"trials": "--trials", "jobs": "--jobs", "metric": "--metric", "prune": "--no-prune"}
"""Options that a range test has no use for."""


def sweep(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name, a .yaml file, or a .py file with recipe().", metavar="RECIPE")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH=LOW:HIGH|PATH=A,B,C|PATH=VALUE|LOW:HIGH",
            help="Ranges and choices to search, and typed overrides of every trial. A positive range whose ends are "
            "ten times apart or more is drawn in its logarithm; low:high:log and low:high:linear decide it. Ends "
            "without a point give whole numbers. LOW:HIGH alone are the rates of a range test (1e-6:1).",
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
    range_test: Annotated[
        bool,
        typer.Option(
            "--range-test",
            help="In place of a search, one short run whose learning rate rises from LOW to HIGH until the loss blows "
            "up (Smith 2017): where it falls fastest, is least, and diverges.",
        ),
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(min=20, help="Of the range test. Default: what a minute has room for, between 100 and 300."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the trials and the page. Default: runs/NAME-sweep, runs/NAME-range-test."),
    ] = None,
) -> None:
    """Search the best values of a recipe's keys.

    A search makes many runs, --range-test one whose rate rises until the loss breaks. Each trial is a run folder.
    Held-out scores come at the recipe's rhythm (rhythm.evaluate). Run it again after an interruption and it goes on
    where it stopped; with more trials it adds them.
    """
    from corestone.recipes.catalogue import find_recipe
    from corestone.recipes.space import check_space, read_space

    _refuse(context, range_test, steps)
    if range_test:
        return _range_test(recipe, words or [], steps, out)
    space, fixed = read_space(words or [])
    base = find_recipe(recipe, [*fixed])
    check_space(base, space)  # refused before torch is loaded
    from corestone.recipes.sweep import Plan
    from corestone.recipes.sweep import sweep as run_sweep

    plan = Plan(recipe, space, fixed, trials, jobs, metric, prune)
    typer.echo(f"report: {run_sweep(plan, out or Path('runs') / f'{base.name}-sweep')}")


def _range_test(recipe: str, words: list[str], steps: int | None, out: Path | None) -> None:
    from corestone.recipes.catalogue import find_recipe
    from corestone.recipes.space import read_rates

    bounds, fixed = read_rates(words)
    base = find_recipe(recipe, [*fixed])  # refused before torch is loaded
    from corestone.parallel.collectives import end_rank
    from corestone.recipes.range_test import range_test

    typer.echo(f"report: {range_test(base, out or Path('runs') / f'{base.name}-range-test', bounds, steps)}")
    end_rank()


def _refuse(context: typer.Context, range_test: bool, steps: int | None) -> None:
    """SpecError where an option of one is given to the other."""
    given = [option for name, option in SEARCH_ALONE.items() if _typed(context, name)]
    if range_test and given:
        raise SpecError(f"sweep --range-test: {', '.join(given)}: of a search alone; leave it out")
    if not range_test and steps is not None:
        raise SpecError("sweep: --steps is of the range test; a search's runs are as long as training.length says")


def _typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given, and is not at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
