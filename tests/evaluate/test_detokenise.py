"""WikiText's words put together and taken apart again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestone.evaluate.detokenise import detokenise, retokenise, share

PAIRS = [
    (" = Robert <unk> = ", "= Robert <unk> ="),
    (" = = Early life = = ", "== Early life =="),
    (" ", ""),
    ("a film , television and theatre actor .", "a film, television and theatre actor."),
    ("a guest @-@ starring role ( in 2000 ) :", "a guest-starring role (in 2000):"),
    ("1 @,@ 000 @,@ 000 units , 3 @.@ 5 %", "1,000,000 units, 3.5%"),
    ('He said " I don \'t " , and left !', 'He said "I don\'t", and left!'),
    ("the player 's book ; $ 5 [ note ]", "the player's book; $5 [note]"),
    ("the U.S. government ...", "the U.S. government ..."),
]


@pytest.mark.parametrize(("spaced", "natural"), PAIRS)
def test_words_are_put_together_and_come_back(spaced: str, natural: str) -> None:
    assert detokenise(spaced) == natural
    assert retokenise(natural) == " ".join(spaced.split())


WORDS = st.sampled_from(["stone", "wall", "<unk>", "of", "Keystone", "the", "1998", "straße"])
MARKS = st.sampled_from([",", ".", ";", ":", "!", "?", "'s"])


@given(st.lists(st.tuples(WORDS, st.lists(MARKS, max_size=1)), min_size=1, max_size=12))
def test_any_words_with_marks_between_come_back(parts: list[tuple[str, list[str]]]) -> None:
    line = " ".join(word for first, rest in parts for word in (first, *rest))
    assert retokenise(detokenise(line)) == line


@given(st.lists(WORDS, min_size=2, max_size=6), st.sampled_from(["@-@", "@,@", "@.@"]))
def test_marks_inside_words_stand_without_spaces(words: list[str], mark: str) -> None:
    natural = detokenise(f" {mark} ".join(words))
    assert natural == mark[1].join(words)


def test_share_counts_the_lines_that_come_back() -> None:
    lost = "a well-known wall"  # its hyphen would come back as a mark of its own
    assert retokenise(detokenise(lost)) != lost
    assert share(["a wall .", "", lost, " = Walls = "]) == pytest.approx(2 / 3)
