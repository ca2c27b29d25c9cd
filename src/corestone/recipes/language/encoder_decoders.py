"""Encoder-decoders: small ones on Shakespeare."""

from __future__ import annotations

from corestone.core.spec import Spec
from corestone.data.spec import Component, Data, Embedded, Unigram
from corestone.models.spec import EncoderDecoder
from corestone.objectives.spec import Continuation, Denoising, Mixture, Share, SpanCorruption
from corestone.optim.spec import Adafactor
from corestone.recipes.language.shakespeare import shakespeare
from corestone.recipes.spec import Run, Samples
from corestone.zoo.alexatm import alexatm
from corestone.zoo.t5 import t5

VOCAB_SIZE, PIECES, CONTEXT_LENGTH = 4096, 4000, 256


def _on_shakespeare(name: str, description: str, model: EncoderDecoder, objective: Spec) -> Run:
    data = Data(
        components=(Component(source=Embedded(name="shakespeare")),),
        tokenizer=Unigram(vocab_size=PIECES, sentinels=100),
        context_length=CONTEXT_LENGTH,
    )
    return shakespeare().model_copy(
        update={
            "name": name,
            "description": description,
            "model": model,
            "objective": objective,
            "data": data,
            "samples": Samples(prompts=("To be, or not to be, that is the",)),
        }
    )


def small_t5() -> Run:
    """A T5 1.1 without dropout: corrupted spans. Tokens begin 16 times as large as matrices, and the paper's optimiser
    moves each in proportion to its size (Adafactor at 0.01: Raffel et al. 2020, section 3.1.2)."""
    model = t5(256, 3, 4, 64, 512, gated=True, vocab_size=VOCAB_SIZE, dropout=0.0)
    run = _on_shakespeare(
        "shakespeare-t5", "A small T5 1.1 on 38 plays of Shakespeare, whole plays held out.", model, SpanCorruption()
    )
    return run.model_copy(update={"optimiser": Adafactor(learning_rate=1e-2)})


def small_alexatm() -> Run:
    """An AlexaTM without dropout: four rows in five are to be denoised, one to be continued."""
    model = alexatm(256, (3, 2), 4, VOCAB_SIZE, 2 * CONTEXT_LENGTH, dropout=0.0)
    mixture = Mixture(parts=(Share(objective=Denoising(), weight=0.8), Share(objective=Continuation(), weight=0.2)))
    return _on_shakespeare(
        "shakespeare-alexatm", "A small AlexaTM on 38 plays of Shakespeare, whole plays held out.", model, mixture
    )
