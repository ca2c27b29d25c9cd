"""SigLIP at published scale on your own pairs (Zhai et al. 2023)."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import Unigram
from corestone.objectives.spec import Contrastive
from corestone.optim.spec import Adafactor, Cosine
from corestone.recipes.multimodal.web import EVALUATION, RHYTHM, cropped, web_pairs
from corestone.recipes.spec import Run
from corestone.train.spec import Training
from corestone.zoo.catalogue import find


def siglip_b16() -> Run:
    """32,768 pairs a step, beyond which the paper finds little gain, and the sigmoid loss with its learned bias.

    Assumed, as no source at hand prints them for this model: Adafactor's settings, a rate of 0.001, a decay of 0.0001,
    10,000 steps of warm-up, a cosine, as many pairs (10 B) as 305,000 steps have.
    """
    return Run(
        name="siglip-b16",
        description="SigLIP ViT-B/16 at 224 pixels on your own pairs.",
        model=find("siglip-b16-224").spec,
        objective=Contrastive(loss="sigmoid"),
        data=web_pairs(cropped(224), Unigram(vocab_size=32_000, sentinels=0), context_length=64),
        optimiser=Adafactor(learning_rate=1e-3, beta1=0.9, beta2=0.95, weight_decay=1e-4),
        schedule=Cosine(warmup=duration("10000 steps"), final=0.0),
        training=Training(length=duration("305000 steps"), batch_examples=32_768, micro_batch=256, recompute=True),
        rhythm=RHYTHM,
        evaluation=EVALUATION,
    )
