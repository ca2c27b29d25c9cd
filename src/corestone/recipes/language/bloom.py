"""BLOOM at published scale (BigScience 2022, section 3.4 and table 3, and its training scripts)."""

from __future__ import annotations

from corestone.core.spec import override
from corestone.core.units import duration
from corestone.data.spec import BytePair
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.language.own_text import RHYTHM, own_text, training
from corestone.recipes.spec import Run
from corestone.zoo.catalogue import find


def _bloom(name: str, description: str, rates: tuple[float, float], rows: int, length: str) -> Run:
    """Adam with betas 0.9 and 0.95, decay 0.1; over 200 M rows the rate falls from the first of `rates` to the last."""
    return Run(
        name=name,
        description=description,
        model=find(name).spec,
        objective=NextToken(),
        data=own_text(BytePair(vocab_size=250_680), 2048),
        optimiser=AdamW(learning_rate=rates[0], beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1),
        schedule=Cosine(
            warmup=duration("183105 examples"), until=duration("200e6 examples"), final=rates[1] / rates[0]
        ),
        training=training(duration(length), rows * 2048).model_copy(update={"precision": "bfloat16"}),
        rhythm=RHYTHM,
    )


def bloom_560m() -> Run:
    """The planned 341 B tokens: the run ends before its cosine does."""
    description = "BLOOM-560M on your files, 341 B tokens."
    return _bloom("bloom-560m", description, (3e-4, 1e-5), 256, "341e9 tokens")


def bloom_176b() -> Run:
    """366 B tokens; the batch, which grew from 192 rows, is 2,048 from the start here."""
    description = "BLOOM-176B on your files, 366 B tokens, without the smaller batches of its beginning."
    run = _bloom("bloom-176b", description, (6e-5, 6e-6), 2048, "366e9 tokens")
    return override(run, ["model.init.std=0.0048"])
