"""Characters of the Penn Treebank, the Mogrifier LSTM's own ground."""

from __future__ import annotations

from corestone.core.units import duration
from corestone.data.spec import Bytes, Component, Data, Files
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Constant
from corestone.recipes.spec import Run, Samples
from corestone.train.spec import Rhythm, Training
from corestone.zoo.mogrifier import ptb_char

ROWS, STEPS = 64, 150
"""Rows of a batch, and the steps through which gradients flow."""


def mogrifier_ptb_char() -> Run:
    """Mogrifier LSTM at published size and settings (Melis et al. 2020, code), on the user's own copy; for a GPU.

    The text is not free, so it is no data set of the catalogue. Put the characters of ptb.char.train.txt, which has a
    space behind each and `_` for a space (`tr -d ' ' | tr _ ' '`), into ptb/train.txt, and score the test text with
    `corestone evaluate RUN --task ptb_char --data ptb.char.test.txt --dynamic rms`.

    What differs from the published training: each row starts with an empty state (theirs keeps it from batch to batch),
    there is no L2 penalty, and weights are not averaged at the end. Adam without momentum is theirs; they clip at norm
    10 the gradient of a loss that is summed over the steps.
    """
    return Run(
        name="mogrifier-ptb-char",
        description="Mogrifier LSTM 24M on characters of the Penn Treebank (own files in ptb/).",
        model=ptb_char(vocab_size=320),
        objective=NextToken(),
        data=Data(
            components=(Component(source=Files(paths=("ptb/train.txt",))),), tokenizer=Bytes(), context_length=STEPS
        ),
        optimiser=AdamW(learning_rate=0.00374, beta1=0.0, beta2=0.999, weight_decay=0.0),
        schedule=Constant(),
        training=Training(length=duration("100000 steps"), batch_tokens=ROWS * STEPS, clip_norm=10 / STEPS),
        rhythm=Rhythm(
            evaluate=duration("1000 steps"), sample=duration("5000 steps"), checkpoint=duration("1000 steps")
        ),
        samples=Samples(prompts=("the ",)),
    )
