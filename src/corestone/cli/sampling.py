"""The options of every verb that draws text from a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from corestone.generate.spec import Sampling

Format = Literal["auto", "bfloat16", "float32", "int8"]

TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(help="Keep the likeliest tokens that hold this probability.")]
MinP = Annotated[float | None, typer.Option(help="Keep tokens at least this fraction as likely as the likeliest.")]
Penalty = Annotated[float, typer.Option(help="Above 1: tokens already there become less likely.")]
Stop = Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")]
Seed = Annotated[int, typer.Option(help="Of the draws: same seed, same text.")]
Precision = Annotated[Format, typer.Option(help="Format of the arithmetic; int8 rounds the weights alone.")]


def read_sampling(verb: str, stop: list[str] | None, **options: float | None) -> Sampling:
    """The record of these options, None as the record has it; refused before torch is loaded."""
    from corestone.core.spec import parse
    from corestone.generate.spec import Sampling

    given = {name: value for name, value in options.items() if value is not None}
    return parse(Sampling, {**given, "stop": tuple(stop or ())}, verb)
