"""CoCa at published scale on your own pairs (Yu et al. 2022)."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import Unigram
from corestone.objectives.spec import Captioning
from corestone.optim.spec import Adafactor, Linear
from corestone.recipes.multimodal.web import EVALUATION, RHYTHM, cropped, web_pairs
from corestone.recipes.spec import Run
from corestone.train.spec import Training
from corestone.zoo.catalogue import find


def coca_base() -> Run:
    """Adafactor with betas of 0.9 and 0.999 and a decay of 0.01, 65,536 pairs a step, 500,000 steps, a warm-up of 2 %
    of them and a line to zero, captions weighing twice as much as pairs (sections 3.2 and 4.1).

    Half of the paper's pairs are labels of pictures, as text; give those as captions too. It ends with an epoch at 576
    pixels, for which start.path interpolates positions. Norms are clipped at 1, of which the paper says nothing for
    pretraining.
    """
    return Run(
        name="coca-base",
        description="CoCa-Base at 288 pixels on your own pairs.",
        model=find("coca-base").spec,
        objective=Captioning(caption_weight=2.0, contrastive_weight=1.0),
        data=web_pairs(cropped(288), Unigram(vocab_size=64_000, sentinels=0), context_length=64),
        optimiser=Adafactor(learning_rate=8e-4, beta1=0.9, beta2=0.999, weight_decay=0.01),
        schedule=Linear(warmup=duration("10000 steps"), final=0.0),
        training=Training(length=duration("500000 steps"), batch_examples=65_536, micro_batch=128, recompute=True),
        rhythm=RHYTHM,
        evaluation=EVALUATION,
    )
