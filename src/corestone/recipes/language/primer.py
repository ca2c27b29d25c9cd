"""Primer and Primer-EZ at published scale (So et al. 2021, section 4.2: C4)."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import Unigram
from corestone.objectives.spec import NextToken
from corestone.optim.spec import Adafactor, InverseSquareRoot
from corestone.recipes.language.own_text import RHYTHM, own_text, training
from corestone.recipes.spec import Run
from corestone.zoo.catalogue import find


def primer_537m() -> Run:
    """Primer trained as Primer-EZ is."""
    changes = {"name": "primer-537m", "description": "Primer 537M on your files, 65.5 B tokens."}
    return primer_ez_537m().model_copy(update={**changes, "model": find("primer-537m").spec})


def primer_ez_537m() -> Run:
    """A million steps of 65,536 tokens with Adafactor; the rate is 0.01 for 10,000 steps, then 1/sqrt(step)."""
    return Run(
        name="primer-ez-537m",
        description="Primer-EZ 537M on your files, 65.5 B tokens.",
        model=find("primer-ez-537m").spec,
        objective=NextToken(),
        data=own_text(Unigram(vocab_size=32_100), 512),
        optimiser=Adafactor(learning_rate=1e-2),
        schedule=InverseSquareRoot(flat=duration("10000 steps")),
        training=training(duration("1e6 steps"), 65_536),
        rhythm=RHYTHM,
    )
