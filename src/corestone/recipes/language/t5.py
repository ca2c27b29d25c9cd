"""T5 and AlexaTM at published scale (Raffel et al. 2020, section 3.1; Soltan et al. 2022, section 3)."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import Unigram
from corestone.objectives.spec import Continuation, Denoising, Mixture, Share, SpanCorruption
from corestone.optim.spec import Adafactor, AdamW, InverseSquareRoot, Linear
from corestone.recipes.language.own_text import RHYTHM, own_text, training
from corestone.recipes.spec import Run
from corestone.zoo.catalogue import find


def t5_base() -> Run:
    """The baseline: 2^19 steps of 128 texts with Adafactor; 568 tokens of text make 512 to read and 114 to write."""
    return Run(
        name="t5-base",
        description="T5-base on your files, the baseline's 524,288 steps of 128 texts.",
        model=find("t5-base").spec,
        objective=SpanCorruption(),
        data=own_text(Unigram(vocab_size=32_100), 568),
        optimiser=Adafactor(learning_rate=1e-2),
        schedule=InverseSquareRoot(flat=duration("10000 steps")),
        training=training(duration("524288 steps"), 128 * 568),
        rhythm=RHYTHM,
    )


def alexatm_20b() -> Run:
    """Four texts in five are denoised, one is continued. The paper begins with a trained encoder, this does not."""
    return Run(
        name="alexatm-20b",
        description="AlexaTM 20B on your files, 1 T tokens, both stacks from the start.",
        model=find("alexatm-20b").spec,
        objective=Mixture(
            parts=(
                Share(objective=Denoising(rate=0.15, mean_span=3.0), weight=0.8),
                Share(objective=Continuation(least=0.2, most=0.8), weight=0.2),
            )
        ),
        data=own_text(Unigram(vocab_size=151_000, sentinels=0), 1000),
        optimiser=AdamW(learning_rate=1e-4, weight_decay=0.1),
        schedule=Linear(final=0.05),
        training=training(duration("500000 steps"), 2_000_000),
        rhythm=RHYTHM,
    )
