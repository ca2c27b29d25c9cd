"""`corestone pretrain`: a recipe in, a trained and documented model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from corestone.cli.recipes import OVERRIDES


def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name, a .yaml file, or a .py file with recipe().", metavar="RECIPE")
    ],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run's folder. Default: runs/NAME.")] = None,
    resume: Annotated[
        Literal["auto", "never"],
        typer.Option("--resume", help="auto goes on with the run that the folder holds, never refuses such a folder."),
    ] = "auto",
) -> None:
    """Prepare data, train, sample, evaluate and write the report.

    Run it again after an interruption and it goes on where it stopped, with the same result.
    """
    from corestone.recipes.catalogue import find_recipe

    spec = find_recipe(recipe, overrides or [])  # refused before torch is loaded
    from corestone.parallel.collectives import end_rank
    from corestone.recipes.pretrain import pretrain as run_recipe

    path = run_recipe(spec, run or Path("runs") / spec.name, resume)
    typer.echo(f"report: {path}")
    end_rank()
