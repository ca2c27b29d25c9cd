"""Tiles of photographs, written pixel by pixel."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import Bytes, Component, Data, Embedded
from corestone.generate.spec import Sampling
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.spec import Run, Samples
from corestone.train.spec import Rhythm, Training
from corestone.zoo.gptj import gptj


def photographs_gpt() -> Run:
    """As image GPT (Chen et al. 2020), with GPT-J's block: the pixel above is as far back for every pixel, which rotary
    positions see at once and a table of positions learns one by one. Of the vocabulary 257 are used: bytes, and the end
    of a document."""
    vocab_size, context_length = 320, 272  # 16 lines of 16 pixels and a line end each
    return Run(
        name="photographs-gpt",
        description="A small GPT-J that writes tiles of photographs, 16 x 16 pixels of 16 greys.",
        model=gptj(192, 4, 3, 64, vocab_size, context_length),
        objective=NextToken(),
        data=Data(
            components=(Component(source=Embedded(name="photographs-text")),),
            tokenizer=Bytes(),
            context_length=context_length,
        ),
        optimiser=AdamW(learning_rate=2e-3),
        schedule=Cosine(warmup=duration("60 steps"), final=0.05),
        training=Training(length=duration("1200 steps"), batch_tokens=16 * context_length),
        rhythm=Rhythm(
            log=duration("20 steps"),
            evaluate=duration("300 steps"),
            sample=duration("300 steps"),
            checkpoint=duration("300 steps"),
        ),
        samples=Samples(
            prompts=("0123456789abcdef\n", "8888888888888888\n"), sampling=Sampling(temperature=1.0, max_tokens=256)
        ),
    )
