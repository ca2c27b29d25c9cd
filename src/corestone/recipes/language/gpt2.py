"""GPT-2 at published scale."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import BytePair, Component, Data, Hub
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.spec import Run
from corestone.train.spec import Rhythm, Training
from corestone.zoo.gpt import gpt2


def gpt2_124m() -> Run:
    """GPT-2 124M on an open web corpus, 10 B tokens; for a GPU.

    The paper gives no learning rate: GPT-3 Small's is used (Brown et al. 2020, table 2.1).

    The vocabulary is padded to a multiple of 64. Batch: 512 rows of 1,024 tokens (Radford et al. 2019, section 2.3).
    """
    return Run(
        name="gpt2-124m",
        description="GPT-2 124M on FineWeb-Edu (10 B tokens).",
        model=gpt2(width=768, depth=12, num_heads=12, vocab_size=50304, context_length=1024),
        objective=NextToken(),
        data=Data(
            components=(Component(source=Hub(path="HuggingFaceFW/fineweb-edu", config="sample-10BT")),),
            tokenizer=BytePair(vocab_size=50257),
            context_length=1024,
        ),
        optimiser=AdamW(learning_rate=6e-4),
        schedule=Cosine(warmup=duration("375e6 tokens"), final=0.1),
        training=Training(length=duration("10e9 tokens"), batch_tokens=524_288, micro_batch=16),
        rhythm=Rhythm(evaluate=duration("250 steps"), sample=duration("1000 steps"), checkpoint=duration("500 steps")),
    )
