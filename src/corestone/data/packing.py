"""From a stream of tokens to rows of training samples: cut, shifted, and split at document boundaries.

Sample i of a set takes tokens [i * T, (i + 1) * T) of its stream as inputs and those one further as targets. Since a
separator stands before every document and at the very end, every input has a target.

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.errors import DataError
from corestone.core.mask import Mask
from corestone.data.mixture import Mixture
from corestone.data.permutation import Integers
from corestone.data.spec import Data

Bounds = tuple[Integers, Integers]
Ids = npt.NDArray[np.integer]  # in the type of the files, or int64


class Tokens(Protocol):
    """What packing needs of a prepared split; `corestone.data.tokens.TokenSet` is one.

    `starts` (n_documents + 1,) holds the place of each document's separator and, last, of the closing separator.
    """

    @property
    def n_tokens(self) -> int: ...

    @property
    def n_documents(self) -> int: ...

    @property
    def starts(self) -> Integers: ...

    @property
    def shards(self) -> Sequence[Ids]: ...

    def slice(self, start: int, stop: int) -> npt.NDArray[np.int64]: ...

    def document_id(self, i: int) -> str: ...


def sample_count(token_set: Tokens, context_length: int) -> int:
    """Whole samples in a set. Raises DataError where there is none."""
    count = (token_set.n_tokens - 1) // context_length
    if count < 1:
        raise DataError(
            f"prepared set with {token_set.n_tokens:,} tokens: too short for one sample of {context_length:,} tokens "
            "and its target; give it more text or lower data.context_length"
        )
    return count


def draw_order(token_sets: Sequence[Tokens], spec: Data, seed: int) -> Mixture:
    """The order in which a run draws the samples of its sets, one set per component of the recipe.

    Raises DataError where a set holds no sample or the numbers of sets and components differ.
    """
    if len(token_sets) != len(spec.components):
        raise DataError(f"{len(token_sets)} prepared sets for {len(spec.components)} data.components; prepare them all")
    sizes = [sample_count(token_set, spec.context_length) for token_set in token_sets]
    return Mixture(sizes, [component.weight for component in spec.components], seed)


def unused_tokens(token_set: Tokens, context_length: int) -> int:
    """Inputs at the end of the stream that fill no sample (always fewer than the context length)."""
    return (token_set.n_tokens - 1) % context_length


def inner_starts(token_set: Tokens, begins: Integers, context_length: int) -> Bounds:
    """For samples that begin at these tokens, the range [low, high) of documents that start strictly inside each."""
    low = np.searchsorted(token_set.starts, begins, side="right")
    high = np.searchsorted(token_set.starts, begins + context_length, side="left")
    return low, high


def inner_places(token_set: Tokens, begins: Integers, bounds: Bounds, rows: Integers, context_length: int) -> Integers:
    """Where documents start strictly inside samples, as row * context_length + column of the batch.

    Args:
        token_set: the set that the samples come from.
        begins: first token of each sample.
        bounds: what `inner_starts` gives for them.
        rows: the batch's row that holds each sample.
        context_length: tokens per sample.
    """
    low, high = bounds
    counts = high - low
    before = np.cumsum(counts) - counts
    documents = np.arange(counts.sum()) + np.repeat(low - before, counts)
    places: Integers = token_set.starts[documents] + np.repeat(rows * context_length - begins, counts)
    return places


def segments_and_positions(inner: Integers, B: int, T: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Segment ids (B, T) int32, counted from 0 in each row, and positions (B, T) int64 that restart at each segment.

    Args:
        inner: row * T + column of each document start strictly inside a row, in any order.
    """
    begins = np.sort(np.concatenate([np.arange(B) * T, inner]))
    first_of_row = np.searchsorted(begins, np.arange(B) * T)
    numbers = np.arange(len(begins)) - first_of_row[begins // T]
    lengths = np.diff(begins, append=B * T)
    segments = np.repeat(numbers.astype(np.int32), lengths).reshape(B, T)
    positions = np.repeat(begins, lengths)
    np.subtract(np.arange(B * T), positions, out=positions)
    return torch.from_numpy(segments), torch.from_numpy(positions.reshape(B, T))


def pack(windows: Ids, inner: Integers | None) -> TextBatch:
    """A batch out of windows of T + 1 tokens.

    Args:
        windows: (B, T + 1) ids; the first T are inputs, the last T targets.
        inner: row * T + column of each document start strictly inside a row, to keep documents apart; None where
            attention and positions run through the whole row.
    """
    B, T = windows.shape[0], windows.shape[1] - 1
    if inner is None:
        positions, mask = torch.arange(T).expand(B, T), Mask()
    else:
        segments, positions = segments_and_positions(inner, B, T)
        mask = Mask(segments_BT=segments)
    return TextBatch(
        tokens_BT=torch.from_numpy(windows[:, :-1].astype(np.int64)),
        targets_BT=torch.from_numpy(windows[:, 1:].astype(np.int64)),
        positions_BT=positions,
        mask=mask,
    )


class Windows:
    """Reads windows of one length out of a stream that lies in several arrays, many at a time.

    Args:
        shards: the stream's parts in order, such as memory-mapped files.
        length: tokens per window.
    """

    def __init__(self, shards: Sequence[Ids], length: int) -> None:
        self._length = length
        # Plain views of the mapped files: indexing a memmap object itself costs a Python call per access.
        self._shards: list[Ids] = [shard.view(np.ndarray) for shard in shards]
        self._ends: Integers = np.cumsum([len(shard) for shard in shards])
        self._views: list[Ids | None] = [
            sliding_window_view(shard, length) if len(shard) >= length else None for shard in self._shards
        ]

    def read(self, begins: Integers) -> Ids:
        """The windows that begin at these tokens, (len(begins), length) in the type of the files."""
        only = self._views[0]
        if len(self._shards) == 1 and only is not None:
            found: Ids = only[begins]
            return found
        first = np.searchsorted(self._ends, begins, side="right")
        whole = begins + self._length <= self._ends[first]
        out = np.empty((len(begins), self._length), dtype=self._shards[0].dtype)
        for number in np.unique(first[whole]):
            view, mine = self._views[number], np.flatnonzero(whole & (first == number))
            assert view is not None  # a window that lies inside a shard means the shard is long enough
            out[mine] = view[begins[mine] - (self._ends[number] - len(self._shards[number]))]
        for row in np.flatnonzero(~whole):
            out[row] = self._across(int(begins[row]), int(first[row]))
        return out

    def _across(self, begin: int, shard: int) -> Ids:
        parts, missing = [], self._length
        start = begin - (int(self._ends[shard]) - len(self._shards[shard]))
        while missing > 0:
            parts.append(self._shards[shard][start : start + missing])
            missing -= len(parts[-1])
            shard, start = shard + 1, 0
        return np.concatenate(parts)


def evaluation_batches(
    token_set: Tokens, context_length: int, batch_size: int, keep_documents_apart: bool
) -> Iterator[TextBatch]:
    """A whole split in order, in batches of one shape: every token but the first separator is a target exactly once.

    The windows do not depend on the batch size. The last window is filled up with separators, and the last batch with
    rows of separators; what fills up has the target IGNORE and, where documents are kept apart, a segment of its own.

    Raises:
        DataError: the split is empty.
    """
    T, n_inputs = context_length, token_set.n_tokens - 1
    if n_inputs < 1:
        raise DataError("prepared set without text: there is nothing to evaluate; give the split more text")
    # One choice for the whole split, so that a row meets the same kernel whatever batch it is in.
    apart = keep_documents_apart and token_set.n_documents > 1
    separator = int(token_set.slice(0, 1)[0])
    for first in range(0, n_inputs, batch_size * T):
        begins = first + T * np.arange(batch_size)
        here = int(min(batch_size * T, n_inputs - first))
        stream = token_set.slice(first, first + here + 1)
        tokens = np.full(batch_size * T, separator, dtype=np.int64)
        targets = np.full(batch_size * T, IGNORE, dtype=np.int64)
        tokens[:here], targets[:here] = stream[:-1], stream[1:]
        if apart:
            bounds = inner_starts(token_set, begins, T)
            inner = inner_places(token_set, begins, bounds, np.arange(batch_size), T)
            segments, positions = segments_and_positions(inner, batch_size, T)
            mask = Mask(segments_BT=segments)
        else:
            positions, mask = torch.arange(T).expand(batch_size, T), Mask()
        shape = (batch_size, T)
        yield TextBatch(
            tokens_BT=torch.from_numpy(tokens).reshape(shape),
            targets_BT=torch.from_numpy(targets).reshape(shape),
            positions_BT=positions,
            mask=mask,
        )
