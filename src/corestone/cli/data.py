"""`corestone data`: the catalogue of small real data sets, and filtering pictures with captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True, help="List, fetch and show embedded data; filter own pairs.")


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
    """Show a data set: its card, what it holds, and how a text begins."""
    from rich.console import Console
    from rich.table import Table

    from corestone.core.spec import plain
    from corestone.data.catalogue import entry
    from corestone.data.catalogue import fetch as fetch_one

    item = entry(name)
    with Console(stderr=True).status(f"fetching {name}"):
        path = fetch_one(item)
    with Console(stderr=True).status(f"reading {name}"):
        held, beginning = _pictures(name) if item.content == "images" else _texts(name, lines)
    facts = {**plain(item), "source": item.source, "split": item.split}
    grid = Table(show_header=False)
    for key in ("title", "task", "size", "licence", "source", "split", "key", "held_out", "floor", "not_controlled"):
        value = facts[key]
        if value:
            grid.add_row(
                "split key" if key == "key" else key.replace("_", " "),
                ", ".join(value) if isinstance(value, list) else str(value),
            )
    grid.add_row("file", str(path) if path else "none")
    for what, words in held:
        grid.add_row(what, words)
    Console().print(grid)
    if beginning:
        typer.echo(f"\n{beginning}")


@app.command("filter")
def filter_(
    run: Annotated[Path, typer.Argument(help="A run with two towers (CLIP, SigLIP), or a checkpoint.", metavar="RUN")],
    source: Annotated[
        str,
        typer.Argument(
            help="Pictures with captions: a data set's name, shards 'data/{00000..00127}.tar', a table "
            "'pairs.jsonl?image_key=path&caption_key=caption', or 'captions.json?images=FOLDER'.",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    rules: Annotated[
        list[str] | None,
        typer.Argument(
            help="similarity=0.28 characters=5 file_bytes=5000 near=3 on_bad=skip ...", metavar="PATH=VALUE"
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures held and scored at a time.")] = 256,
    precision: Annotated[
        Literal["auto", "bfloat16", "float32"], typer.Option(help="Format of the arithmetic.")
    ] = "auto",
) -> None:
    """Keep the pictures whose captions a model finds fitting (LAION's rules), as shards that recipes read.

    Short captions, small files, files that cannot be read, pairs below the similarity and near duplicates are left out
    and counted. Interrupted and run again, nothing is scored twice.
    """
    from corestone.core.spec import override
    from corestone.data.images.named import parse_pictures
    from corestone.data.images.spec import FilterPairs
    from corestone.recipes.filter_pairs import filter_pairs

    chosen = override(FilterPairs(), rules or [])
    filter_pairs(run, parse_pictures(source), chosen, out, precision, batch_size)


def _texts(name: str, lines: int) -> tuple[list[tuple[str, str]], str]:
    """What a text data set holds, in words, and the first lines of its first document."""
    from corestone.data.sources import Counts, card, documents
    from corestone.data.spec import Embedded

    counts, first = Counts(), None
    totals = {"train": [0, 0], "validation": [0, 0]}
    for document in documents(Embedded(name=name), "stop", counts):
        first = first or document
        totals[document.split][0] += 1
        totals[document.split][1] += len(document.text)
    facts = card(Embedded(name=name))
    held = [("corpus sha256", facts["corpus_sha256"])] if "corpus_sha256" in facts else []
    held += [(side, f"{number:,} documents, {length:,} characters") for side, (number, length) in totals.items()]
    held += [("not read", f"{number:,} x {reason}") for reason, number in counts.dropped.items()]
    if not first or not lines:
        return held, ""
    return held, "\n".join([f"{first.id} ({first.split}):", *first.text.splitlines()[:lines]])


def _pictures(name: str) -> tuple[list[tuple[str, str]], str]:
    """What a picture set holds on each side of its (first) split, in words."""
    from collections import Counter

    from corestone.data.document import Counts
    from corestone.data.images.sources import pictures
    from corestone.data.images.spec import EmbeddedImages

    counts, sides, captions = Counts(), Counter[str](), Counter[str]()
    classes: set[str] = set()
    for picture in pictures(EmbeddedImages(name=name), "stop", counts):
        sides[picture.split] += 1
        captions[picture.split] += len(picture.captions)
        classes |= {picture.label} if isinstance(picture.label, str) else {*(picture.label or ())}
    held = [("classes", str(len(classes)))] if classes else []
    for side in sorted(sides, key=["train", "validation", "test", "unlabelled"].index):
        more = f", {captions[side]:,} captions" if captions[side] else ""
        held.append((side, f"{sides[side]:,} pictures{more}"))
    held += [("not read", f"{number:,} x {reason}") for reason, number in counts.dropped.items()]
    return held, ""
