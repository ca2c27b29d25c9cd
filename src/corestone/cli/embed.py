"""corestone embed: texts as vectors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer


def embed(
    run: Annotated[
        Path,
        typer.Argument(help="A run folder (its newest checkpoint) or a checkpoint of an encoder.", metavar="RUN"),
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; none: the lines of standard input.", metavar="TEXT")
    ] = None,
    similarity: Annotated[
        bool, typer.Option("--similarity", help="Instead of its vector, each text's cosine with all of them.")
    ] = False,
    precision: Annotated[
        Literal["auto", "bfloat16", "float32"], typer.Option(help="Format of the arithmetic.")
    ] = "float32",
) -> None:
    """Turn texts into vectors of length 1 with an encoder (BERT).

    One JSON object per text: text and vector, or text and similarity.
    """
    from corestone.generate.embed import embed_texts
    from corestone.recipes.load import load_model

    model, tokenizer = load_model(run, precision)
    rows = texts or sys.stdin.read().splitlines()
    vectors = embed_texts(model, tokenizer, rows)
    name, found = ("similarity", vectors @ vectors.T) if similarity else ("vector", vectors)
    for text, values in zip(rows, found.tolist(), strict=True):
        typer.echo(json.dumps({"text": text, name: [round(value, 7) for value in values]}, ensure_ascii=False))
