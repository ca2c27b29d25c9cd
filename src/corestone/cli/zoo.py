"""`corestone zoo`: the published models that Corestone can build."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def zoo(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List published models with exact parameter counts.

    Beside each stands the count that was published, and what explains a difference.
    """
    from rich.console import Console
    from rich.table import Table

    from corestone.core.format import si
    from corestone.recipes.registry import MODELS
    from corestone.zoo.catalogue import zoo as entries

    rows = []
    for entry in entries().values():
        parameters = sum(p.numel() for p in MODELS.build(entry.spec, device="meta").parameters())
        rows.append(
            {
                "name": entry.name,
                "family": entry.family,
                "parameters": parameters,
                "published": entry.published,
                "source": entry.source,
                "doubt": entry.doubt,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("name", "family")
    table.add_column("parameters", justify="right")
    table.add_column("published", justify="right")
    table.add_column("source")
    for row in rows:
        source = f"{row['source']} ({row['doubt']})" if row["doubt"] else str(row["source"])
        table.add_row(
            str(row["name"]),
            str(row["family"]),
            f"{row['parameters']:,}",
            si(float(str(row["published"])), digits=4),
            source,
        )
    Console().print(table)
