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
            help="Recipes, as for pretrain; without any, all that ship with the main job's budget. "
            "And typed overrides of all of them.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each recipe, with seeds counted from its own.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder of the runs and of the page.")] = Path("runs/comparison"),
) -> None:
    """Train recipes on the same budget, with several seeds, and report them side by side.

    Run it again after an interruption and it goes on where it stopped; with more seeds or recipes it adds their runs.
    """
    from corestone.recipes.budget import contenders

    overrides = [word for word in words or [] if "=" in word and not Path(word).is_file()]
    found = contenders([word for word in words or [] if word not in overrides], overrides)  # before torch is loaded
    from corestone.recipes.compare import compare as compare_recipes

    typer.echo(f"report: {compare_recipes(found, seeds, out)}")
