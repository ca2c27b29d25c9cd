"""`corestone prepare`: raw text to immutable token files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from corestone.cli.recipes import OVERRIDES


def prepare(
    what: Annotated[
        str,
        typer.Argument(
            help="A recipe, or with --out a data set's name, a file, folder or glob, hf://PATH or -. "
            "'PATH?text_key=NAME' where rows hold their text under another key.",
            metavar="WHAT",
        ),
    ],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to make. Without it WHAT is a recipe.")] = None,
    vocab_size: Annotated[
        int, typer.Option(min=257, help="With --out: size of the vocabulary that is trained.")
    ] = 32_768,
    tokenizer: Annotated[
        str,
        typer.Option(help="With --out: byte_pair, word_piece or unigram to train one; bytes; or a tokenizer.json."),
    ] = "byte_pair",
    on_bad: Annotated[
        Literal["stop", "skip"], typer.Option(help="With --out: stop at bad input, or skip and count it.")
    ] = "stop",
    workers: Annotated[int, typer.Option(min=0, help="Processes that tokenise; 0: this one, on all its cores.")] = 0,
) -> None:
    """Turn a recipe's data, or any text, into token files.

    A folder of prepared text holds its tokenizer, token files, index and manifest.

    Interrupted and run again, it goes on where it stopped and ends with the same bytes.
    """
    from rich.console import Console

    from corestone.data.spec import BytePair, Bytes, TokenizerFile, Unigram, WordPiece
    from corestone.recipes.catalogue import find_recipe
    from corestone.recipes.prepare import prepare_folder, prepare_recipe

    if out is None:
        prepare_recipe(find_recipe(what, overrides or []), workers, Console())
        return
    trained = {"byte_pair": BytePair, "word_piece": WordPiece, "unigram": Unigram}
    if tokenizer in trained:
        chosen = trained[tokenizer](vocab_size=vocab_size)
    else:
        chosen = Bytes() if tokenizer == "bytes" else TokenizerFile(path=tokenizer)
    prepare_folder(what, chosen, on_bad, out, workers, Console())
