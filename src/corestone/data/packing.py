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

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.errors import DataError
from corestone.core.mask import Mask
from corestone.data.permutation import Integers

_Bounds = tuple[Integers, Integers]


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


def unused_tokens(token_set: Tokens, context_length: int) -> int:
    """Inputs at the end of the stream that fill no sample (always fewer than the context length)."""
    return (token_set.n_tokens - 1) % context_length


def boundaries(token_set: Tokens, begins: Integers, context_length: int) -> _Bounds:
    """For samples that begin at these tokens, the range [low, high) of documents that start strictly inside each."""
    low = np.searchsorted(token_set.starts, begins, side="right")
    high = np.searchsorted(token_set.starts, begins + context_length, side="left")
    return low, high


def read_windows(token_set: Tokens, begins: Integers, length: int, out: npt.NDArray[np.int64]) -> None:
    """Copy the tokens [begin, begin + length) of each begin into the rows of `out`."""
    for row, begin in enumerate(begins.tolist()):
        out[row] = token_set.slice(begin, begin + length)


def segment_rows(inner: Sequence[Integers], context_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Segment ids (B, T) int32 and positions (B, T) int64 of rows whose documents start at these columns.

    Args:
        inner: per row, the columns strictly inside it (ascending) at which a document starts.
    """
    B, T = len(inner), context_length
    counts = np.array([len(columns) + 1 for columns in inner], dtype=np.int64)
    firsts = np.cumsum(counts) - counts  # each row's first segment in the flat list of all segments
    begins = np.empty(int(counts.sum()), dtype=np.int64)
    is_first = np.zeros(len(begins), dtype=bool)
    is_first[firsts] = True
    begins[is_first] = np.arange(B) * T
    if len(begins) > B:
        begins[~is_first] = np.concatenate(list(inner)) + np.repeat(np.arange(B) * T, counts - 1)
    lengths = np.diff(begins, append=B * T)
    numbers = (np.arange(len(begins)) - np.repeat(firsts, counts)).astype(np.int32)
    segments = np.repeat(numbers, lengths).reshape(B, T)
    positions = (np.arange(B * T) - np.repeat(begins, lengths)).reshape(B, T)
    return torch.from_numpy(segments), torch.from_numpy(positions)


def pack(windows: npt.NDArray[np.int64], inner: Sequence[Integers] | None) -> TextBatch:
    """A batch out of windows of T + 1 tokens.

    Args:
        windows: (B, T + 1) ids; the first T are inputs, the last T targets.
        inner: per row, the columns at which further documents start, to keep documents apart; None where attention
            and positions run through the whole row.
    """
    B, T = windows.shape[0], windows.shape[1] - 1
    whole = torch.from_numpy(windows)
    tokens, targets = whole[:, :-1].contiguous(), whole[:, 1:].contiguous()
    if inner is None:
        return TextBatch(tokens_BT=tokens, targets_BT=targets, positions_BT=torch.arange(T).expand(B, T), mask=Mask())
    segments, positions = segment_rows(inner, T)
    return TextBatch(tokens_BT=tokens, targets_BT=targets, positions_BT=positions, mask=Mask(segments_BT=segments))


def inner_columns(token_set: Tokens, begins: Integers, bounds: _Bounds) -> list[Integers]:
    """Per row, the columns strictly inside it at which a document starts."""
    starts = token_set.starts
    rows = zip(begins.tolist(), bounds[0].tolist(), bounds[1].tolist(), strict=True)
    return [starts[low:high] - begin for begin, low, high in rows]


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
            columns = inner_columns(token_set, begins, boundaries(token_set, begins, T))
            segments, positions = segment_rows(columns, T)
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
