"""corestone ledger: which documents a step saw, and at which steps a document was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corestone.core.errors import DataError


def ledger(
    run: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    step: Annotated[
        int | None, typer.Option(min=1, help="List the documents of this step; the first is 1, as in the log.")
    ] = None,
    document: Annotated[
        str | None, typer.Option(help="List the steps that see this document, named as --step names it.")
    ] = None,
    until: Annotated[
        int | None,
        typer.Option(min=1, help="With --document: look at the steps up to this one. Default: the run's last."),
    ] = None,
) -> None:
    """Tell which documents a step saw, or which steps saw one.

    Nothing of this was logged: it follows from the recipe, its seed and the prepared data.
    """
    from corestone.data.ledger import documents_of_step, steps_of_document  # keeps numpy and torch out of --help
    from corestone.recipes.load import open_run, open_run_data

    if (step is None) == (document is None):
        raise DataError("ledger: give either --step NUMBER or --document ID")
    if open_run(run).data.kind != "text":
        _pictures(run, step, document, until)
        return
    token_sets, spec, seed, batch_size, last_step = open_run_data(run)
    if step is not None:
        # The data room counts batches from 0; the log and this verb count steps done, so the first is 1.
        seen = documents_of_step(token_sets, spec, seed, batch_size, step - 1)
        note = "" if step <= last_step else f" (the run has made {last_step:,} steps: this one is yet to come)"
        typer.echo(f"step {step:,}: {batch_size:,} samples of {spec.context_length:,} tokens{note}")
        for part in seen:
            where = f"component {part.component}, tokens {part.start:,} to {part.stop - 1:,}"
            typer.echo(f"{part.document}\t{where}\t{part.stop - part.start:,} tokens")
    if document is not None:
        end = last_step if until is None else until
        steps = steps_of_document(token_sets, spec, seed, batch_size, document, end)
        count = f"{len(steps):,} {'step' if len(steps) == 1 else 'steps'}"
        typer.echo(f"{document}: seen at {count} of the {end:,} from step 1 on")
        for number in steps:
            typer.echo(str(number + 1))


def _pictures(run: Path, step: int | None, picture: str | None, until: int | None) -> None:
    """The same for a run on pictures: a row is a whole picture, so names say it all."""
    from corestone.recipes.load import open_run_loader

    loader, rows, last_step = open_run_loader(run)
    if step is not None:
        note = "" if step <= last_step else f" (the run has made {last_step:,} steps: this one is yet to come)"
        typer.echo("\n".join([f"step {step:,}: {rows:,} pictures{note}", *loader.names(step - 1)]))
    if picture is not None:
        end = last_step if until is None else until
        steps = [number for number in range(end) if picture in loader.names(number)]
        count = f"{len(steps):,} {'step' if len(steps) == 1 else 'steps'}"
        typer.echo(
            "\n".join([f"{picture}: seen at {count} of the {end:,} from step 1 on", *(str(n + 1) for n in steps)])
        )
