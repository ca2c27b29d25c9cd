"""GPT-J at published scale."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import BytePair
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.language.own_text import RHYTHM, own_text, training
from corestone.recipes.spec import Run
from corestone.zoo.catalogue import find


def gptj_6b() -> Run:
    """GPT-J-6B as released (mesh-transformer-jax, configs/6B_roto_256.json and model card): 512 rows, 383,500 steps.

    The rate falls over 300,000 steps behind the warm-up of 3,000 and stays at a tenth. Adam's betas and eps are ours.
    """
    return Run(
        name="gptj-6b",
        description="GPT-J-6B on your files, 402 B tokens.",
        model=find("gptj-6b").spec,
        objective=NextToken(),
        data=own_text(BytePair(vocab_size=50257), 2048),
        optimiser=AdamW(learning_rate=1.2e-4, weight_decay=0.1),
        schedule=Cosine(warmup=duration("3000 steps"), until=duration("303000 steps"), final=0.1),
        training=training(duration("383500 steps"), 512 * 2048),
        rhythm=RHYTHM,
    )
