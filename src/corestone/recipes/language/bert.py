"""BERT and ELECTRA at published scale (Devlin et al. 2018, appendix A.2; Clark et al. 2020, table 6)."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import WordPiece
from corestone.objectives.spec import NextSentence, ReplacedToken
from corestone.optim.spec import AdamW, Linear
from corestone.recipes.language.own_text import RHYTHM, own_text, training
from corestone.recipes.spec import Run, Samples
from corestone.zoo.catalogue import find
from corestone.zoo.electra import electra

CONTEXT_LENGTH = 128


def bert_base() -> Run:
    """A million steps of 256 pairs; in the paper the last tenth of them with 512 tokens instead of 128."""
    return Run(
        name="bert-base",
        description="BERT-base on your files, a million steps of 256 pairs of 128 tokens; the paper ends with 512.",
        model=find("bert-base").spec,
        objective=NextSentence(),
        data=own_text(WordPiece(vocab_size=30522), CONTEXT_LENGTH),
        optimiser=AdamW(learning_rate=1e-4, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.01),
        schedule=Linear(warmup=duration("10000 steps"), final=0.0),
        training=training(duration("1e6 steps"), 256 * CONTEXT_LENGTH),
        rhythm=RHYTHM,
        samples=Samples(prompts=()),
    )


def electra_small() -> Run:
    """A million steps of 128 rows of 128 tokens, with a generator of a quarter of the width."""
    return Run(
        name="electra-small",
        description="ELECTRA-small on your files, a million steps of 128 rows of 128 tokens.",
        model=electra(256, 12, 4, table_width=128, generator_fraction=(1, 4)),
        objective=ReplacedToken(rate=0.15, weight=50.0),
        data=own_text(WordPiece(vocab_size=30522), CONTEXT_LENGTH),
        optimiser=AdamW(learning_rate=5e-4, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.01),
        schedule=Linear(warmup=duration("10000 steps"), final=0.0),
        training=training(duration("1e6 steps"), 128 * CONTEXT_LENGTH),
        rhythm=RHYTHM,
        samples=Samples(prompts=()),
    )
