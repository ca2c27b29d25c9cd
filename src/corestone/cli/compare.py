"""`corestone compare`: several recipes on one budget, with several seeds, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE|PATH=VALUE",
            help="Recipes, as for pretrain, and typed overrides of all of them. Without a recipe: all that ship with "
            "the data, length and objective of the recipe shakespeare.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each recipe, with seeds counted from its own.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder of the runs and of the page.")] = Path("runs/comparison"),
) -> None:
    """Train recipes on one budget with several seeds, side by side.

    Recipes compare if they have the same data, tokens per step and length. The folder holds a page, its plots, a JSON
    file and every run.

    Run it again after an interruption and it goes on where it stopped; with more seeds or recipes it adds their runs.
    """
    from corestone.recipes.budget import contenders

    overrides = [word for word in words or [] if "=" in word and not Path(word).is_file()]
    found = contenders([word for word in words or [] if word not in overrides], overrides)  # before torch is loaded
    from corestone.recipes.compare import compare as compare_recipes

    typer.echo(f"report: {compare_recipes(found, seeds, out)}")
