"""`corestone data`: the catalogue of small real data sets."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="List, fetch and show the embedded data sets.")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print the whole cards as JSON.")] = False) -> None:
    """List the data sets."""
    from rich.console import Console
    from rich.table import Table

    from corestone.core.spec import plain
    from corestone.data.catalogue import catalogue

    if as_json:
        cards = [{**plain(item), "source": item.source, "split": item.split} for item in catalogue().values()]
        typer.echo(json.dumps(cards, indent=2, ensure_ascii=False))
        return
    table = Table("name", "task", "size", "licence", "split")
    for item in catalogue().values():
        table.add_row(item.name, item.task, item.size, item.licence, item.split)
    Console().print(table)


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets to fetch.", metavar="NAME")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch all data sets.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Download again what is there already.")] = False,
) -> None:
    """Fetch data sets into the cache and verify them."""
    from rich.console import Console

    from corestone.core.errors import DataError
    from corestone.data.catalogue import catalogue, entry
    from corestone.data.catalogue import fetch as fetch_one

    if bool(names) == everything:
        raise DataError(f"data fetch: give names or --all; known: {', '.join(catalogue())}")
    items = list(catalogue().values()) if everything else [entry(name) for name in names or []]
    for item in items:
        with Console(stderr=True).status(f"fetching {item.name}"):
            path = fetch_one(item, force)
        typer.echo(f"{item.name}: {path or item.source}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A data set.", metavar="NAME")],
    lines: Annotated[int, typer.Option(min=0, help="Lines of the first document to print.")] = 12,
) -> None:
    """Show a data set: its card, what it holds, and how it begins."""
    from rich.console import Console
    from rich.table import Table

    from corestone.data.catalogue import entry
    from corestone.data.catalogue import fetch as fetch_one
    from corestone.data.sources import Counts, card, documents
    from corestone.data.spec import Embedded

    item = entry(name)
    with Console(stderr=True).status(f"fetching {name}"):
        path = fetch_one(item)
    counts, first = Counts(), None
    totals = {"train": [0, 0], "validation": [0, 0]}
    with Console(stderr=True).status(f"reading {name}"):
        for document in documents(Embedded(name=name), "stop", counts):
            first = first or document
            totals[document.split][0] += 1
            totals[document.split][1] += len(document.text)
        facts = card(Embedded(name=name))
    grid = Table(show_header=False)
    for key in ("title", "task", "size", "licence", "source", "split", "key", "held_out", "floor", "not_controlled"):
        value = facts[key]
        if value:
            grid.add_row(
                "split key" if key == "key" else key.replace("_", " "),
                ", ".join(value) if isinstance(value, list) else str(value),
            )
    if "corpus_sha256" in facts:
        grid.add_row("corpus sha256", facts["corpus_sha256"])
    grid.add_row("file", str(path) if path else "none")
    for side, (number, characters) in totals.items():
        grid.add_row(side, f"{number:,} documents, {characters:,} characters")
    for reason, number in counts.dropped.items():
        grid.add_row("not read", f"{number:,} x {reason}")
    Console().print(grid)
    if first and lines:
        typer.echo(f"\n{first.id} ({first.split}):")
        typer.echo("\n".join(first.text.splitlines()[:lines]))
