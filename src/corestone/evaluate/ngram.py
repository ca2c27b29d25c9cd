"""A 5-gram model of bytes: what can be had by counting, and so a floor for every trained model.

Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999, "An empirical study of smoothing techniques for
language modeling", section 3): full counts at the highest order, below it the number of distinct left neighbours, three
discounts per order from the counts of counts, and the uniform distribution under the unigrams. N-grams that reach over
a document's beginning have no left neighbour to count; they keep their full counts (Heafield et al. 2013, "Scalable
modified Kneser-Ney language model estimation", section 3).

A symbol is a byte or END (256), which closes a document and also stands for what is before its beginning. An n-gram is
one uint64, nine bits per symbol with the newest lowest, so a table is a sorted array and a look-up a binary search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corestone.core.errors import DataError

ORDER = 5
END = 256
SYMBOLS = 257
BITS = 9
CHUNK = 4_000_000  # n-grams counted at once: bounds memory, whatever the length of the text
MOST_GRAMS = 6_000_000  # distinct 5-grams after which no more text is read: 1.4 GB at the peak

Codes = NDArray[np.uint64]
Reals = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class _Table:
    """One order: what each seen n-gram gets by itself, and what each seen context hands down to the lower order."""

    grams: Codes
    shares: Reals
    contexts: Codes
    hand_down: Reals


class ByteNgram:
    """A fitted 5-gram model of bytes. Make one with `fit`.

    Attributes:
        trained_bytes: how much text was counted.
        complete: whether that was all of it.
    """

    def __init__(self, tables: list[_Table], trained_bytes: int, complete: bool) -> None:
        self._tables = tables
        self.trained_bytes = trained_bytes
        self.complete = complete

    def probabilities(self, contexts: NDArray[np.integer]) -> Reals:
        """The whole distribution after some contexts.

        Args:
            contexts: (n, 4) symbols 0..256, oldest first; a place before the document's beginning is END.

        Returns:
            (n, 257) probabilities; each row sums to one.
        """
        codes = np.zeros(len(contexts), dtype=np.uint64)
        for column in np.asarray(contexts).T:
            codes = codes << np.uint64(BITS) | column.astype(np.uint64)
        grams = (codes << np.uint64(BITS))[:, None] | np.arange(SYMBOLS, dtype=np.uint64)
        return self._probability(grams.ravel()).reshape(len(contexts), SYMBOLS)

    def bits(self, document: bytes) -> Reals:
        """Bits that each byte of a document costs, and last, what its end costs: (len(document) + 1,)."""
        parts = []
        for codes in _document_codes(document):
            distinct, where = np.unique(codes, return_inverse=True)  # sorted queries are also kind to the cache
            parts.append(-np.log2(self._probability(distinct))[where])
        return np.concatenate(parts)

    def _probability(self, grams: Codes) -> Reals:
        """The probability of the last symbol of each 5-gram after its first four."""
        result = np.full(len(grams), 1.0 / SYMBOLS)
        for order, table in enumerate(self._tables, start=1):
            part = grams & np.uint64((1 << BITS * order) - 1)
            shares = _look_up(table.grams, table.shares, part, 0.0)
            hand_down = _look_up(table.contexts, table.hand_down, part >> np.uint64(BITS), 1.0)
            result = shares + hand_down * result
        return result


def fit(documents: Iterable[bytes], max_bytes: int | None = None) -> ByteNgram:
    """Count a text and smooth the counts.

    Memory grows with the number of distinct 5-grams, not with the length of the text; reading stops when there are
    6 million (prose or code has about a million in 32 MB, so that only text close to random gets there).

    Args:
        documents: UTF-8 text (or any bytes) of each document; read no further than needed.
        max_bytes: where to stop reading; the document in which the limit falls is cut there. None: no such limit.

    Raises:
        DataError: there is not one byte to count.
    """
    grams, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    waiting: list[Codes] = []
    trained = held = 0
    complete = True
    for document in documents:
        if max_bytes is not None and len(document) > max_bytes - trained:
            document, complete = document[: max_bytes - trained], False
        for codes in _document_codes(document):
            if len(grams) >= MOST_GRAMS:
                complete = False
                break
            waiting.append(codes)
            held += len(codes)
            trained += len(codes)
            if held >= CHUNK:
                grams, counts = _count(grams, counts, waiting)
                waiting, held = [], 0
        else:
            trained -= 1  # the document's end is counted, but is no byte
        if not complete:
            break
    if trained == 0:
        raise DataError("the 5-gram floor has no training text: the training split is empty; give it at least one byte")
    return ByteNgram(_tables(*_count(grams, counts, waiting)), trained, complete)


def _document_codes(document: bytes) -> Iterator[Codes]:
    """The 5-gram that ends at each byte of a document and at its end, in order, in parts of bounded size."""
    for begin in range(0, len(document) + 1, CHUNK):
        stop = min(begin + CHUNK, len(document) + 1)
        symbols = np.full(stop - begin + ORDER - 1, END, dtype=np.uint64)
        first = max(0, begin - (ORDER - 1))
        seen = np.frombuffer(document[first:stop], dtype=np.uint8)
        offset = first - (begin - (ORDER - 1))
        symbols[offset : offset + len(seen)] = seen
        codes = np.zeros(stop - begin, dtype=np.uint64)
        for place in range(ORDER):
            codes <<= np.uint64(BITS)
            codes |= symbols[place : place + len(codes)]
        yield codes


def _count(grams: Codes, counts: Counts, waiting: list[Codes]) -> tuple[Codes, Counts]:
    """Add further n-grams to a sorted table of counts."""
    if not waiting:
        return grams, counts
    new, new_counts = np.unique(np.concatenate(waiting), return_counts=True)
    if not len(grams):
        return new, new_counts
    merged, where = np.unique(np.concatenate([grams, new]), return_inverse=True)
    # float64 sums of whole numbers are exact here: no count reaches 2**53
    total = np.bincount(where, weights=np.concatenate([counts, new_counts]), minlength=len(merged))
    return merged, total.astype(np.int64)


def _tables(grams: Codes, full: Counts) -> list[_Table]:
    """The tables of orders 1 to 5 from the 5-grams and how often each occurred."""
    tables = [_smooth(grams, full)]
    for order in range(ORDER - 1, 0, -1):
        suffixes = grams & np.uint64((1 << BITS * order) - 1)
        grams, where, neighbours = np.unique(suffixes, return_inverse=True, return_counts=True)
        full = np.bincount(where, weights=full, minlength=len(grams)).astype(np.int64)
        at_beginning = (order > 1) & (grams >> np.uint64(BITS * (order - 1)) == END)
        tables.append(_smooth(grams, np.where(at_beginning, full, neighbours)))
    return tables[::-1]


def _smooth(grams: Codes, counts: Counts) -> _Table:
    """Discount the counts of one order; what is taken off a context goes to the lower order."""
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    prefixes = grams >> np.uint64(BITS)
    starts = np.flatnonzero(np.concatenate([[True], prefixes[1:] != prefixes[:-1]]))
    sizes = np.diff(np.append(starts, len(grams)))
    totals = np.add.reduceat(counts, starts).astype(np.float64)
    shares = (counts - discounts) / np.repeat(totals, sizes)
    return _Table(grams, shares, prefixes[starts], np.add.reduceat(discounts, starts) / totals)


def _discounts(counts: Counts) -> Reals:
    """What is taken off counts of 0, 1, 2 and 3 or more (Chen and Goodman 1999, equation 26).

    Where the formula is undefined or leaves its range (tiny text, or a low order in which everything is frequent) the
    customary 0.5, 1, 1.5 are taken.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3) > 0:
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < discount <= k for k, discount in enumerate(found, start=1)):
            return np.array([0.0, *found])
    return np.array([0.0, 0.5, 1.0, 1.5])


def _look_up(keys: Codes, values: Reals, wanted: Codes, absent: float) -> Reals:
    """The value beside each wanted key of a sorted table, or `absent`."""
    where = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[where] == wanted, values[where], absent)
