"""Windows, segments, positions and the evaluation view equal what a token-by-token loop gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import SEPARATOR, Stream, data

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.errors import DataError
from corestone.data.packing import (
    Windows,
    draw_order,
    evaluation_batches,
    sample_count,
    segments_and_positions,
    unused_tokens,
)

lengths = st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=25)


@given(lengths=lengths, shard_tokens=st.integers(1, 60), length=st.integers(1, 50), picks=st.lists(st.integers(0, 999)))
def test_windows_are_read_across_any_shards(
    lengths: list[int], shard_tokens: int, length: int, picks: list[int]
) -> None:
    stream = Stream(lengths, shard_tokens=shard_tokens)
    length = min(length, stream.n_tokens)
    begins = np.array([pick % (stream.n_tokens - length + 1) for pick in picks], dtype=np.int64)
    found = Windows(stream.shards, length).read(begins)
    expected = np.array([stream.tokens[begin : begin + length] for begin in begins]).reshape(-1, length)
    assert np.array_equal(found, expected)


@given(B=st.integers(1, 5), T=st.integers(1, 12), data=st.data())
def test_segments_count_up_and_positions_restart(B: int, T: int, data: st.DataObject) -> None:
    all_inside = [row * T + column for row in range(B) for column in range(1, T)]
    inner = data.draw(st.lists(st.sampled_from(all_inside), unique=True)) if all_inside else []
    segments, positions = segments_and_positions(np.array(inner, dtype=np.int64), B, T)
    assert segments.dtype == torch.int32
    assert positions.dtype == torch.int64
    for row in range(B):
        segment = position = 0
        for column in range(T):
            if row * T + column in inner:
                segment, position = segment + 1, 0
            assert (segments[row, column], positions[row, column]) == (segment, position)
            position += 1


def rows_of(batches: list[TextBatch]) -> list[tuple[list[int], ...]]:
    """Every row as lists, and without the rows that only fill up the last batch."""
    rows = []
    for batch in batches:
        segments = batch.mask.segments_BT
        for row in range(len(batch)):
            parts = (batch.tokens_BT[row], batch.targets_BT[row], batch.positions_BT[row])
            parts += () if segments is None else (segments[row],)
            rows.append(tuple(part.tolist() for part in parts))
    return [row for row in rows if set(row[1]) != {IGNORE}]


@settings(deadline=None)
@given(lengths=lengths, T=st.integers(2, 30), batch_size=st.integers(1, 7), apart=st.booleans())
def test_evaluation_covers_each_token_once_whatever_the_batch_size(
    lengths: list[int], T: int, batch_size: int, apart: bool
) -> None:
    stream = Stream(lengths, shard_tokens=17)
    batches = list(evaluation_batches(stream, T, batch_size, apart))
    assert {tuple(batch.tokens_BT.shape) for batch in batches} == {(batch_size, T)}
    targets = torch.cat([batch.targets_BT.reshape(-1) for batch in batches])
    inputs = torch.cat([batch.tokens_BT.reshape(-1) for batch in batches])
    assert targets[targets != IGNORE].tolist() == stream.tokens[1:].tolist()
    assert inputs[targets != IGNORE].tolist() == stream.tokens[:-1].tolist()
    assert set(inputs[targets == IGNORE].tolist()) <= {SEPARATOR}
    assert rows_of(batches) == rows_of(list(evaluation_batches(stream, T, 1, apart)))


@settings(deadline=None)
@given(lengths=lengths, T=st.integers(2, 30), batch_size=st.integers(1, 7))
def test_evaluation_keeps_documents_and_padding_apart(lengths: list[int], T: int, batch_size: int) -> None:
    stream = Stream(lengths)
    document_of = np.searchsorted(stream.starts, np.arange(stream.n_tokens), side="right") - 1
    place = 0
    for batch in evaluation_batches(stream, T, batch_size, True):
        segments = batch.mask.segments_BT
        if len(lengths) == 1:
            assert segments is None
            continue
        assert segments is not None
        for row in range(batch_size):
            documents = document_of[place : place + T].tolist()
            documents[stream.n_tokens - 1 - place if place < stream.n_tokens else 0 :] = []
            documents += [len(lengths)] * (T - len(documents))  # what fills up counts as one more document
            first = {document: column for column, document in reversed(list(enumerate(documents)))}
            order = list(dict.fromkeys(documents))
            assert segments[row].tolist() == [order.index(document) for document in documents]
            assert batch.positions_BT[row].tolist() == [column - first[d] for column, d in enumerate(documents)]
            place += T


def test_without_documents_apart_positions_run_through() -> None:
    for batch in evaluation_batches(Stream([5, 9, 30]), 8, 3, False):
        assert batch.mask.segments_BT is None
        assert batch.positions_BT.tolist() == [list(range(8))] * 3


def test_samples_and_the_tail_add_up_to_the_stream() -> None:
    stream = Stream([10, 20, 3])  # 33 inputs and the closing separator
    assert (sample_count(stream, 10), unused_tokens(stream, 10)) == (3, 3)
    assert (sample_count(stream, 33), unused_tokens(stream, 33)) == (1, 0)
    with pytest.raises(DataError, match=r"34 tokens: too short for one sample of 34 .* lower data.context_length"):
        sample_count(stream, 34)


def test_what_cannot_be_drawn_or_evaluated_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 prepared sets for 2 data.components"):
        draw_order([Stream([50])], data(8, (1, 1)), 0)
    empty = Stream([1])
    empty.n_tokens, empty.tokens = 1, empty.tokens[:1]
    with pytest.raises(DataError, match="nothing to evaluate"):
        next(evaluation_batches(empty, 8, 2, True))
