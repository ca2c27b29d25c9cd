"""`corestone report`: write the page of a run, or compare runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared.", metavar="RUN")],
    out: Annotated[
        Path | None,
        typer.Option(help="File or folder to write to. Default: report.html in the run, comparison.html here."),
    ] = None,
) -> None:
    """Write a run's report.html, or compare runs on one page."""
    from corestone.report.write import write_report  # brings matplotlib

    typer.echo(write_report(runs, out))
