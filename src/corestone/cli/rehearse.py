"""`corestone rehearse`: the whole life of a recipe at toy width, before it is paid for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from corestone.cli.recipes import OVERRIDES


def rehearse(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name, a .yaml file, or a .py file with recipe().", metavar="RECIPE")
    ],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that stand for the devices of the run.")] = 2,
    out: Annotated[Path | None, typer.Option(help="The rehearsal's folder. Default: runs/rehearsals/NAME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what came of each stage as JSON.")] = False,
) -> None:
    """Live through a run at toy width, before it is paid for.

    Its whole life in its real structure: prepare, plan, start, checkpoint, kill (a real SIGKILL), resume (also in
    another number of processes), evaluate, generate, export, import, report. So nothing is done for the first time
    where it is expensive. Exit code 1 where a stage fails.
    """
    from rich.console import Console

    from corestone.recipes.catalogue import find_recipe

    find_recipe(recipe, overrides or [])  # refused before torch is loaded
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is used here is the CPU, as in the processes
    from corestone.recipes.rehearsal.rehearse import rehearse as run_rehearsal

    told = run_rehearsal(recipe, overrides or [], processes, out, Console(quiet=as_json))
    if as_json:
        typer.echo(json.dumps(told, indent=1))
    if not told["passed"]:
        raise typer.Exit(1)
