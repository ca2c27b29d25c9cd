"""The main job: a small GPT on 38 plays, minutes on a laptop."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import BytePair, Component, Data, Embedded
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.spec import Run, Samples
from corestone.train.spec import Rhythm, Training
from corestone.zoo.gpt import gpt2


def shakespeare() -> Run:
    """A GPT-2 of 4.3 M parameters on Shakespeare's plays, 5 minutes on 2 CPU cores."""
    vocab_size, context_length = 4096, 256
    return Run(
        name="shakespeare",
        description="A small GPT-2 on 38 plays of Shakespeare, whole plays held out.",
        model=gpt2(width=256, depth=4, num_heads=4, vocab_size=vocab_size, context_length=context_length),
        objective=NextToken(),
        data=Data(
            components=(Component(source=Embedded(name="shakespeare")),),
            tokenizer=BytePair(vocab_size=vocab_size),
            context_length=context_length,
        ),
        optimiser=AdamW(learning_rate=2e-3),
        schedule=Cosine(warmup=duration("50 steps"), final=0.05),
        training=Training(length=duration("1000 steps"), batch_tokens=2048),
        rhythm=Rhythm(
            log=duration("20 steps"),
            evaluate=duration("150 steps"),
            sample=duration("300 steps"),
            checkpoint=duration("300 steps"),
        ),
        samples=Samples(prompts=("**HAMLET**  \n", "To be, or not to be")),
    )
