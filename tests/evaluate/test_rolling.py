"""Perplexity of a whole file: equal to a hand computation, whatever the batch size, with its convention said."""

from __future__ import annotations

import math

import pytest
from known_models import BYTES, SEPARATOR, KnownModel, V, bigram, bigram_nats
from torch import zeros

from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.evaluate.rolling import Corpus, RollingPerplexity

TEXT = " = Walls = \n A wall of stone , and a wall of <unk> . \n"
WORDS = 3 + 1 + 11 + 1  # two lines
CORPUS = Corpus(TEXT, "word", WORDS, "as counted in the test")


def measured(corpus: Corpus, model: KnownModel, context: int = 1000, stride: int = 1000, size: int = 4) -> list[Metric]:
    return list(RollingPerplexity(BYTES, corpus, context, stride, size).run(model))


def test_word_and_token_perplexity_by_hand() -> None:
    model = bigram()
    nats = bigram_nats(model, [SEPARATOR, *TEXT.encode()])
    word, token = measured(CORPUS, model)
    assert (word.name, word.unit, word.n) == ("word_perplexity", "per word", WORDS)
    assert (token.name, token.unit, token.n) == ("token_perplexity", "per token", len(TEXT))
    assert math.log(word.value) * WORDS == pytest.approx(nats, rel=1e-6)  # worst seen 4.2e-9
    assert math.log(token.value) * len(TEXT) == pytest.approx(nats, rel=1e-6)
    assert word.convention.startswith("as counted in the test; the file is one text")
    assert "the model's own tokens" in token.convention


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity() -> None:
    word, token = measured(CORPUS, KnownModel(lambda _: zeros(V)))
    assert token.value == pytest.approx(V)
    assert word.value == pytest.approx(V ** (len(TEXT) / WORDS))
    (bits,) = measured(Corpus(TEXT, "character", len(TEXT), ""), KnownModel(lambda _: zeros(V)))
    assert (bits.name, bits.unit, bits.n) == ("bits_per_character", "bits/character", len(TEXT))
    assert bits.value == pytest.approx(math.log2(V))


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 3), (7, 1), (1, 1)])
@pytest.mark.parametrize("size", [1, 5])
def test_a_model_of_one_token_does_not_care_how_the_file_is_cut(context: int, stride: int, size: int) -> None:
    """A bigram sees one token, so rows of any length and overlap must give the same sum: nothing lost or doubled."""
    reference, found = measured(CORPUS, bigram()), measured(CORPUS, bigram(), context, stride, size)
    for one, other in zip(reference, found, strict=True):
        assert other.value == pytest.approx(one.value, rel=1e-6)
        assert f"rows of up to {context} tokens, {stride} new" in other.convention


def test_the_interval_holds_the_value() -> None:
    corpus = Corpus(TEXT * 200, "word", WORDS * 200, "")
    for metric in measured(corpus, bigram(), 128, 128, 16):
        assert metric.interval is not None
        assert metric.interval[0] < metric.value < metric.interval[1]


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(DataError, match="holds no text"):
        RollingPerplexity(BYTES, Corpus("", "word", 0, ""), 8, 8, 1)
