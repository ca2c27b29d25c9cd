"""The ledger's two answers agree with each other and with the batches that were really made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import Stream, data

from corestone.core.errors import DataError
from corestone.data.ledger import documents_of_step, steps_of_document
from corestone.data.loader import TextLoader

WEIGHTS = (1.0, 3.0)


def streams(mixed: bool) -> list[Stream]:
    first = Stream([3, 1, 30, 2, 2, 9, 55, 1, 1, 18, 7, 64, 5], "play", shard_tokens=50)
    return [first, Stream([40, 3, 90, 11], "chat", seed=1)] if mixed else [first]


@settings(deadline=None, max_examples=12)
@given(
    T=st.integers(2, 20),
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    until=st.integers(0, 120),
    mixed=st.booleans(),
)
def test_both_ways_agree_over_several_epochs(T: int, batch_size: int, seed: int, until: int, mixed: bool) -> None:
    sets, spec = streams(mixed), data(T, WEIGHTS if mixed else (1.0,))
    by_scan: dict[str, set[int]] = {one.document_id(i): set() for one in sets for i in range(one.n_documents)}
    for step in range(until):
        for seen in documents_of_step(sets, spec, seed, batch_size, step):
            by_scan[seen.document].add(step)
    for document, steps in by_scan.items():
        assert steps_of_document(sets, spec, seed, batch_size, document, until) == sorted(steps)


@settings(deadline=None, max_examples=25)
@given(T=st.integers(2, 20), batch_size=st.integers(1, 6), seed=st.integers(0, 99), step=st.integers(0, 500))
def test_the_token_ranges_are_the_inputs_of_the_batch(T: int, batch_size: int, seed: int, step: int) -> None:
    sets, spec = streams(True), data(T, WEIGHTS)
    seen = documents_of_step(sets, spec, seed, batch_size, step)
    inputs = np.concatenate([sets[part.component].slice(part.start, part.stop) for part in seen])
    assert np.array_equal(inputs, TextLoader(sets, spec, seed, batch_size).batch(step).tokens_BT.numpy().reshape(-1))
    for part in seen:
        number = int(part.document.split("-")[1])
        starts = sets[part.component].starts
        assert starts[number] <= part.start < part.stop <= starts[number + 1]


def test_a_document_in_the_unused_tail_was_never_seen() -> None:
    stream = Stream([64, 5])
    assert steps_of_document([stream], data(64), 0, 1, "doc-1", 50) == []
    assert steps_of_document([stream], data(64), 0, 1, "doc-0", 5) == [0, 1, 2, 3, 4]


def test_the_inverse_does_not_scan_the_steps() -> None:
    """A billion steps of a large set: a scan could not end, the inverse answers for the few epochs there are."""
    stream = Stream([1000] * 1000)
    spec = data(100)
    steps = steps_of_document([stream], spec, 0, 1, "doc-500", 30_000)
    assert len(steps) == 30  # 10 samples of 10,000 in each of three epochs
    assert [sum(epoch * 10_000 <= step < (epoch + 1) * 10_000 for step in steps) for epoch in range(3)] == [10] * 3


def test_an_unknown_document_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"unknown document 'plya-11': did you mean 'play-11'\? .* hold 17 documents"):
        steps_of_document(streams(True), data(8, WEIGHTS), 0, 4, "plya-11", 10)
