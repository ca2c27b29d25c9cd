"""`corestone evaluate`: how well a model predicts held-out text, beside trivial floors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def evaluate(
    path: Annotated[Path, typer.Argument(help="A run folder (its newest whole checkpoint) or a checkpoint folder.")],
    data: Annotated[
        str | None, typer.Option(help="Other text: a data set's name, a file, folder or glob, hf://PATH or -.")
    ] = None,
    precision: Annotated[
        Literal["auto", "bfloat16", "float32"], typer.Option(help="Format of the arithmetic.")
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at a time; changes the speed alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score held-out text: nats per token, bits per byte, perplexities with intervals, and floors."""
    from rich.console import Console

    from corestone.recipes.evaluate import evaluate as run_evaluation

    console = Console(quiet=as_json)
    results = run_evaluation(path, data, precision, batch_size, console)
    if as_json:
        typer.echo(json.dumps(results, indent=1))
