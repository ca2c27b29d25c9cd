"""Encoders: small ones on Shakespeare, and the published ones on own text."""

from __future__ import annotations

from corestone.data.spec import Component, Data, Embedded, WordPiece
from corestone.models.spec import Encoder, GeneratorDiscriminator
from corestone.objectives.spec import MaskedToken, NextSentence, ReplacedToken
from corestone.optim.spec import AdamW
from corestone.recipes.language.shakespeare import shakespeare
from corestone.recipes.spec import Run, Samples
from corestone.zoo.bert import bert
from corestone.zoo.electra import electra

VOCAB_SIZE, CONTEXT_LENGTH = 4096, 128


def _on_shakespeare(name: str, description: str, model: Encoder | GeneratorDiscriminator, **changes: object) -> Run:
    data = Data(
        components=(Component(source=Embedded(name="shakespeare")),),
        tokenizer=WordPiece(vocab_size=VOCAB_SIZE),
        context_length=CONTEXT_LENGTH,
    )
    slower = AdamW(learning_rate=5e-4)  # norms behind the branches: at a decoder's 2e-3 BERT learns frequencies alone
    changed = {"name": name, "description": description, "model": model, "data": data, "optimiser": slower}
    return Run.model_validate({**dict(shakespeare()), "samples": Samples(prompts=()), **changed, **changes})


def small_bert() -> Run:
    """A BERT without dropout: masked tokens in packed rows, no next sentences (Liu et al. 2019)."""
    model = bert(256, 4, 4, VOCAB_SIZE, CONTEXT_LENGTH, dropout=0.0).model_copy(update={"pooler": None})
    return _on_shakespeare(
        "shakespeare-bert",
        "A small BERT on 38 plays of Shakespeare, whole plays held out.",
        model,
        objective=MaskedToken(),
    )


def small_bert_pairs() -> Run:
    """The same with next sentences, as published: pairs of texts, one to a row."""
    return _on_shakespeare(
        "shakespeare-bert-pairs",
        "A small BERT on pairs of texts from 38 plays of Shakespeare, whole plays held out.",
        bert(256, 4, 4, VOCAB_SIZE, CONTEXT_LENGTH, dropout=0.0),
        objective=NextSentence(),
    )


def small_electra() -> Run:
    """An ELECTRA without dropout: a generator of a quarter of the discriminator's width."""
    model = electra(256, 4, 4, 128, (1, 4), VOCAB_SIZE, CONTEXT_LENGTH, dropout=0.0)
    return _on_shakespeare(
        "shakespeare-electra",
        "A small ELECTRA on 38 plays of Shakespeare, whole plays held out.",
        model,
        objective=ReplacedToken(),
    )
