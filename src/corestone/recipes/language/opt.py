"""OPT at published scale (Zhang et al. 2022, section 2 and table 1)."""

from __future__ import annotations

from corestone.core.units import Duration, duration
from corestone.data.spec import BytePair
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Linear
from corestone.recipes.language.own_text import RHYTHM, own_text, training
from corestone.recipes.spec import Run
from corestone.zoo.catalogue import find


def _opt(name: str, description: str, learning_rate: float, batch_tokens: int, warmup: Duration) -> Run:
    """300 B tokens, the rate falling straight to a tenth; AdamW with betas 0.9 and 0.95, decay 0.1, clipping at 1."""
    return Run(
        name=name,
        description=description,
        model=find(name).spec,
        objective=NextToken(),
        data=own_text(BytePair(vocab_size=50257), 2048),
        optimiser=AdamW(learning_rate=learning_rate, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1),
        schedule=Linear(warmup=warmup, final=0.1),
        training=training(duration("300e9 tokens"), batch_tokens),
        rhythm=RHYTHM,
    )


def opt_125m() -> Run:
    """Batches of half a million tokens, a warm-up of 375 M."""
    description = "OPT-125M on your files, 300 B tokens."
    return _opt("opt-125m", description, 6e-4, 524_288, duration("375e6 tokens"))


def opt_175b() -> Run:
    """Batches of two million tokens, a warm-up of 2,000 steps. Rate: the released code's; the run's was set by hand."""
    description = "OPT-175B on your files, 300 B tokens; rate of the released code (it was changed by hand in the run)."
    return _opt("opt-175b", description, 3e-5, 2_097_152, duration("2000 steps"))
