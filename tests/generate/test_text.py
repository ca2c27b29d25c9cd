"""Stop strings across token borders, and text shown while it is written."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny

from corestone.data.spec import BytePair, Bytes
from corestone.data.tokenizer import Tokenizer, build_tokenizer
from corestone.generate.spec import Sampling
from corestone.generate.text import TextWriter, generate_text
from corestone.models.decoder import DecoderModel, build_decoder
from corestone.zoo.gpt import gpt2

WORDS = "abcé€😀 "
STOPS = st.lists(st.text(alphabet=WORDS, min_size=1, max_size=4), max_size=3)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


def plain_cut(text: str, stops: list[str]) -> str:
    places = [text.find(stop) for stop in stops if stop in text]
    return text[: min(places)] if places else text


def write(pieces: list[bytes], stops: list[str]) -> tuple[str, list[str], int]:
    """What a writer gives: the text, what it showed, and how many pieces it took until it said stop."""
    shown: list[str] = []
    writer = TextWriter(stops, shown.append)
    for taken, piece in enumerate(pieces, start=1):
        if writer.write(piece):
            return writer.close(), shown, taken
    return writer.close(), shown, len(pieces)


@given(st.text(alphabet=WORDS, max_size=30), st.lists(st.integers(0, 200), max_size=40), STOPS)
def test_text_is_cut_before_a_stop_string_however_it_is_split(text: str, cuts: list[int], stops: list[str]) -> None:
    result, shown, taken = write(pieces_of(text.encode(), cuts), stops)
    # A stop is seen as soon as it is there, so one that begins earlier but ends in a later piece comes too late.
    pieces = pieces_of(text.encode(), cuts)
    so_far = b"".join(pieces[:taken]).decode(errors="ignore")
    assert result == plain_cut(so_far, stops)
    assert "".join(shown) == result
    assert taken == len(pieces) or result != so_far
    assert not any(stop in result for stop in stops)


@given(st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=40))
def test_bytes_that_are_no_text_are_shown_as_python_would_decode_them(data: bytes, cuts: list[int]) -> None:
    result, shown, _ = write(pieces_of(data, cuts), [])
    assert result == "".join(shown) == data.decode("utf-8", errors="replace")


def test_half_a_character_is_never_shown() -> None:
    shown: list[str] = []
    writer = TextWriter((), shown.append)
    for byte in "a€😀".encode():
        writer.write(bytes([byte]))
    assert shown == ["a", "€", "😀"]
    writer.write("é".encode()[:1])
    assert writer.close() == "a€😀�"


def test_what_may_become_a_stop_string_is_held_back_and_let_go() -> None:
    shown: list[str] = []
    writer = TextWriter(("\n\nEnd",), shown.append)
    writer.write(b"one\n")
    assert shown == ["one"]
    writer.write(b"\nEn")
    assert shown == ["one"]
    writer.write(b"ter")
    assert "".join(shown) == "one\n\nEnter"
    writer.write(b"\n")
    assert writer.close() == "one\n\nEnter\n"
    assert "".join(shown) == "one\n\nEnter\n"


@pytest.fixture(scope="module", params=["bytes", "byte_pair"])
def pair(request: pytest.FixtureRequest) -> tuple[DecoderModel, Tokenizer]:
    text = ["Früher war alles besser, sagte die Katze 😀. " * 20]
    tokenizer = build_tokenizer(Bytes() if request.param == "bytes" else BytePair(vocab_size=280), text)
    spec = gpt2(32, 2, 4, vocab_size=tokenizer.manifest.padded_vocab_size, context_length=64)
    spec = spec.model_copy(update={"init": spec.init.model_copy(update={"std": 0.4, "position_std": 0.4})})
    return build_decoder(spec, seed=1).eval(), tokenizer


def test_streamed_pieces_are_the_text_of_each_row(pair: tuple[DecoderModel, Tokenizer]) -> None:
    model, tokenizer = pair
    shown = {0: "", 1: "", 2: ""}

    def stream(row: int, piece: str) -> None:
        shown[row] += piece

    sampling = Sampling(max_tokens=50, seed=3)
    texts = generate_text(model, tokenizer, ["Früher", "", "die Katze 😀"], sampling, stream)
    assert texts == list(shown.values())
    assert texts == generate_text(model, tokenizer, ["Früher", "", "die Katze 😀"], sampling)
    assert all(texts)


def test_a_stop_string_ends_one_row_and_leaves_the_others(pair: tuple[DecoderModel, Tokenizer]) -> None:
    model, tokenizer = pair
    sampling, prompts = Sampling(max_tokens=60, seed=3), ["Früher", "alles"]
    whole = generate_text(model, tokenizer, prompts, sampling)
    stop = whole[0][10:13]
    cut = generate_text(model, tokenizer, prompts, sampling.model_copy(update={"stop": (stop,)}))
    assert cut == [text.split(stop)[0] for text in whole]
    assert cut[0] != whole[0]


def test_no_prompts_give_no_texts() -> None:
    tokenizer = build_tokenizer(Bytes(), [])
    assert generate_text(tiny(), tokenizer, [], Sampling()) == []
