"""Tiles of photographs, written pixel by pixel."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import Bytes, Component, Data, Embedded
from corestone.generate.spec import Sampling
from corestone.objectives.spec import NextToken
from corestone.optim.spec import Cosine
from corestone.recipes.language.h3 import h3_adamw
from corestone.recipes.spec import Run, Samples
from corestone.train.spec import Rhythm, Training
from corestone.zoo.h3 import h3


def photographs_h3() -> Run:
    """Pixels as tokens, as in image GPT (Chen et al. 2020), by a hybrid H3: the pixel above is as far back for every
    pixel, and a state-space model learns such a distance at once. Of the vocabulary 257 are used: bytes, and the end of
    a document."""
    vocab_size, context_length = 320, 72  # a tile: 8 lines of 8 pixels and a line end each
    model = h3(192, 4, 3, {2}, vocab_size=vocab_size, context_length=context_length)
    embedding = model.embedding.model_copy(update={"dropout": 0.0})
    return Run(
        name="photographs-h3",
        description="A small H3 that writes tiles of photographs, 8 x 8 pixels of 16 greys.",
        model=model.model_copy(update={"embedding": embedding}),
        objective=NextToken(),
        data=Data(
            components=(Component(source=Embedded(name="photographs-text")),),
            tokenizer=Bytes(),
            context_length=context_length,
        ),
        optimiser=h3_adamw(2e-3),
        schedule=Cosine(warmup=duration("60 steps"), final=0.05),
        training=Training(length=duration("1200 steps"), batch_tokens=64 * context_length),
        rhythm=Rhythm(
            log=duration("20 steps"),
            evaluate=duration("300 steps"),
            sample=duration("300 steps"),
            checkpoint=duration("300 steps"),
        ),
        samples=Samples(prompts=("01234567\n", "88888888\n"), sampling=Sampling(temperature=1.0, max_tokens=64)),
    )
