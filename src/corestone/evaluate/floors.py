"""Floors: what general compressors, a 5-gram model and tokens' frequencies reach on the bytes that a trained model is
scored on."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import zstandard
from numpy.typing import NDArray

from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.evaluate.intervals import add_to_blocks, block_starts, ratio_interval
from corestone.evaluate.ngram import fit

TRAINING_LIMIT = 32_000_000
HELD_OUT_BYTE_SECONDS, TRAINING_BYTE_SECONDS = 0.6e-6, 0.1e-6
"""What a byte of text takes on one core of a Zen 5, its decoding among it: 0.58 and 0.09 microseconds measured with
Shakespeare's plays."""
BLOCK_BYTES = 4096


class StoredText(Protocol):
    """What evaluation needs of a prepared split; `corestone.data.tokens.TokenSet` is one.

    `starts` (n_documents + 1,): place of each document's separator and, last, of the closing one.
    `document_bytes` (n_documents,): UTF-8 bytes of each document's text.
    """

    @property
    def n_tokens(self) -> int: ...

    @property
    def n_documents(self) -> int: ...

    @property
    def starts(self) -> NDArray[np.int64]: ...

    @property
    def document_bytes(self) -> NDArray[np.int64]: ...

    def slice(self, start: int, stop: int) -> NDArray[np.int64]: ...

    def document_id(self, i: int) -> str: ...


class Decoder(Protocol):
    """What evaluation needs of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str: ...


def document_texts(token_set: StoredText, tokenizer: Decoder, documents: int | None = None) -> Iterator[bytes]:
    """The UTF-8 text of each stored document in order, one at a time, decoded from its tokens.

    Args:
        documents: how many from the first on; None for all.

    Raises:
        DataError: a document does not decode to as many bytes as its text had.
    """
    count = token_set.n_documents if documents is None else min(documents, token_set.n_documents)
    for i in range(count):
        ids = token_set.slice(int(token_set.starts[i]) + 1, int(token_set.starts[i + 1]))
        text = tokenizer.decode(ids.tolist()).encode("utf-8")
        expected = int(token_set.document_bytes[i])
        if len(text) != expected:
            raise DataError(
                f"document '{token_set.document_id(i)}': its tokens decode to {len(text)} bytes but its text had "
                f"{expected}; this is not the tokenizer the set was prepared with, or one that loses text "
                "(a normaliser, an unknown token): prepare the set again with a lossless tokenizer"
            )
        yield text


def held_out_text(token_set: StoredText, tokenizer: Decoder, documents: int | None = None) -> list[bytes]:
    """The same texts as a list: the bytes that the model is scored on. Raises DataError as `document_texts` does."""
    return list(document_texts(token_set, tokenizer, documents))


def floors(
    held_out: Sequence[bytes], training: Iterable[bytes] | None, training_limit: int = TRAINING_LIMIT
) -> list[Metric]:
    """Measure the floors on the held-out text.

    The compressors (gzip -9, xz -9e, zstd -19) get the documents joined in order and know nothing of the training text.
    The 5-gram model is fitted on the training text and predicts each held-out document by itself, its end included,
    as a trained model does; so it has the same advantage. Compressed sizes include the formats' headers.

    Time: see `floors_seconds`. Beside the text
    itself the peak is about 0.6 GB (xz's window) or up to 1.4 GB where the 5-gram's table is at its bound.

    Args:
        held_out: UTF-8 text of each held-out document.
        training: UTF-8 text of the training documents; may be a generator. None leaves the 5-gram out.
        training_limit: bytes after which the 5-gram stops reading (as it does at 6 million distinct 5-grams); where
            text is left out, its name says how much was read.

    Returns:
        Metrics `gzip -9`, `xz -9e`, `zstd -19` and `5-gram`, in bits per byte of text, n = bytes. The 5-gram has an
        interval from resampling blocks (runs of whole documents of 4,096 bytes or more; where these would be fewer
        than 30, pieces of that size: see `intervals.block_starts`). A compressor's output is one number, without one.

    Raises:
        DataError: there is no held-out or no training text.
    """
    text = b"".join(held_out)
    if not text:
        raise DataError("floors: there is no held-out text; give the validation split at least one document")
    sizes = {
        "gzip -9": len(gzip.compress(text, 9)),
        "xz -9e": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
        "zstd -19": len(zstandard.ZstdCompressor(level=19).compress(text)),
    }
    metrics = [Metric(name, 8 * size / len(text), "bits/byte", len(text)) for name, size in sizes.items()]
    return metrics if training is None else [*metrics, _ngram_floor(held_out, training, training_limit)]


def floors_seconds(held_out: int, training: int) -> float:
    """What floors take, about, of so many bytes of text."""
    return HELD_OUT_BYTE_SECONDS * held_out + TRAINING_BYTE_SECONDS * min(training, TRAINING_LIMIT)


def _ngram_floor(held_out: Sequence[bytes], training: Iterable[bytes], limit: int) -> Metric:
    model = fit(training, limit)
    lengths = np.array([len(document) + 1 for document in held_out], dtype=np.int64)  # with the document's end
    starts = block_starts(lengths, BLOCK_BYTES)
    bits, symbols, ends = np.zeros(len(starts)), np.zeros(len(starts)), np.zeros(len(starts))
    begin = 0
    for document in held_out:
        add_to_blocks(bits, starts, begin, model.bits(document))
        add_to_blocks(symbols, starts, begin, np.ones(len(document) + 1))
        begin += len(document) + 1
        add_to_blocks(ends, starts, begin - 1, np.ones(1))  # costs bits, but is no byte of text
    n = int(lengths.sum()) - len(held_out)
    interval = ratio_interval(bits, symbols - ends)
    name = "5-gram" if model.complete else f"5-gram (first {model.trained_bytes / 1e6:.3g} MB of training text)"
    return Metric(name, float(bits.sum() / n), "bits/byte", n, interval)


def unigram_floor(held_out: StoredText, training: StoredText, vocab_size: int, training_limit: int) -> Metric:
    """What knowing how often each token stands in the training text reaches, and nothing of what stands before it.

    Frequencies are the first thing that a language model learns: one that is no better has learnt nothing of context.

    Args:
        vocab_size: shares are of so many tokens, each of them counted once more than it stands there.
        training_limit: tokens that are counted, from the first on; the name says how many where some are left out.

    Returns:
        Bits per byte of text, each document's end among the tokens; without an interval.
    """
    counts_V, counted = np.ones(vocab_size), min(training.n_tokens, training_limit)
    for ids in _pieces(training, counted):
        counts_V += np.bincount(ids, minlength=vocab_size)
    bits_V = -np.log2(counts_V / counts_V.sum())
    bits = sum(float(bits_V[ids].sum()) for ids in _pieces(held_out, held_out.n_tokens))
    n = int(held_out.document_bytes.sum())
    part = "" if counted == training.n_tokens else f" (first {counted / 1e6:.3g} M of training text)"
    return Metric(f"unigram of tokens{part}", bits / n, "bits/byte", n)


def _pieces(token_set: StoredText, stop: int, size: int = 1 << 20) -> Iterator[NDArray[np.int64]]:
    """Tokens behind the first separator, up to a place, some at a time."""
    for start in range(1, stop, size):
        yield token_set.slice(start, min(start + size, stop))
