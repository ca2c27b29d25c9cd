"""corestone caption: what a trained captioner says of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from corestone.cli.sampling import MinP, Penalty, Precision, Seed, Stop, TopK, TopP, read_sampling


def caption(
    run: Annotated[
        Path, typer.Argument(help="A run folder (its newest checkpoint) or a checkpoint folder.", metavar="RUN")
    ],
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.", metavar="PICTURE")],
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.")] = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = 1.0,
    max_tokens: Annotated[
        int | None, typer.Option(help="End after this many tokens. Default: as many as a caption had in training.")
    ] = None,
    stop: Stop = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per picture: picture, caption.")] = False,
) -> None:
    """Write a caption of each picture, a line each.

    It is the likeliest one unless told otherwise. Pictures are prepared as the checkpoint was evaluated.
    """
    sampling = read_sampling(
        "caption",
        stop,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_tokens=max_tokens,
        seed=seed,
    )
    from corestone.recipes.caption import captions  # brings torch

    for picture, text in captions(run, pictures, sampling, precision, as_long_as_trained=max_tokens is None):
        told = json.dumps({"picture": str(picture), "caption": text}, ensure_ascii=False)
        typer.echo(told if as_json else text if len(pictures) == 1 else f"{picture}: {text}")
