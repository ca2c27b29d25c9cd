"""`corestone vote`: several picture classifiers and their votes, on the same pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def vote(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs on the same pictures; of each its newest whole checkpoint.", metavar="RUN"
        ),
    ],
    best: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Keep the N members that are best on the validation side. Never by the test side, by which the code "
            "published with An et al. 2020 picks epochs, members and combinations, so that its figures flatter.",
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "bfloat16", "float32"],
        typer.Option(help="Format of the arithmetic; auto: the one that this machine multiplies faster."),
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures at a time; changes the speed alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score picture classifiers and their majority votes.

    Members of one architecture vote with one another (homogeneous), and where there are several architectures, each
    has one vote (heterogeneous). All are scored on the test side, or on validation where there is no other, with the
    members' mistakes and how often they agree.
    """
    from rich.console import Console

    from corestone.recipes.vote import vote as vote_of_runs  # brings torch

    result = vote_of_runs(runs, best, precision, batch_size, Console(quiet=as_json))
    if as_json:
        typer.echo(json.dumps(result, indent=1))
