"""Floors: the compressors are the real ones, the 5-gram's interval covers, the text is the text that was stored."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from corestone.core.errors import DataError
from corestone.evaluate.floors import document_texts, floors, held_out_text, unigram_floor
from corestone.evaluate.intervals import MOST, add_to_blocks, block_starts, ratio_interval
from corestone.evaluate.ngram import fit

pydoc_topics = pytest.importorskip("pydoc_data.topics")
TOPICS = [text.encode() for _, text in sorted(pydoc_topics.topics.items())]
TRAIN, HELD_OUT = TOPICS[::2], TOPICS[1::2]
N = sum(map(len, HELD_OUT))


def repetitive() -> bytes:
    """A text of pieces that come back; at other levels its size differs: gzip -6 by 13 %, xz -6 0.16, zstd -15 0.18."""
    draw = random.Random(0).random
    base = "".join("acgt"[int(4 * draw())] for _ in range(20_000))
    pieces = [base[start : start + int(4 + 20 * draw())] for start in range(0, 20_000, 7)]
    return "".join(pieces[int(len(pieces) * draw() ** 3)] for _ in range(20_000)).encode()


@pytest.mark.parametrize(("name", "size"), [("gzip -9", 57_782), ("xz -9e", 48_896), ("zstd -19", 47_971)])
def test_compressors_make_as_much_as_the_command_line_tools(name: str, size: int) -> None:
    """Bytes that the tools wrote of this text: `gzip -9 -n -c` (1.12), `xz -9e -c` (5.4.1), `zstd -19 -q -c` (1.5.4).
    They belong to the system, and no index installs them."""
    text = repetitive()
    metric = {m.name: m for m in floors([text], None)}[name]
    assert metric.value * len(text) / 8 == pytest.approx(size, rel=1e-3)  # worst seen 3.1e-4 (gzip)
    assert (metric.n, metric.unit, metric.interval) == (len(text), "bits/byte", None)


def test_the_5_gram_is_the_one_fitted_on_all_training_text() -> None:
    metric = floors(HELD_OUT, iter(TRAIN))[-1]
    model = fit(TRAIN)
    assert metric.name == "5-gram"
    assert metric.value == pytest.approx(sum(model.bits(d).sum() for d in HELD_OUT) / N, rel=1e-12)
    assert metric.n == N
    assert metric.interval is not None
    low, high = metric.interval
    assert low < metric.value < high < 1.2 * low


def test_a_limit_on_training_text_is_said_and_kept() -> None:
    limited = floors(HELD_OUT, TRAIN, training_limit=100_000)[-1]
    assert limited.name == "5-gram (first 0.1 MB of training text)"
    joined, whole = b"".join(TRAIN), floors(HELD_OUT, TRAIN)[-1]
    assert limited.value > whole.value
    documents, left = [], 100_000
    for document in TRAIN:
        documents.append(document[:left])
        left -= len(documents[-1])
        if left == 0:
            break
    assert replace(limited, name="5-gram") == floors(HELD_OUT, documents)[-1]
    assert floors(HELD_OUT, TRAIN, training_limit=len(joined))[-1].name == "5-gram"


def test_one_long_document_still_has_an_interval_and_a_tiny_one_has_none() -> None:
    assert floors([b"".join(HELD_OUT)], TRAIN)[-1].interval is not None
    assert floors([b"To be, or not to be"], TRAIN)[-1].interval is None


@pytest.mark.parametrize(("held_out", "training"), [([], TRAIN), ([b""], TRAIN), (HELD_OUT, []), (HELD_OUT, [b""])])
def test_nothing_to_measure_is_refused(held_out: list[bytes], training: list[bytes]) -> None:
    with pytest.raises(DataError, match="floor"):
        floors(held_out, training)


class Stored:
    """A prepared split in memory: tokens are byte values, the separator is 256."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._stream = np.concatenate([[256], *([*text, 256] for text in texts)]).astype(np.int64)
        self.starts = np.flatnonzero(self._stream == 256).astype(np.int64)
        self.document_bytes = np.array([len(text) for text in texts], dtype=np.int64)

    @property
    def n_tokens(self) -> int:
        return len(self._stream)

    @property
    def n_documents(self) -> int:
        return len(self.document_bytes)

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self._stream[start:stop]

    def document_id(self, i: int) -> str:
        return f"topic {i}"


class ByteDecoder:
    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()


class LosingDecoder:
    """Drops capitals, as a tokenizer with unknown tokens would."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(c for c in bytes(ids).decode() if not c.isupper())


def test_held_out_text_is_the_stored_text() -> None:
    texts = [*HELD_OUT[:3], b"", "Größe 木 \U0001f600".encode()]
    assert held_out_text(Stored(texts), ByteDecoder()) == texts
    assert list(document_texts(Stored(texts), ByteDecoder(), documents=2)) == texts[:2]


def test_frequencies_of_tokens_are_those_of_the_training_text() -> None:
    """By Python's own counting: each token of the vocabulary once more than it stands there."""
    train, held_out = Stored(TRAIN), Stored(HELD_OUT)
    counts = Counter(token for text in TRAIN for token in [*text, 256])
    total = sum(counts.values()) + 300
    bits = sum(-math.log2((counts[token] + 1) / total) for text in HELD_OUT for token in [*text, 256])
    found = unigram_floor(held_out, train, 300, 10**9)
    assert found.value == pytest.approx(bits / N, rel=1e-9)
    assert (found.name, found.unit, found.n, found.interval) == ("unigram of tokens", "bits/byte", N, None)
    limited = unigram_floor(held_out, train, 300, 10_000)
    assert limited.value > found.value
    assert limited.name == "unigram of tokens (first 0.01 M of training text)"


def test_a_tokenizer_that_loses_text_is_refused_by_document() -> None:
    with pytest.raises(DataError, match=r"'topic 1': its tokens decode to 5 bytes but its text had 7"):
        held_out_text(Stored([b"all small", b"NOt all"]), LosingDecoder())


@pytest.mark.parametrize(
    ("lengths", "least", "blocks"),
    [
        ([100_000] * 40, 2048, 40),  # long documents: each is a block
        ([100] * 10_000, 2048, 476),  # short documents: runs of 21
        ([5] * 4_000_000, 2048, 1000),  # very many: merged
        ([900_000, 100_000], 2048, 488),  # few documents: pieces
        ([30_000], 2048, 30),  # a short split: shorter pieces
        ([3_000], 2048, 11),  # down to an eighth
        ([5], 2048, 1),
    ],
)
def test_blocks(lengths: list[int], least: int, blocks: int) -> None:
    starts = block_starts(np.array(lengths, dtype=np.int64), least)
    assert len(starts) == blocks <= MOST
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    if len(lengths) >= 30:  # whole documents, and never fewer units than asked for
        assert np.isin(starts, np.concatenate([[0], np.cumsum(lengths)])).all()
        assert np.diff([*starts, sum(lengths)]).min() >= least


def test_values_added_in_any_portions_give_the_same_block_sums() -> None:
    values, starts = np.random.default_rng(1).normal(size=1000), np.array([0, 10, 400, 990])
    sums, begin = np.zeros(4), 0
    for portion in np.split(values, [3, 3, 10, 500, 995]):
        add_to_blocks(sums, starts, begin, portion)
        begin += len(portion)
    np.testing.assert_allclose(sums, np.add.reduceat(values, starts), rtol=1e-12, atol=1e-12)


def test_the_interval_covers_the_truth_where_neighbours_depend_on_each_other() -> None:
    """400 texts of 100,000 losses, stretches of 50 share their level: blocks cover 92.5 %, single tokens 31.5 %."""
    rng, covered, naive = np.random.default_rng(7), 0, 0
    starts = block_starts(np.array([100_000]), 2048)
    for _ in range(400):
        levels = np.repeat(rng.gamma(2.0, size=2_000), 50)  # stretches of 50 tokens share their level
        losses = levels * rng.gamma(2.0, size=100_000)
        low, high = ratio_interval(np.add.reduceat(losses, starts), np.diff([*starts, 100_000]).astype(float)) or (0, 0)
        covered += low <= 4.0 <= high
        naive += abs(losses.mean() - 4.0) <= 1.96 * losses.std() / 100_000**0.5
    assert 0.90 < covered / 400 < 0.98
    assert naive / 400 < 0.6


def test_the_interval_is_reproducible_and_absent_where_it_means_nothing() -> None:
    totals, weights = np.random.default_rng(3).gamma(5.0, size=(2, 50))
    assert ratio_interval(totals, weights) == ratio_interval(totals, weights)
    assert ratio_interval(totals[:7], weights[:7]) is None
    assert ratio_interval(np.where(totals > 5, np.nan, totals), weights) is None
