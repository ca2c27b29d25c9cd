"""`corestone check`: are the promises kept, on this recipe and this machine?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def check(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe's name, a .yaml file, a .py file with recipe(), or the folder of a run.", metavar="RECIPE"
        ),
    ],
    asked: Annotated[
        list[str] | None,
        typer.Argument(
            help="Checks by name (determinism, initial-loss, overfit, gradient-flow, causality, packing, accumulation, "
            "ranks, workers, resume, precision, compile, cache, evaluation-batch, export, data; none: all), and typed "
            "overrides.",
            metavar="[NAME|PATH=VALUE]",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the certificate.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The certificate's file. Default: check.json in the run's folder, where there is one."),
    ] = None,
) -> None:
    """Try what Corestone promises on a recipe, scaled down.

    The same gradient however a batch is split, the same weights after a kill, and more: what was compared, the worst
    difference, and the verdict. Exit code 1 where a check fails.
    """
    from rich.console import Console

    from corestone.recipes.catalogue import find_recipe

    names = [word for word in asked or [] if "=" not in word]
    assignments = [word for word in asked or [] if "=" in word]
    if not Path(recipe).is_dir():
        find_recipe(recipe, assignments)  # refused before torch is loaded
    from corestone.recipes.checks.certify import check as run_checks

    certificate = run_checks(recipe, names, assignments, out, Console(quiet=as_json))
    if as_json:
        typer.echo(json.dumps(certificate, indent=1))
    if not certificate["passed"]:
        raise typer.Exit(1)
