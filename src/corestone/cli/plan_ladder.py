"""`corestone plan ladder`: a small scaling study of a recipe, by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console


def ladder(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name, a .yaml file, or a .py file with recipe().", metavar="RECIPE")
    ],
    words: Annotated[list[str] | None, typer.Argument(help="Typed overrides.", metavar="PATH=VALUE")] = None,
    budget: Annotated[
        str, typer.Option(help="20minutes, 3hours or 1e15FLOPs: what all runs together may take, as predicted.")
    ] = "20minutes",
    out: Annotated[Path | None, typer.Option(help="Folder of the runs and figures. Default: runs/NAME-ladder.")] = None,
    rungs: Annotated[
        int | None, typer.Option(min=6, help="Different runs. Default: 8 to 16, as many as suit the budget.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each rung, with seeds counted from the recipe's.")] = 1,
    vary: Annotated[
        Literal["sizes", "length"] | None,
        typer.Option(help="Smaller models too, or length alone. Default: length where it suits the budget."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="The runs' metric to fit, by name. Default: the one by which they are judged.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="A finished run of the recipe itself, to hold the prediction to.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Choose the runs and print them alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict a recipe's loss from a ladder of small runs.

    They suit a budget, and the largest takes at most an eighth of the recipe's operations. Where the budget holds them,
    they are the recipe's own model at shorter lengths, and a law of tokens (or pictures) is fitted; else models are
    smaller too, and the law is of parameters and tokens.

    The folder holds ladder.json, the figures and every run; corestone plan RECIPE --fit reads
    ladder.json.

    Run it again after an interruption and it goes on where it stopped.
    """
    from corestone.recipes.catalogue import find_recipe

    run = find_recipe(recipe, [*(words or [])])  # refused before torch is loaded
    from rich.console import Console

    from corestone.recipes.ladder import Asked
    from corestone.recipes.ladder import ladder as run_ladder

    console = Console(stderr=as_json)
    folder = out or Path("runs") / f"{run.name}-ladder"
    tree = run_ladder(Asked(run, budget, rungs, seeds, vary, metric, target), folder, dry_run, console)
    if as_json:
        typer.echo(json.dumps(tree, indent=1))
    elif not dry_run:
        _show(console, tree, folder, " ".join([recipe, *(words or [])]))


def _show(console: Console, tree: dict[str, Any], out: Path, recipe: str) -> None:
    from rich.table import Table

    from corestone.cli.plan_fit import notes, show

    runs = Table("run", title=f"Runs of the ladder: {tree['loss']}")
    for name in ("measured", "by the law", "off"):
        runs.add_column(name, justify="right")
    for run in tree["runs"]:
        figures = (f"{run['loss']:.4g}", f"{run['by_the_law']:.4g}", f"{run['by_the_law'] / run['loss'] - 1:+.2%}")
        runs.add_row("/".join(Path(run["name"]).parts[-2:]), *figures)
    console.print(runs)
    show(console, tree)
    seconds = tree["ladder"].get("seconds")
    took = f"runs took {seconds['measured'] / 60:.1f} minutes, predicted {seconds['predicted'] / 60:.1f}"
    pictures = ", ".join(name for name in tree["figures"] if name.endswith(".png"))
    for line in [
        *notes(tree),
        *([took] if seconds else []),
        f"figures: {pictures} in {out}",
        *prediction_told(tree),
        f"use it: corestone plan {recipe} --fit {out / 'ladder.json'}",
    ]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def prediction_told(tree: dict[str, Any]) -> list[str]:
    """What the law says of the target, and what the target reached."""
    found, reached = tree["prediction"], tree["target_run"]
    ends = found["interval"]
    shown = "no interval of under 8 runs" if ends is None else f"95 % interval {ends[0]:.4g} to {ends[1]:.4g}"
    told = [
        f"predicted: {tree['ladder']['recipe']} reaches {found['value']:.4g} {tree['loss']}, {shown}; "
        f"{found['compute_factor']:.3g} times the operations of the largest run"
    ]
    if reached is not None:
        told.append(f"measured: {reached['loss']:.4g}; the prediction is {reached['error']:+.2%} off")
    return told
