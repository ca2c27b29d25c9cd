"""The 5-gram: normalised, equal to a slow and separate reference, and a floor worth the name."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import DataError
from corestone.evaluate import ngram
from corestone.evaluate.ngram import END, SYMBOLS, fit

pydoc_topics = pytest.importorskip("pydoc_data.topics")
TEXT = "\n".join(text for _, text in sorted(pydoc_topics.topics.items())).encode()


class Reference:
    """Modified Kneser-Ney as the papers write it, with dictionaries and recursion."""

    def __init__(self, documents: list[bytes]) -> None:
        full: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(6)]
        for document in documents:
            symbols = [END] * 4 + list(document) + [END]
            for i in range(4, len(symbols)):
                for k in range(1, 6):
                    full[k][tuple(symbols[i - k + 1 : i + 1])] += 1
        self.counts: list[dict[tuple[int, ...], int]] = [{} for _ in range(6)]
        self.counts[5] = dict(full[5])
        for k in range(1, 5):
            left: dict[tuple[int, ...], set[int]] = defaultdict(set)
            for gram in full[k + 1]:
                left[gram[1:]].add(gram[0])
            for gram in full[k]:
                self.counts[k][gram] = full[k][gram] if k > 1 and gram[0] == END else len(left[gram])
        self.discounts = [self._discounts(list(c.values())) for c in self.counts]
        self.followers: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
        for k in range(1, 6):
            for gram in self.counts[k]:
                self.followers[gram[:-1]].append(gram)

    @staticmethod
    def _discounts(counts: list[int]) -> tuple[float, float, float]:
        n = [sum(1 for c in counts if c == k) for k in range(5)]
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            d = (1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3])
            if 0 < d[0] <= 1 and 0 < d[1] <= 2 and 0 < d[2] <= 3:
                return d
        return (0.5, 1.0, 1.5)

    def probability(self, gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / 257
        k, lower = len(gram), self.probability(gram[1:])
        seen = self.followers.get(gram[:-1])
        if seen is None:
            return lower
        total = sum(self.counts[k][g] for g in seen)
        taken = {g: self.discounts[k][min(self.counts[k][g], 3) - 1] for g in seen}
        own = self.counts[k][gram] - taken[gram] if gram in self.counts[k] else 0.0
        return own / total + sum(taken.values()) / total * lower


def bits_per_byte(model: ngram.ByteNgram, text: bytes) -> float:
    return float(model.bits(text).sum() / len(text))


@pytest.mark.parametrize(
    "documents",
    [
        [TEXT[:6000], TEXT[6000:9000], b"", TEXT[9000:9003]],
        [b"abracadabra"],  # the discount formula is undefined: the customary values
        [b"a" * 50, b"\x00\xff" * 9],
    ],
)
def test_equals_the_slow_reference(documents: list[bytes]) -> None:
    model, reference = fit(documents), Reference(documents)
    held_out = TEXT[20_000:20_600] + bytes(range(256))
    symbols = [END] * 4 + list(held_out) + [END]
    wanted = [-math.log2(reference.probability(tuple(symbols[i - 4 : i + 1]))) for i in range(4, len(symbols))]
    assert np.abs(model.bits(held_out) - wanted).max() < 1e-9  # worst seen 2e-15


def test_every_distribution_sums_to_one() -> None:
    model = fit([TEXT[:200_000], TEXT[200_000:230_000]])
    rng = np.random.default_rng(0)
    seen = np.frombuffer(TEXT[: 4 * 300], dtype=np.uint8).reshape(300, 4).astype(int)
    beginnings = np.array([[END] * 4, [END, END, END, 65], [END, END, 66, 67], [END, 84, 104, 101]])
    contexts = np.concatenate([rng.integers(0, SYMBOLS, (300, 4)), seen, beginnings])
    probabilities = model.probabilities(contexts)
    assert probabilities.shape == (604, SYMBOLS)
    assert probabilities.min() > 0
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-12  # worst seen 4e-16


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6).filter(any), st.binary(max_size=30))
def test_any_bytes_are_normalised_and_scored_alike_by_both_ways(documents: list[bytes], text: bytes) -> None:
    model = fit(documents)
    symbols = np.array([END] * 4 + list(text) + [END])
    contexts = np.lib.stride_tricks.sliding_window_view(symbols, 5)[:, :4]
    probabilities = model.probabilities(contexts)
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-12
    chosen = probabilities[np.arange(len(text) + 1), symbols[4:]]
    np.testing.assert_allclose(model.bits(text), -np.log2(chosen), rtol=1e-12)


def test_beats_uniform_unigram_and_its_own_shorter_contexts() -> None:
    train, held_out = TEXT[:-60_000], TEXT[-60_000:]
    model = fit([train])
    counts = np.bincount(np.frombuffer(train, np.uint8), minlength=256) + 1.0
    unigram = -np.log2(counts / counts.sum())[np.frombuffer(held_out, np.uint8)].mean()
    five = bits_per_byte(model, held_out)
    shorter = [bits_per_byte(ngram.ByteNgram(model._tables[:k], len(train), True), held_out) for k in (2, 3, 4)]
    assert 8 > unigram > shorter[0] > shorter[1] > shorter[2] > five
    assert five < 0.6 * unigram


@pytest.mark.parametrize("chunk", [1, 3, 97])
def test_parts_of_bounded_size_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    documents = [TEXT[:400], TEXT[500:501], b"", TEXT[6000:6300]]
    bits = fit(documents).bits(TEXT[9000:9300])
    monkeypatch.setattr(ngram, "CHUNK", chunk)
    np.testing.assert_array_equal(fit(documents).bits(TEXT[9000:9300]), bits)


def test_counting_does_not_cross_documents() -> None:
    model = fit([b"xyz" * 40, b"abc" * 40])
    start = model.probabilities(np.full((1, 4), END))[0]
    assert start[ord("a")] == start[ord("x")] > 0.3
    after_xyz = model.probabilities(np.array([list(b"zxyz")]))[0]
    assert after_xyz[ord("x")] > 0.9  # and not the next document's "a"
    assert after_xyz[ord("a")] < 0.01
    assert model.bits(b"").shape == (1,)  # an empty document still has an end


def test_what_was_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [TEXT[:3000], b"", TEXT[3000:5000]]

    def read(max_bytes: int | None) -> tuple[int, bool]:
        model = fit(documents, max_bytes)
        return model.trained_bytes, model.complete

    assert [read(n) for n in (None, 5000, 4999, 3000, 17)] == [
        (5000, True),
        (5000, True),
        (4999, False),
        (3000, False),
        (17, False),
    ]
    monkeypatch.setattr(ngram, "CHUNK", 100)
    monkeypatch.setattr(ngram, "MOST_GRAMS", 1500)
    trained, complete = read(None)
    assert not complete
    assert 1500 <= len(fit(documents)._tables[-1].grams) < 1600  # at most one part more than the bound
    assert 1500 <= trained <= 3000


def test_no_training_text_is_refused() -> None:
    for nothing in ([], [b"", b""]):
        with pytest.raises(DataError, match="no training text"):
            fit(nothing)
