"""What recipes at published scale share: the user's own files for data, and a rhythm for runs of days.

The papers' data sets are not shipped; `data.components.0.source.paths` names yours. Weights are not sharded over
devices yet: the largest of these can be shown and built upon, not run. How many rows a device takes at once
(`training.micro_batch`) and whether it recomputes activations change nothing that is learnt.
"""

from __future__ import annotations

from corestone.core.units import Duration, duration
from corestone.data.spec import Component, Data, Files, Tokenizer
from corestone.train.spec import Rhythm, Training

RHYTHM = Rhythm(evaluate=duration("1000 steps"), sample=duration("5000 steps"), checkpoint=duration("1000 steps"))


def own_text(tokenizer: Tokenizer, context_length: int) -> Data:
    """Files in the folder `corpus`, one document in ten thousand held out."""
    source = Files(paths=("corpus/",), validation_percent=0.01)
    return Data(components=(Component(source=source),), tokenizer=tokenizer, context_length=context_length)


def training(length: Duration, batch_tokens: int) -> Training:
    """One row at a time, activations recomputed: fits where the weights fit."""
    return Training(length=length, batch_tokens=batch_tokens, micro_batch=1, recompute=True)
