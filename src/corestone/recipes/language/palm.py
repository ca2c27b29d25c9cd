"""PaLM at published scale (Chowdhery et al. 2022, section 5)."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import BytePair
from corestone.objectives.spec import NextToken
from corestone.optim.spec import Adafactor, InverseSquareRoot
from corestone.recipes.language.own_text import RHYTHM, own_text, training
from corestone.recipes.spec import Run
from corestone.zoo.catalogue import find


def _palm(name: str, description: str) -> Run:
    """780 B tokens. The batch, which grew from 512 rows over 1,024, is 2,048 from the start here.

    Adafactor without factoring and with decay by the squared rate; the rate is 0.01 for 10,000 steps, then
    1/sqrt(step). Byte pairs, which lose nothing either, stand for the paper's SentencePiece model. beta1 is 0.9.
    """
    return Run(
        name=name,
        description=description,
        model=find(name).spec,
        objective=NextToken(z_loss=1e-4),
        data=own_text(BytePair(vocab_size=256_000), 2048),
        optimiser=Adafactor(learning_rate=1e-2, beta1=0.9, factored=False, squared_decay=True),
        schedule=InverseSquareRoot(flat=duration("10000 steps")),
        training=training(duration("780e9 tokens"), 2048 * 2048),
        rhythm=RHYTHM,
    )


def palm_8b() -> Run:
    """The batch is the largest model's: which one this size had was not verified."""
    description = "PaLM 8B on your files, 780 B tokens; batch size unverified: that of PaLM 540B's last stage."
    return _palm("palm-8b", description)


def palm_540b() -> Run:
    """The largest one."""
    return _palm("palm-540b", "PaLM 540B on your files, 780 B tokens, in the batches of its last stage.")
