"""corestone generate: text from a trained model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corestone.cli.sampling import Format, MinP, Penalty, Precision, Seed, Stop, TopK, TopP, read_sampling
from corestone.core.errors import SpecError

if TYPE_CHECKING:
    from corestone.generate.spec import Sampling


def generate(
    run: Annotated[
        Path, typer.Argument(help="A run folder (its newest checkpoint) or a checkpoint folder.", metavar="RUN")
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts to continue or answer; none: text from nothing.", metavar="PROMPT"),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.")] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="The likeliest token always: --temperature 0.")] = False,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = 1.0,
    max_tokens: Annotated[int, typer.Option(help="End after this many new tokens.")] = 200,
    stop: Stop = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per prompt: prompt, text.")] = False,
) -> None:
    """Continue prompts; an encoder-decoder (T5) answers them.

    One text is shown while it is written, several when they are done.
    """
    if greedy and temperature not in (0.0, 1.0):
        raise SpecError("generate: --greedy and --temperature contradict each other: give one of them")
    sampling = read_sampling(
        "generate",
        stop,
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_tokens=max_tokens,
        seed=seed,
    )
    model, tokenizer = _load(run, precision)
    _note_long_prompts(model, tokenizer, prompts or [])
    _write(model, tokenizer, prompts or [""], sampling, as_json)


def _load(run: Path, precision: Format) -> tuple[Any, Any]:
    from corestone.generate.decode import check_writes
    from corestone.generate.quantize import weight_only_int8
    from corestone.parallel.precision import decoding_dtype
    from corestone.recipes.load import load_model

    if precision == "int8":
        model, tokenizer = load_model(run, "float32")
    else:
        model, tokenizer = load_model(run, precision, decoding_dtype)
    check_writes(model)
    return (weight_only_int8(model) if precision == "int8" else model), tokenizer


def _note_long_prompts(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    if model.generates == "answers":
        return  # a source is read whole, however long
    context = model.context_length
    for number, prompt in enumerate(prompts, start=1):
        tokens = len(tokenizer.encode(prompt)) + 1  # the separator comes first
        if tokens > context:
            typer.echo(
                f"note: prompt {number} has {tokens:,} tokens and the model's context {context:,}: "
                f"only its last {max(1, context // 2):,} tokens are read",
                err=True,
            )


def _write(model: Any, tokenizer: Any, prompts: list[str], sampling: Sampling, as_json: bool) -> None:
    from corestone.generate.text import generate_text

    between = "\n" if model.generates == "answers" else ""
    if as_json:
        for prompt, text in zip(prompts, generate_text(model, tokenizer, prompts, sampling), strict=True):
            typer.echo(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False))
    elif len(prompts) == 1:
        _show(prompts[0] + between)
        generate_text(model, tokenizer, prompts, sampling, stream=lambda _, piece: _show(piece))
        _show("\n")
    else:
        texts = generate_text(model, tokenizer, prompts, sampling)
        typer.echo("\n\n".join(prompt + between + text for prompt, text in zip(prompts, texts, strict=True)))


def _show(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
