"""The last word: a model whose answers are known is given exactly the accuracy and perplexity it deserves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_models import BYTES, SEPARATOR, V, reciter

from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.evaluate.intervals import proportion_interval
from corestone.evaluate.last_word import LastWord, Passage, made_passages, prompt

PASSAGES = [
    Passage("The mason set the", "stone"),
    Passage("She looked at the wall and saw a", "door"),
    Passage("He opened the", "gate"),
    Passage("Rain fell on the", "roof"),
]
KNOWN = ["The mason set the stone", "She looked at the wall and saw a door", "He opened the gatt"]
"""Two passages known, one known but for its last letter, one unknown."""


def measured(shots: int = 0, context: int = 500, size: int = 3) -> dict[str, Metric]:
    task = LastWord(BYTES, PASSAGES, "made for this test", shots, context, size)
    return {metric.name: metric for metric in task.run(reciter(KNOWN))}


@pytest.mark.parametrize("size", [1, 2, 9])
def test_accuracy_and_perplexity_of_a_model_whose_answers_are_known(size: int) -> None:
    found = measured(size=size)
    accuracy, perplexity = found["last_word_accuracy"], found["last_word_perplexity"]
    assert (accuracy.value, accuracy.unit, accuracy.n) == (50.0, "%", 4)  # a word but for one letter is no hit
    assert accuracy.interval == pytest.approx((15.0036, 84.9964), abs=1e-3)  # Wilson's interval of 2 in 4
    normaliser = math.log(math.exp(8) + V - 1)
    sure, unsure, lost = normaliser - 8, normaliser, math.log(V)
    # " stone" 6 bytes, " door" 5, " gate": 4 known and one against the known letter, " roof" 5 not known at all.
    nats = (6 + 5 + 4) * sure + unsure + 5 * lost
    assert perplexity.value == pytest.approx(math.exp(nats / 4), rel=1e-5)
    assert (perplexity.unit, perplexity.n) == ("per word", 4)
    assert "zero-shot" in accuracy.convention
    assert "made for this test" in perplexity.convention


def test_a_context_that_is_too_long_keeps_its_last_tokens_and_says_so() -> None:
    """The reciter knows texts from their beginning alone, so what lost its beginning is unknown to it."""
    assert measured(context=24)["last_word_accuracy"].value == 25.0
    said = measured(context=24)["last_word_accuracy"].convention
    assert said.endswith("1 of the texts kept only their last 24 tokens")
    assert "kept only" not in measured()["last_word_accuracy"].convention


def test_examples_take_the_fill_in_the_blank_form() -> None:
    text = prompt(PASSAGES, 0, 2)
    blocks = text.split("\n\n")
    assert blocks[-1] == "The mason set the ____. →"
    assert len(blocks) == 3
    for block in blocks[:-1]:
        context, word = block.split(" ____. → ")
        assert Passage(context, word) in PASSAGES[1:]
    shown = prompt(PASSAGES, 1, 1) + " door"
    task = LastWord(BYTES, PASSAGES, "", 1, 500, 4)
    stream = [SEPARATOR, *shown.encode()]
    assert task.rows[1].tokens.tolist() == stream
    assert task.rows[1].scored == len(" door")
    found = [m.value for m in task.run(reciter([shown]))]
    assert found[0] == 25.0
    assert "1 examples, fill-in-the-blank" in task.convention


@given(st.integers(2, 40), st.data())
def test_examples_are_other_passages_each_once_and_drawn_by_number(n: int, data: st.DataObject) -> None:
    passages = [Passage(f"context {i}", f"word{i}") for i in range(n)]
    number, shots = data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n - 1))
    text = prompt(passages, number, shots)
    assert text == prompt(passages, number, shots)
    shown = [block.rpartition(" ")[2] for block in text.split("\n\n")[:-1]]
    assert len(set(shown)) == shots
    assert f"word{number}" not in shown


def test_more_examples_than_passages_are_refused() -> None:
    with pytest.raises(DataError, match="4 examples out of 4 passages"):
        LastWord(BYTES, PASSAGES, "", 4, 500, 1)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 9), (50, 100), (10, 10)])
def test_the_interval_of_a_proportion_ends_where_the_test_would_refuse(hits: int, n: int) -> None:
    """Wilson's ends are the proportions p that lie 1.96 of their own standard errors from what was seen."""
    low, high = proportion_interval(hits, n)
    assert low <= hits / n <= high
    for end in (low, high):
        if 0 < end < 1:
            assert (hits / n - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, rel=1e-4)
    assert high - low > 0.1  # never a point, not even at 0 or 1


PLAIN = "Nothing {} was said {} it then, and both of them went on with {} work as they had {} {}. "
FILLER = "".join(PLAIN.format(*"abcde") for _ in range(4))  # 84 words; no sentence ends with a word of four letters
NEAR = 'They had no Lantern. Here is a lantern. At dusk came "the lantern." '
MADE = f"{FILLER}He lit a lantern. {FILLER}{FILLER}{NEAR}{FILLER}"


def test_a_made_passage_is_the_shortest_of_whole_sentences_that_has_its_word_before() -> None:
    """The first two lanterns have none within 50 words before them, the third one is taken, the fourth is too near."""
    (passage,) = made_passages([MADE])
    assert passage.word == "lantern"
    assert passage.context.endswith("They had no Lantern. Here is a")
    assert len(passage.context.split()) == 2 * 21 + 4 + 3  # and the word itself make 50
    assert made_passages([MADE.replace("Lantern", "lamp")])[0].context.endswith('Here is a lantern. At dusk came "the')


def test_made_passages_are_long_enough_whole_and_do_not_overlap() -> None:
    pydoc_topics = pytest.importorskip("pydoc_data.topics")
    total = 0
    for _, text in sorted(pydoc_topics.topics.items()):
        end = 0
        for passage in made_passages([text]):
            begin = text.index(passage.context, end)  # behind the passage before it
            end = begin + len(passage.context) + 1 + len(passage.word)
            assert text[begin:end] == f"{passage.context} {passage.word}"
            assert len(passage.context.split()) >= 49
            assert passage.word.lower() in passage.context.lower()
            assert passage.word.isalpha()
            assert len(passage.word) >= 4
            assert begin == 0 or text[:begin].rstrip()[-1] in ".!?\"'”’)*_"
            total += 1
    assert total > 50
